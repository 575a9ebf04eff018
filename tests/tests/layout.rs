//! The layout of the repository: rules that no compiler checks.
//!
//! Which crate may depend on which, how long a file may be, that each one says what it is, what lies in the
//! root, and that links in the documents lead somewhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use waypost_tests::program::repository;

/// Lines that a file may have without its tests.
const LONGEST: usize = 420;
/// Lines of tests that may stand in the file that they test.
const LONGEST_TESTS: usize = 160;

/// Which of the workspace's crates each crate may depend on: one way only.
const MAY_DEPEND_ON: [(&str, &[&str]); 8] = [
    ("proto", &[]),
    ("sdk/rust", &["waypost-proto"]),
    ("control-plane", &["waypost-proto", "waypost-sdk"]),
    ("data-plane", &["waypost-proto", "waypost-sdk"]),
    ("registry-agent", &["waypost-proto", "waypost-sdk"]),
    ("sdk/cli", &["waypost-proto", "waypost-sdk"]),
    ("tests", &["waypost-proto", "waypost-sdk"]),
    ("tests/fuzz", &["waypost-proto", "waypost-proxy"]),
];

/// All that may lie in the root, beside what begins with a dot.
const ROOT: [&str; 20] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "control-plane",
    "data-plane",
    "deny.toml",
    "deploy",
    "proto",
    "registry-agent",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "sdk",
    "target",
    "tests",
];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below `directory` with one of these extensions, build output aside.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}

/// Fails with every offence at once.
#[track_caller]
fn assert_none(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn crates_depend_one_way() {
    let mut offences = Vec::new();
    for (folder, allowed) in MAY_DEPEND_ON {
        let manifest = read(&repository().join(folder).join("Cargo.toml"));
        let dependencies = manifest.lines().filter_map(|line| {
            let name = line.split(['.', ' ', '=']).next()?;
            (name.starts_with("waypost-") && name != line.trim()).then_some(name)
        });
        let forbidden = dependencies.filter(|name| !allowed.contains(name));
        offences.extend(forbidden.map(|name| format!("{folder} depends on {name}")));
    }
    assert_none(&offences, "proto <- sdk/rust <- the programs <- tests; no program imports another one");
}

#[test]
fn every_crate_of_the_workspace_has_its_rule() {
    let manifest = read(&repository().join("Cargo.toml"));
    let members = manifest.lines().find(|line| line.starts_with("members")).expect("members on one line");
    let mut members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    let mut ruled: Vec<&str> = MAY_DEPEND_ON.iter().map(|(folder, _)| *folder).collect();
    members.sort_unstable();
    ruled.sort_unstable();
    assert_eq!(members, ruled);
}

#[test]
fn files_are_short() {
    let mut offences = Vec::new();
    for path in files(&repository(), "rs") {
        let (code, tests) = lengths(&read(&path));
        let name = shown(&path);
        let only_tests =
            name.starts_with("tests/tests/") || name.ends_with("/tests.rs") || name.contains("/tests/");
        if code > LONGEST && !only_tests {
            offences.push(format!("{name}: {code} lines without its tests"));
        }
        if tests > LONGEST_TESTS {
            offences.push(format!("{name}: {tests} lines of tests, which belong into a file of their own"));
        }
    }
    assert_none(&offences, "a file has at most 420 lines without its tests, and 160 lines of tests");
}

/// The lines of code and those of the tests at the end.
fn lengths(text: &str) -> (usize, usize) {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .iter()
        .zip(lines.iter().skip(1))
        .position(|(line, next)| *line == "#[cfg(test)]" && next.starts_with("mod tests {"));
    let code = tests.unwrap_or(lines.len());
    (code, lines.len() - code)
}

#[test]
fn every_file_says_what_it_is() {
    let sources = files(&repository(), "rs");
    assert!(sources.len() > 50, "the sources are found: {}", sources.len());
    let silent = sources.iter().filter(|path| {
        let text = read(path);
        let first = text.lines().next().unwrap_or_default();
        !first.starts_with("//! ") || first.len() < 20
    });
    let silent: Vec<String> =
        silent.map(|path| shown(path)).filter(|name| !name.ends_with("tests.rs")).collect();
    assert_none(
        &silent,
        "every source file begins with `//!`: what it is, why, and what is deliberately absent",
    );
}

#[test]
fn the_root_holds_only_what_belongs_there() {
    let entries = fs::read_dir(repository()).expect("the repository");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let strangers: Vec<String> =
        names.filter(|name| !name.starts_with('.') && !ROOT.contains(&name.as_str())).collect();
    assert_none(&strangers, "the root holds what every visitor must see, and nothing else");
}

#[test]
fn no_module_is_a_drawer() {
    let drawers = files(&repository(), "rs").into_iter().filter(|path| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        matches!(stem.as_str(), "utils" | "util" | "common" | "helpers" | "misc")
    });
    let drawers: Vec<String> = drawers.map(|path| shown(&path)).collect();
    assert_none(&drawers, "a module is named after what it does");
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut offences = Vec::new();
    for path in files(&repository(), "md") {
        let folder = path.parent().expect("a file lies in a folder").to_path_buf();
        for target in link_targets(&read(&path)) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                offences.push(format!("{}: {target}", shown(&path)));
            }
        }
    }
    assert_none(&offences, "a link leads to a file that is there");
}

fn link_targets(text: &str) -> Vec<String> {
    let mut inside_code = false;
    let mut targets = Vec::new();
    for line in text.lines() {
        inside_code ^= line.trim_start().starts_with("```");
        if inside_code {
            continue;
        }
        let ends = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.extend(ends.map(|(target, _)| target.to_owned()));
    }
    targets
}

#[test]
fn every_make_target_is_in_the_help() {
    let makefile = read(&repository().join("Makefile"));
    let phony = makefile.lines().find(|line| line.starts_with(".PHONY:")).expect("a list of targets");
    let mut documented = BTreeMap::new();
    for line in makefile.lines() {
        if let Some((target, help)) = line.split_once(" ## ")
            && let Some((name, _)) = target.split_once(':')
        {
            documented.insert(name, help);
        }
    }
    let silent = phony.split_whitespace().skip(1).filter(|name| !documented.contains_key(name));
    let silent: Vec<String> = silent.map(str::to_owned).collect();
    assert_none(&silent, "make help lists every task");
}
