//! h2spec, which asks a server for what the RFCs of HTTP/2 and of HPACK ask of it, one violation after the other.
//!
//! Deliberately absent: what it asks. It was written for RFC 7540; what RFC 9113 has changed is held by tests of the core.

use std::{fs, path::PathBuf};

use waypost_tests::{
    gateway::{Scene, http_route},
    program::target_directory,
    servers::find,
};

use super::run_to_its_end;

/// How long it waits for what must come, in seconds.
const PATIENCE: &str = "5";
/// What it asks for: an answer that takes a moment. Some cases break rules on a request that has no end, one frame after the
/// other; an answer in between rightly ends the stream before they are through.
const PATH: &str = "/slow?ms=200";
/// How many cases it has at least.
const CASES: usize = 140;
/// What does not hold, and never will: the port speaks HTTP/1.1, too, and answers what is no preface with a 400.
const EXCEPTION: (&str, &str) = ("http2/3.5", "Sends invalid connection preface");

/// Where it is: on the path, or where `tests/setup.sh` puts it.
fn program() -> Option<PathBuf> {
    let target = target_directory();
    let made = target.parent().unwrap_or(&target).join("h2spec/h2spec");
    find("h2spec").or_else(|| made.is_file().then_some(made))
}

pub(super) fn missing() -> Option<String> {
    program().is_none().then(|| "h2spec is not installed: run tests/setup.sh --servers".to_owned())
}

/// A case's section, what it does, and how it went.
struct Outcome {
    section: String,
    does: String,
    went: String,
}

/// Reads a report in the format of JUnit.
fn outcomes(report: &str) -> Vec<Outcome> {
    let attribute = |tag: &str, name: &str| {
        let text = tag.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        text.map(|(value, _)| value.replace("&#34;", "\"").replace("&#39;", "'")).unwrap_or_default()
    };
    let of = |case: &str| {
        let (tag, rest) = case.split_once('>').unwrap_or((case, ""));
        let went = rest.split_once("</testcase>").map_or(rest, |(went, _)| went);
        let (section, does) = (attribute(tag, "package"), attribute(tag, "classname"));
        Outcome { section, does, went: went.trim().to_owned() }
    };
    report.split("<testcase ").skip(1).map(of).collect()
}

pub(super) async fn everything(scene: &Scene) {
    scene.apply(&http_route("any", "rules: [{backendRefs: [{name: one}]}]")).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (port, report) = (scene.own_port().to_string(), file.path().display().to_string());
    let arguments = ["--port", &port, "--path", PATH, "--timeout", PATIENCE, "--junit-report", &report];
    let output = run_to_its_end(&program().expect("it is there"), &arguments).await;
    let outcomes = outcomes(&fs::read_to_string(file.path()).expect("a report"));
    assert!(outcomes.len() >= CASES, "{} cases\n{output:?}", outcomes.len());
    let is_exception = |outcome: &Outcome| (&*outcome.section, &*outcome.does) == EXCEPTION;
    let (exception, others): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| is_exception(outcome));
    let failed: Vec<String> = others
        .iter()
        .filter(|outcome| !outcome.went.is_empty())
        .map(|outcome| format!("{}: {}: {}", outcome.section, outcome.does, outcome.went))
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), outcomes.len(), failed.join("\n"));
    let fails = exception.iter().all(|outcome| !outcome.went.is_empty());
    assert!(
        exception.len() == 1 && fails,
        "what does not hold does: take it out of here, and out of FORWARDING.md"
    );
}
