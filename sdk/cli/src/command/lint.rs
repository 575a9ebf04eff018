//! `waypost lint`: documents checked here, with the control plane's own code, and on request by one as well.

use waypost_proto::{
    resource::{self, Finding, Severity, check},
    v1::ApplyRequest,
};

use super::declare::warn;
use crate::{
    api,
    args::{Global, resource::LintArgs},
    failure::{Exit, Failure},
    manifest::read,
    output::{Output, table, text},
};

/// Checks documents.
///
/// # Errors
/// Something in them is wrong; each line is named.
pub(super) async fn run(global: &Global, output: &Output, args: LintArgs) -> Result<(), Failure> {
    let documents = read::documents(&args.sources.filenames, args.sources.recursive)?;
    let parsed = resource::parse(&documents).map_err(|findings| refused(&findings))?;
    if args.server {
        let client = api::client(global)?;
        let sources = documents.len();
        let request = ApplyRequest { documents, dry_run: true, ..Default::default() };
        let answer = client.apply(request).await?;
        warn(output, &answer.warnings);
        return said(output, answer.resources.len(), sources, "and to the control plane");
    }
    let mut findings = check::lint(&parsed);
    resource::place(&parsed, &mut findings);
    let (errors, warnings): (Vec<Finding>, Vec<Finding>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    warn(output, &warnings.iter().map(Finding::to_wire).collect::<Vec<_>>());
    if !errors.is_empty() {
        return Err(refused(&errors));
    }
    said(output, parsed.len(), documents.len(), "as far as these documents tell; the rest: --server")
}

/// The failure that names each line that is wrong.
pub(super) fn refused(findings: &[Finding]) -> Failure {
    let lines: Vec<String> = findings.iter().map(|finding| table::harmless(&finding.to_string())).collect();
    let message = match &lines[..] {
        [only] => only.clone(),
        several => format!("{} are wrong:\n{}", text::count(several.len(), "thing"), several.join("\n")),
    };
    Failure::new(Exit::Usage, message)
}

fn said(output: &Output, resources: usize, documents: usize, how: &str) -> Result<(), Failure> {
    if output.format.is_table() {
        let (resources, documents) = (text::count(resources, "resource"), text::count(documents, "document"));
        return output.line(format!("{resources} in {documents}: good {how}"));
    }
    output.document(&serde_json::json!({ "resources": resources, "documents": documents }))
}
