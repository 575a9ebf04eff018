//! What holds while a store, a control plane or the network between them fails: three control planes, four proxies,
//! real load.
//!
//! A store whose server is not installed is listed as ignored, with the reason in its name.

mod churn;
mod faults;

use libtest_mimic::{Arguments, Trial};
use waypost_tests::servers::{self, Server};

/// A server to keep the registry in.
struct Kind {
    name: &'static str,
    /// What must be installed.
    program: &'static str,
    start: fn() -> (Server, std::net::SocketAddr),
    url: fn(std::net::SocketAddr) -> String,
}

const KINDS: &[Kind] = &[];

fn main() {
    let arguments = Arguments::from_args();
    let trials = KINDS.iter().map(|kind| {
        let promise = "nothing is lost while it fails, control planes die, or one is cut off";
        match servers::find(kind.program) {
            None => {
                let name = format!("{}: skipped: {} is not installed", kind.name, kind.program);
                Trial::test(name, || Ok(())).with_ignored_flag(true)
            }
            Some(_) => Trial::test(format!("{}: {promise}", kind.name), || {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                runtime.block_on(faults::nothing_is_lost(kind));
                Ok(())
            }),
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
