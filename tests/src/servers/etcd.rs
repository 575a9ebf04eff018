//! etcd: one member, or several that form a cluster.
//!
//! Health is asked for on a port of its own, so that it can be asked for where clients need a certificate.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{Server, find, free_port, listens};

/// How long a cluster may take to elect a leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// A member of an etcd cluster, maybe the only one.
pub struct Etcd {
    /// The process.
    pub server: Server,
    /// Where clients connect to.
    pub port: u16,
    health: u16,
    /// How `etcdctl` reaches it.
    client: Vec<String>,
}

/// Certificates for TLS with client certificates, PEM files.
#[derive(Clone)]
pub struct Certificates {
    /// The authority.
    pub authority: PathBuf,
    /// The server's certificate, and its key.
    pub server: (PathBuf, PathBuf),
    /// A client's certificate, and its key.
    pub client: (PathBuf, PathBuf),
}

/// Whether etcd and its command line client are installed.
pub fn installed() -> bool {
    find("etcd").is_some() && find("etcdctl").is_some()
}

impl Etcd {
    /// Starts a single member with an empty database.
    ///
    /// # Panics
    /// It is not installed, or does not come up.
    pub fn start(certificates: Option<&Certificates>, options: &[&str]) -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let mut member = Self::member("only", ports, &[("only", ports[1])], certificates, options);
        member.await_health();
        member
    }

    /// Starts three members that form a cluster.
    ///
    /// # Panics
    /// As [`Etcd::start`].
    pub fn cluster() -> [Self; 3] {
        let ports = [(); 3].map(|()| [free_port(), free_port(), free_port()]);
        let names = ["a", "b", "c"];
        let peers: Vec<(&str, u16)> = names.into_iter().zip(ports.map(|[_, peer, _]| peer)).collect();
        let mut members = [0, 1, 2].map(|at| Self::member(names[at], ports[at], &peers, None, &[]));
        members.iter_mut().for_each(Self::await_health);
        members
    }

    fn member(
        name: &str,
        [port, peer, health]: [u16; 3],
        peers: &[(&str, u16)],
        certificates: Option<&Certificates>,
        options: &[&str],
    ) -> Self {
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}");
        let peer_url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            peers.iter().map(|(name, port)| format!("{name}={}", peer_url(*port))).collect();
        let mut arguments = vec![
            format!("--name={name}"),
            "--data-dir={dir}/data".to_owned(),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={}", peer_url(peer)),
            format!("--initial-advertise-peer-urls={}", peer_url(peer)),
            format!("--initial-cluster={}", cluster.join(",")),
            format!("--listen-metrics-urls={}", peer_url(health)),
            "--log-level=warn".to_owned(),
        ];
        let mut client = vec![format!("--endpoints={url}")];
        if let Some(Certificates { authority, server, client: (certificate, key) }) = certificates {
            let path = |path: &Path| path.display().to_string();
            arguments.extend([
                format!("--cert-file={}", path(&server.0)),
                format!("--key-file={}", path(&server.1)),
                format!("--trusted-ca-file={}", path(authority)),
                "--client-cert-auth".to_owned(),
            ]);
            client.extend([
                format!("--cacert={}", path(authority)),
                format!("--cert={}", path(certificate)),
                format!("--key={}", path(key)),
            ]);
        }
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let program = find("etcd").expect("etcd is installed");
        // A member of a cluster serves clients only once there is a leader.
        let server = Server::start(&program, &arguments, move || listens(peer));
        Self { server, port, health, client }
    }

    /// Starts it again after it was killed, and waits until it serves.
    pub fn start_again(&mut self) {
        self.server.start_again();
        self.await_health();
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// It does not in time.
    pub fn await_health(&mut self) {
        let begun = Instant::now();
        while !is_healthy(self.health) {
            assert!(begun.elapsed() < PATIENCE, "etcd on port {} does not serve", self.port);
            std::thread::yield_now();
        }
    }

    /// Runs `etcdctl` against it and answers what it printed.
    ///
    /// # Panics
    /// It fails.
    pub fn control(&self, arguments: &[&str]) -> String {
        let program = find("etcdctl").expect("etcdctl is installed");
        let output = Command::new(program)
            .env("ETCDCTL_API", "3")
            .args(&self.client)
            .args(arguments)
            .output()
            .expect("etcdctl runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether it is the leader of its cluster.
    pub fn leads(&self) -> bool {
        let status = self.control(&["endpoint", "status"]);
        // endpoint, id, version, size, is leader, …
        status.split(", ").nth(4) == Some("true")
    }
}

fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
}
