//! schemathesis reads `/openapi.json` and asks for all that is there, well and badly: no answer may be a defect, and none
//! one that the document does not name.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};
use waypost_tests::cluster::{ControlPlane, strings};

/// For how long it makes up requests, in seconds; it goes through all operations once whatever it says.
const BUDGET: &str = "20";
/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(300);
/// What it looks at.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,\
                      allow_header_conformance";

/// No server error, and no answer that is not documented.
pub(crate) fn the_document_holds() {
    super::run(async {
        let control_plane = ControlPlane::start(&strings(&[])).await;
        let document = format!("http://{}/openapi.json", control_plane.http);
        let mut command = Command::new(super::program("st"));
        // A watch does not end, which a client that waits for the end of each answer cannot know.
        command.args([
            "run",
            &document,
            "--checks",
            CHECKS,
            "--max-time",
            BUDGET,
            "--exclude-path",
            "/v1/watch",
        ]);
        command.args(["--continue-on-failure", "--request-timeout", "30", "--no-color"]);
        let folder = tempfile::tempdir().expect("a temporary directory");
        command.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        let ended = timeout(PATIENCE, command.output()).await.expect("it ends");
        let output = ended.expect("it can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    });
}
