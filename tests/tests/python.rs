//! The Python SDK's own tests (`sdk/python/tests`), each listed as one of ours: pytest runs them once, against the
//! programs that lie next to this test.
//!
//! Where Python or its packages cannot be had they are listed as one that is ignored, with the reason in its name.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, OnceLock},
};

use libtest_mimic::{Arguments, Failed, Trial};
use waypost_tests::program::{repository, target_directory};

/// What pytest says of a test that has ended.
type Outcomes = BTreeMap<String, Result<(), String>>;

/// Where `tests/setup.sh --servers` puts what `requirements-dev.txt` names.
fn environment() -> PathBuf {
    let target = target_directory();
    target.parent().unwrap_or(&target).join("python-sdk-env")
}

fn project() -> PathBuf {
    repository().join("sdk/python")
}

/// pytest, in the project's folder and with its sources.
fn pytest() -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    command.args(["-m", "pytest", "-p", "no:cacheprovider"]).current_dir(project());
    command.env("PYTHONPATH", project().join("src")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("WAYPOST_BIN", target_directory());
    command
}

/// The names of all tests.
fn collect() -> Result<Vec<String>, String> {
    let output = pytest().args(["--collect-only", "-q"]).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(text);
    }
    Ok(text.lines().filter(|line| line.contains("::")).map(str::to_owned).collect())
}

/// Runs these tests, and says what has become of each; what fails says why.
fn run(names: &[String]) -> Outcomes {
    let folder = tempfile::tempdir().expect("a folder for the report");
    let report = folder.path().join("report");
    let output =
        pytest().arg("-q").args(names).env("WAYPOST_TEST_REPORT", &report).output().expect("pytest runs");
    let mut outcomes = read(&report);
    for name in names {
        let missing = || Err(format!("pytest has not run it:\n{}", String::from_utf8_lossy(&output.stdout)));
        outcomes.entry(name.clone()).or_insert_with(missing);
    }
    outcomes
}

/// Reads what `conftest.py` has written: a line for each test, `{"name": …, "failure": … or null}`.
fn read(report: &Path) -> Outcomes {
    let text = fs::read_to_string(report).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines
        .filter_map(|line| {
            let name = line.get("name")?.as_str()?.to_owned();
            let failure = line.get("failure")?.as_str().map(str::to_owned);
            Some((name, failure.map_or(Ok(()), Err)))
        })
        .collect()
}

fn is_selected(arguments: &Arguments, name: &str) -> bool {
    let matches = |pattern: &String| if arguments.exact { name == pattern } else { name.contains(pattern) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !environment().join("requirements.txt").is_file() {
        let name = "skipped: target/python-sdk-env is not made: run tests/setup.sh --servers";
        let trial = Trial::test(name, || Ok(())).with_ignored_flag(true);
        return libtest_mimic::run(&arguments, vec![trial]).exit_code();
    }
    let names = match collect() {
        Ok(names) => names,
        Err(said) => {
            let trial = Trial::test("pytest finds the tests", move || Err(Failed::from(said)));
            return libtest_mimic::run(&arguments, vec![trial]).exit_code();
        }
    };
    let selected: Vec<String> = names.iter().filter(|name| is_selected(&arguments, name)).cloned().collect();
    let outcomes: Arc<OnceLock<Outcomes>> = Arc::default();
    let selected = Arc::new(selected);
    let trials = names.into_iter().map(|name| {
        let (outcomes, selected) = (outcomes.clone(), selected.clone());
        Trial::test(name.clone(), move || {
            // The first one runs all; the others wait for it.
            let outcomes = outcomes.get_or_init(|| run(&selected));
            outcomes.get(&name).cloned().unwrap_or(Ok(())).map_err(Failed::from)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
