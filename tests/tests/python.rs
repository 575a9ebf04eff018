//! The Python SDK's own tests (`sdk/python/tests`), each listed as one of ours: pytest runs them once, several at a time,
//! against the programs that lie next to this test. Each ends here when it has ended there.
//!
//! Those that cannot run on this machine are listed as ignored, with the reason in their names; where Python or its
//! packages cannot be had, that is one for all.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::Arc,
    thread,
};

use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use waypost_tests::program::{repository, target_directory};

/// How many run at a time: most of them wait.
const AT_A_TIME: usize = 4;

/// The test that waits for all others.
const ENDS_WELL: &str = "pytest ends well";

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
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).current_dir(project());
    command.env("PYTHONPATH", project().join("src")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("WAYPOST_BIN", target_directory()).env("WAYPOST_TEST_LINES", "1");
    command
}

/// Runs it to its end and hands over each line of `listing.py` as it comes. Returns whether it was content, and the rest.
fn follow(mut command: Command, mut take: impl FnMut(String, Value)) -> io::Result<(bool, String)> {
    let (output, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // Its own ends of the pipe, without which there is an end to read.
    drop(command);
    let mut rest = String::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        match serde_json::from_str::<Value>(&line) {
            Ok(told) if told["name"].is_string() => {
                take(told["name"].as_str().unwrap_or_default().to_owned(), told);
            }
            _ => rest = rest + &line + "\n",
        }
    }
    Ok((child.wait()?.success(), rest))
}

/// The names of all tests, and why those that cannot run here cannot.
fn collect() -> Result<Vec<(String, Option<String>)>, String> {
    let mut command = pytest();
    command.arg("--collect-only");
    let mut tests = Vec::new();
    let (is_content, said) =
        follow(command, |name, told| tests.push((name, told["ignored"].as_str().map(str::to_owned))))
            .map_err(|error| error.to_string())?;
    if is_content && !tests.is_empty() { Ok(tests) } else { Err(said) }
}

/// pytest, which is started by the first test that is waited for.
struct Run {
    /// What it is to run.
    names: Vec<String>,
    progress: Mutex<Progress>,
    has_moved: Condvar,
}

#[derive(Default)]
struct Progress {
    is_begun: bool,
    /// Why each has failed, or that it has not.
    outcomes: HashMap<String, Option<String>>,
    has_failures: bool,
    /// When pytest has ended: whether it was content, and all that it has said.
    end: Option<(bool, String)>,
}

impl Run {
    fn new(names: Vec<String>) -> Arc<Self> {
        Arc::new(Self { names, progress: Mutex::default(), has_moved: Condvar::new() })
    }

    /// Waits until a test has ended.
    fn outcome(self: &Arc<Self>, name: &str) -> Result<(), Failed> {
        let ended = |progress: &mut Progress| {
            if let Some(failure) = progress.outcomes.remove(name) {
                return Some(failure.map_or(Ok(()), |failure| Err(Failed::from(failure))));
            }
            let (_, said) = progress.end.as_ref()?;
            Some(Err(Failed::from(format!("pytest has not run it:\n{said}"))))
        };
        self.wait_for(ended)
    }

    /// Waits until pytest has ended. It may find fault with what no test is to blame for.
    fn end(self: &Arc<Self>) -> Result<(), Failed> {
        self.wait_for(|progress| {
            let (is_content, said) = progress.end.as_ref()?;
            Some(if *is_content || progress.has_failures { Ok(()) } else { Err(Failed::from(said)) })
        })
    }

    fn wait_for<T>(self: &Arc<Self>, mut found: impl FnMut(&mut Progress) -> Option<T>) -> T {
        let mut progress = self.progress.lock();
        if !progress.is_begun {
            progress.is_begun = true;
            let run = Arc::clone(self);
            thread::spawn(move || run.run());
        }
        loop {
            if let Some(found) = found(&mut progress) {
                return found;
            }
            self.has_moved.wait(&mut progress);
        }
    }

    fn run(&self) {
        let mut command = pytest();
        let workers = AT_A_TIME.min(self.names.len());
        if workers > 1 {
            command.args(["--dist", "load", "--maxschedchunk", "1", "-n"]).arg(workers.to_string());
        }
        command.args(&self.names);
        let ended = follow(command, |name, told| {
            let failure = told["failure"].as_str().map(str::to_owned);
            let mut progress = self.progress.lock();
            progress.has_failures |= failure.is_some();
            progress.outcomes.insert(name, failure);
            self.has_moved.notify_all();
        });
        let end = ended.unwrap_or_else(|error| (false, error.to_string()));
        self.progress.lock().end = Some(end);
        self.has_moved.notify_all();
    }
}

fn is_selected(arguments: &Arguments, name: &str) -> bool {
    let matches = |pattern: &String| if arguments.exact { name == pattern } else { name.contains(pattern) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

fn ignored(name: String) -> Trial {
    Trial::test(name, || Ok(())).with_ignored_flag(true)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !environment().join("requirements.txt").is_file() {
        let name = "skipped: target/python-sdk-env is not made: run tests/setup.sh --servers";
        return libtest_mimic::run(&arguments, vec![ignored(name.to_owned())]).exit_code();
    }
    let tests = match collect() {
        Ok(tests) => tests,
        Err(said) => {
            let trial = Trial::test("pytest finds the tests", move || Err(Failed::from(said)));
            return libtest_mimic::run(&arguments, vec![trial]).exit_code();
        }
    };
    let able = tests.iter().filter(|(name, why_not)| why_not.is_none() && is_selected(&arguments, name));
    let run = Run::new(able.map(|(name, _)| name.clone()).collect());
    let end = (!run.names.is_empty()).then(|| {
        let run = Arc::clone(&run);
        Trial::test(ENDS_WELL, move || run.end())
    });
    let trials = tests.into_iter().map(|(name, why_not)| match why_not {
        Some(why) => ignored(format!("{name}: skipped: {why}")),
        None => {
            let run = Arc::clone(&run);
            Trial::test(name.clone(), move || run.outcome(&name))
        }
    });
    // The last to be begun: it waits for all others.
    libtest_mimic::run(&arguments, trials.chain(end).collect()).exit_code()
}
