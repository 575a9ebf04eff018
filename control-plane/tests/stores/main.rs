//! Every store against the real server: the conformance suite, the comparison with a plain map, and what is special
//! about each.
//!
//! A store whose server is not installed is listed as ignored, with the reason in its name.

#[cfg(feature = "consul")]
mod consul;
mod custom;
mod durable;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(all(feature = "redis", feature = "etcd", feature = "consul"))]
mod histories;
mod history;
mod memory;
mod plugin;
#[cfg(feature = "redis")]
mod redis;
#[allow(unreachable_pub, dead_code)] // it is the library of the end-to-end tests, too
#[path = "../../../tests/src/servers.rs"]
mod servers;
mod yours;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Trial};
use waypost_control_plane::store::conformance::{self, Fixture};

/// Makes an empty store. What it holds on to (a server) lives as long as the fixture is used.
type Open = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Opened> + Send>> + Send + Sync>;

/// A store, and what must stay alive for it.
struct Opened {
    fixture: Fixture,
    _holds: Box<dyn Send>,
}

/// The leases of the conformance suite, which a process that stands still for less does not lose.
const LEASE: Duration = Duration::from_secs(4);

/// How many random histories a store is compared with the model over, and how long each is.
#[derive(Clone, Copy)]
struct Histories {
    count: u64,
    steps: usize,
}

fn main() -> ExitCode {
    if let Some(exit) = durable::child() {
        return exit;
    }
    let mut arguments = Arguments::from_args();
    // Most of their time they wait for leases to lapse.
    arguments.test_threads.get_or_insert(4);
    let mut trials = Vec::new();
    trials.push(trial("histories", "the checker notices what is wrong", async || {
        history::the_checker_notices_what_is_wrong();
    }));
    trials.extend(memory::trials());
    trials.extend(durable::trials());
    #[cfg(feature = "etcd")]
    trials.extend(etcd::trials());
    #[cfg(feature = "consul")]
    trials.extend(consul::trials());
    #[cfg(feature = "redis")]
    trials.extend(redis::trials());
    #[cfg(all(feature = "redis", feature = "etcd", feature = "consul"))]
    trials.extend(histories::trials());
    trials.extend(plugin::trials());
    trials.extend(custom::trials());
    trials.extend(yours::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The conformance suite and the comparison with the model.
fn every_promise(store: &str, open: &Open, histories: Histories) -> Vec<Trial> {
    let mut trials: Vec<Trial> = conformance::CASES
        .iter()
        .map(|case| {
            let open = open.clone();
            trial(store, case.name, async move || conformance::run(case, &open().await.fixture).await)
        })
        .collect();
    let open = open.clone();
    trials.push(trial(store, "it is a plain map", async move || {
        for seed in 0..histories.count {
            conformance::model::compare(&open().await.fixture, seed, histories.steps).await;
        }
    }));
    trials
}

/// A test with a runtime of its own.
fn trial<F, R>(store: &str, name: &str, test: F) -> Trial
where
    F: FnOnce() -> R + Send + 'static,
    R: Future<Output = ()>,
{
    Trial::test(format!("{store}: {name}"), move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test());
        Ok(())
    })
}

/// Stands for a store's tests where its server is missing.
fn skipped(store: &str, why: &str) -> Trial {
    Trial::test(format!("{store}: skipped: {why}"), || Ok(())).with_ignored_flag(true)
}
