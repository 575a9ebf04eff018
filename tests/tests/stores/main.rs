//! What holds while a store, a control plane or the network between them fails: three control planes, four proxies,
//! real load.
//!
//! A store whose server is not installed is listed as ignored, with the reason in its name.

mod churn;
mod faults;

use std::{net::SocketAddr, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use waypost_tests::servers::{self, Server, consul::Consul, etcd::Etcd, redis::Redis};

/// A server to keep the registry in.
struct Kind {
    name: &'static str,
    /// Why it cannot run here, if it cannot.
    missing: fn() -> Option<&'static str>,
    /// Starts it, so that nothing that it has acknowledged is lost with it.
    start: fn() -> (Server, u16),
    url: fn(SocketAddr) -> String,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "redis",
        missing: servers::redis::missing,
        start: || {
            let redis = Redis::start(&[]);
            (redis.server, redis.port)
        },
        url: |address| format!("redis://{address}"),
    },
    Kind {
        name: "etcd",
        missing: || (!servers::etcd::installed()).then_some("etcd-server and etcd-client are not installed"),
        start: || {
            let etcd = Etcd::start(None, &[]);
            (etcd.server, etcd.port)
        },
        url: |address| format!("etcd://{address}"),
    },
    Kind {
        name: "consul",
        missing: || servers::consul::program().is_none().then_some("consul is not installed"),
        start: || {
            let consul = Consul::start("");
            (consul.server, consul.port)
        },
        url: |address| format!("consul://{address}"),
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = KINDS.iter().map(|kind| {
        if let Some(why) = (kind.missing)() {
            let name = format!("{}: skipped: {why}: run tests/setup.sh --servers", kind.name);
            return Trial::test(name, || Ok(())).with_ignored_flag(true);
        }
        let promise = "nothing is lost while it fails, control planes die, or one is cut off";
        Trial::test(format!("{}: {promise}", kind.name), || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(faults::nothing_is_lost(kind));
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
