//! schemathesis reads `/openapi.json` and asks for all that is there, well and badly: no answer may be a defect, and none
//! one that the document does not name.
//!
//! `/v1/watch` is left out: it does not end, which a client that waits for the end of each answer cannot know. `watch.py`
//! holds its lines against the document.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{process::Command, time::timeout};
use waypost_sdk::Registration;
use waypost_tests::cluster::{Cluster, ControlPlane, strings};

/// For how long it makes up requests, in seconds, once all operations were asked for.
const BUDGET: &str = "20";
/// How long each run may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// What it looks at.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,\
                      allow_header_conformance";

/// What is declared while it asks.
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: users}\n\
                     spec:\n  rules:\n    - backendRefs: [{name: users}]\n";

/// No server error, and no answer that is not documented.
pub(crate) fn the_document_holds() {
    super::run(async {
        // With something to answer: a proxy, an instance that beats, events, and a declared route.
        let cluster = Cluster::builder().proxies(1).start().await;
        let registration = Registration::new("users", "127.0.0.1:9001").endpoints(["GET /users/{id}"]);
        let _registered = cluster.client().register(registration).await.expect("registered");
        cluster.api().apply(ROUTE).await.expect("applied");
        cluster.converged().await;
        let document = format!("http://{}/openapi.json", cluster.control_plane.http);
        // Without a bound in time, which would leave operations out where the machine is slow.
        let report = schemathesis(&document, &["--phases", "examples,coverage"]).await;
        let operations = &report["operations"];
        assert_eq!(operations["tested"], operations["selected"], "{report:#}");
        assert_eq!(operations["total"].as_u64(), operations["selected"].as_u64().map(|all| all + 1));
        assert!(operations["tested"].as_u64().is_some_and(|tested| tested > 30), "{report:#}");
        assert_eq!(
            (&report["stop_reason"], &report["phases"]["coverage"]["status"]),
            (&"completed".into(), &"success".into()),
            "{report:#}"
        );
        schemathesis(&document, &["--phases", "fuzzing,stateful", "--max-time", BUDGET]).await;
    });
}

/// Runs it to its end; answers its report.
async fn schemathesis(document: &str, phases: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let report = folder.path().join("report.json");
    let mut command = Command::new(super::program("st"));
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api_clients/schemathesis.toml");
    command.arg("--config-file").arg(settings);
    command.args(["run", document, "--checks", CHECKS, "--exclude-path", "/v1/watch"]).args(phases);
    command.args(["--continue-on-failure", "--request-timeout", "30", "--no-color"]);
    command.args(["--report", "json", "--report-json-path"]).arg(&report);
    command.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(PATIENCE, command.output()).await.expect("it ends");
    let output = ended.expect("it can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read(report).expect("a report");
    serde_json::from_slice(&report).expect("JSON")
}

/// Each line of a watch is one that the document describes.
pub(crate) fn the_watch_is_documented() {
    super::run(async {
        let control_plane = ControlPlane::start(&strings(&[])).await;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api_clients/watch.py");
        let mut command = Command::new(super::program("python"));
        command.arg(script).arg(control_plane.http.to_string()).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("it can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}
