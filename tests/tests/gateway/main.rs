//! The Gateway API's behaviours through real programs: a control plane and a proxy for each case, services behind them.
//!
//! Each [`case::Case`] is one behaviour in the specification's words; together they are the table of what is supported
//! (`control-plane/src/gateway/SUPPORT.md`, see [`supported`]). A scene serves one case at a time, and is taken back to
//! its start in between; where a case fails, its scene ends with it and prints what the programs logged. [`clients`] are
//! the same with programs that others wrote.

mod backend_tls;
mod case;
mod certificates;
mod clients;
mod gateway;
mod grants;
mod grpc;
mod http;
mod supported;
mod traffic;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use waypost_tests::gateway::Scene;

use crate::case::Case;

/// The cases of each resource.
const RESOURCES: &[(&str, &[&[Case]])] = &[
    ("Gateway", gateway::CASES),
    ("HTTPRoute", http::CASES),
    ("GRPCRoute", grpc::CASES),
    ("ReferenceGrant", grants::CASES),
    ("BackendTLSPolicy", backend_tls::CASES),
    ("BackendTrafficPolicy", traffic::CASES),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let stage: &'static Stage = Box::leak(Box::new(Stage { runtime, idle: Mutex::default() }));
    let mut trials = vec![Trial::test(supported::PROMISE, || supported::check(RESOURCES))];
    for (resource, groups) in RESOURCES {
        for case in groups.iter().copied().flatten() {
            let name = format!("{resource}: {}: {}", case.feature, case.says);
            trials.push(Trial::test(name, move || stage.show(case)));
        }
    }
    for foreign in clients::ALL {
        for case in foreign.cases {
            let trial = match (foreign.missing)() {
                None => Trial::test(format!("{}: {}", case.feature, case.says), move || stage.show(case)),
                Some(why) => {
                    let name = format!("{}: {}: skipped: {why}", foreign.name, case.says);
                    Trial::test(name, || Ok(())).with_ignored_flag(true)
                }
            };
            trials.push(trial);
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    stage.close();
    conclusion.exit_code()
}

/// Where cases are shown.
struct Stage {
    runtime: Runtime,
    /// Scenes that have nothing declared.
    idle: Mutex<Vec<Scene>>,
}

impl Stage {
    /// Shows a case in a scene of its own.
    fn show(&self, case: &Case) -> Result<(), Failed> {
        let _entered = self.runtime.enter();
        let idle = self.idle.lock().pop();
        // Dropped where the case panics, so that the programs' logs are printed.
        let scene = idle.unwrap_or_else(|| self.runtime.block_on(Scene::start()));
        self.runtime.block_on((case.run)(&scene));
        self.runtime.block_on(scene.clear());
        self.idle.lock().push(scene);
        Ok(())
    }

    /// Ends all programs.
    fn close(&self) {
        let _entered = self.runtime.enter();
        self.idle.lock().clear();
    }
}
