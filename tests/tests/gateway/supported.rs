//! The table of what is supported, made of the cases: a behaviour without a test is not in it.
//!
//! `WAYPOST_WRITE_DOCS=1` writes it; without, it must be what would be written.

use std::{env, fmt::Write as _, fs};

use libtest_mimic::Failed;
use waypost_tests::program::repository;

use crate::case::{Case, Level};

/// What [`check`] holds.
pub(super) const PROMISE: &str = "the table of supported features is what the tests show";

const FILE: &str = "control-plane/src/gateway/SUPPORT.md";

const HEAD: &str = "\
# What of the Gateway API is supported

Each sentence is the name of a test that shows it through a control plane and a proxy (`tests/tests/gateway`), which also
writes this page: `WAYPOST_WRITE_DOCS=1 cargo test -p waypost-tests --test gateway -- --exact \\
'the table of supported features is what the tests show'`. What is not supported is refused when it is declared, with the
reason; [GATEWAY.md](GATEWAY.md) names what is absent on purpose.

";

/// Writes the table, or holds that it is written.
///
/// # Errors
/// It cannot be written, or says something else than the cases.
pub(super) fn check(resources: &[(&str, &[&[Case]])]) -> Result<(), Failed> {
    let path = repository().join(FILE);
    let table = table(resources);
    if env::var_os("WAYPOST_WRITE_DOCS").is_some() {
        fs::write(&path, table)?;
        return Ok(());
    }
    let written = fs::read_to_string(&path)?;
    if written == table {
        return Ok(());
    }
    let differs = written.lines().zip(table.lines()).find(|(written, due)| written != due);
    Err(format!("{FILE} is not what the cases say; run this with WAYPOST_WRITE_DOCS=1\n{differs:#?}").into())
}

fn table(resources: &[(&str, &[&[Case]])]) -> String {
    let mut text = HEAD.to_owned();
    for (resource, groups) in resources {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "## {resource}\n\n| feature | level | shown |\n| --- | --- | --- |");
        let mut cases: Vec<&Case> = groups.iter().copied().flatten().collect();
        // The order of the cases stays within a feature.
        cases.sort_by_key(|case| {
            (case.level == Level::Implementation, case.level == Level::Extended, case.feature)
        });
        for same in cases.chunk_by(|a, b| a.feature == b.feature && a.level == b.level) {
            let says: Vec<&str> = same.iter().map(|case| case.says).collect();
            let says = says.join("<br>").replace('|', "\\|");
            let _ = writeln!(text, "| {} | {} | {says} |", same[0].feature, same[0].level.name());
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
