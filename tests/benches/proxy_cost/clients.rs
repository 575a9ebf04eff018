//! The load generators: wrk for HTTP/1.1, h2load for HTTP/2.

use std::{process::Command, time::Duration};

use waypost_tests::measure::{find, h2load_result, wrk_result};

use super::Workload;

/// Connections of wrk.
const CONNECTIONS: &str = "32";
/// Connections of h2load, and streams on each at a time.
const CONNECTIONS_2: &str = "8";
const STREAMS: &str = "8";

/// The programs.
pub(crate) struct Clients {
    wrk: String,
    h2load: Option<String>,
    core: String,
    body: tempfile::NamedTempFile,
}

/// What came of a run.
pub(crate) struct Sent {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) text: String,
}

impl Clients {
    /// The programs, to be run on this core; `None` without wrk.
    pub(crate) fn find(core: usize) -> Option<Self> {
        let body = tempfile::NamedTempFile::new().expect("a temporary file");
        // A gRPC message: not compressed, 59 bytes long.
        let message = [&[0, 0, 0, 0, 59][..], &[b'x'; 59]].concat();
        std::fs::write(body.path(), message).expect("it is written");
        Some(Self { wrk: find("wrk")?, h2load: find("h2load"), core: core.to_string(), body })
    }

    /// Whether there is a client for it.
    pub(crate) fn can(&self, workload: Workload) -> bool {
        self.h2load.is_some() || !matches!(workload, Workload::H2c | Workload::Grpc)
    }

    /// Asks as often as it gets answers.
    pub(crate) fn send(&self, workload: Workload, url: &str, period: Duration) -> Sent {
        let seconds = period.as_secs().to_string();
        let h2load = self.h2load.as_deref().unwrap_or_default();
        let body = self.body.path().to_string_lossy();
        let http2 = [h2load, "-t1", "-c", CONNECTIONS_2, "-m", STREAMS, "-D", &seconds];
        let grpc = ["-d", &*body, "-H", "content-type: application/grpc", "-H", "te: trailers"];
        let (arguments, is_wrk) = match workload {
            Workload::Http1 | Workload::Apart | Workload::Tls | Workload::Large => {
                ([&*self.wrk, "-t1", "-c", CONNECTIONS, "-d", &seconds].to_vec(), true)
            }
            Workload::H2c => (http2.to_vec(), false),
            Workload::Grpc => ([&http2[..], &grpc].concat(), false),
        };
        let mut command = Command::new("taskset");
        command.args(["-c", &self.core]).args(arguments).arg(url);
        let output = command.output().expect("the client can be started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (requests, failures) = if is_wrk { wrk_result(&text) } else { h2load_result(&text) };
        Sent { requests, failures, text }
    }
}
