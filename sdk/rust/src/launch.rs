//! How every Waypost program starts: options, log, signals.
//!
//! Options come from flags, `WAYPOST_*` variables, a file (`--config`) and defaults, the former before the
//! latter, and end up in one clap structure that checks them all alike. The file's keys are the long flags,
//! with `-` or `_`; so there is one list of options and nothing to keep in step with it. A key that is not an
//! option is an error with a suggestion.
//!
//! Deliberately absent: what the options mean; each program has its own structure.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Arg, ArgAction, Args, Command, Parser, ValueEnum,
    error::{ContextKind, ErrorKind},
};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long a signal that comes again says nothing new.
const SAME_WISH: Duration = Duration::from_millis(500);

/// The options that every program has. Flatten it into the program's own.
#[derive(Args, Clone, Debug)]
pub struct LaunchArgs {
    /// Read options from a YAML or JSON file; its keys are the long flags
    #[arg(long, env = "WAYPOST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log: a level, or directives such as `info,waypost_proxy=debug`
    #[arg(long, env = "WAYPOST_LOG", default_value = "info", value_name = "DIRECTIVES", value_parser = directives)]
    pub log: String,
    /// How to log
    #[arg(long, env = "WAYPOST_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads the program's options from its arguments, its environment and its file. Where they are wrong, says
/// so on standard error and ends the process with 2; `--help` and `--version` end it with 0.
pub fn parse<P: Parser>() -> P {
    parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Reads options from `arguments` (the program's name first), the environment and the file that they name.
///
/// # Errors
/// An option is unknown, missing or has a bad value, or the file cannot be read.
pub fn parse_from<P: Parser>(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<P, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut command = P::command();
    let file = config_path(&command, &arguments);
    let mut values = BTreeMap::new();
    if let Some(file) = &file {
        values = read(file)
            .and_then(|read| check(&command, file, read))
            .map_err(|text| refuse(&mut command, text))?;
        for (id, value) in &values {
            let value = value.clone();
            command = command.mut_arg(id, |arg| arg.default_values(value).required(false));
        }
    }
    let matches = command.try_get_matches_from_mut(arguments);
    matches.and_then(|matches| P::from_arg_matches(&matches)).map_err(|error| match &file {
        Some(file) if comes_from_file(&error, &values) => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            clap::Error::raw(error.kind(), format!("in {}: {text}", file.display()))
        }
        _ => error.format(&mut P::command()),
    })
}

/// Starts the log on standard error.
pub fn logging(options: &LaunchArgs) {
    let filter = EnvFilter::try_new(&options.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let log = log.with_ansi(io::stderr().is_terminal());
    // A log that exists already, in a test, stays.
    let _ = match options.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// Waits until the process is asked to end, by SIGTERM or SIGINT, and returns the signal's name.
///
/// # Errors
/// The signals cannot be listened for.
pub async fn shutdown() -> io::Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Waits for a signal after the first one, by which a user who has waited long enough ends a program at once.
///
/// `timeout` and other wrappers signal the process and then its group, so that one wish arrives twice. Only what
/// comes half a second later is a second wish.
///
/// # Errors
/// The signals cannot be listened for.
pub async fn shutdown_again() -> io::Result<&'static str> {
    tokio::time::sleep(SAME_WISH).await;
    shutdown().await
}

/// Reads what to log, for programs with a `--log` of their own.
///
/// # Errors
/// The rule, where it is no level and no list of directives.
pub fn directives(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| {
        format!(
            "{error}; it must be a level (error, warn, info, debug, trace) or a list such as info,hyper=warn"
        )
    })
}

fn config_path(command: &Command, arguments: &[OsString]) -> Option<PathBuf> {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    matches.try_get_one::<PathBuf>("config").ok().flatten().cloned()
}

fn read(file: &Path) -> Result<BTreeMap<String, Value>, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("{}: the file cannot be read: {error}", file.display()))?;
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Turns the file's keys into the ids of options and its values into arguments.
fn check(
    command: &Command,
    file: &Path,
    read: BTreeMap<String, Value>,
) -> Result<BTreeMap<clap::Id, Vec<String>>, String> {
    let allowed: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some() && arg.get_id() != "config")
        .filter(|arg| !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version))
        .collect();
    let mut values = BTreeMap::new();
    for (key, value) in read {
        let long = key.replace('_', "-");
        let Some(arg) = allowed.iter().find(|arg| arg.get_long() == Some(&long)) else {
            return Err(format!("{}: unknown key '{key}'{}", file.display(), suggestion(&long, &allowed)));
        };
        let several = matches!(arg.get_action(), ArgAction::Append);
        let texts = texts(&value, several).ok_or_else(|| {
            let what = if several {
                "a text, a number or a list of them"
            } else {
                "a text, a number, true or false"
            };
            format!("{}: key '{key}' has the value {value}; it must be {what}", file.display())
        })?;
        if !texts.is_empty() {
            values.insert(arg.get_id().clone(), texts);
        }
    }
    Ok(values)
}

fn texts(value: &Value, several: bool) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Bool(flag) => Some(vec![flag.to_string()]),
        Value::Number(number) => Some(vec![number.to_string()]),
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) if several => {
            let each = items.iter().map(|item| texts(item, false).filter(|texts| texts.len() == 1));
            each.collect::<Option<Vec<_>>>().map(|texts| texts.concat())
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn suggestion(key: &str, allowed: &[&Arg]) -> String {
    let nearest = allowed
        .iter()
        .filter_map(|arg| arg.get_long())
        .map(|long| (strsim::jaro_winkler(key, long), long))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match nearest {
        Some((_, long)) => format!("; did you mean '{long}'?"),
        None => "; the keys are the long flags that --help lists".to_owned(),
    }
}

fn refuse(command: &mut Command, text: String) -> clap::Error {
    command.error(ErrorKind::InvalidValue, text)
}

fn comes_from_file(error: &clap::Error, values: &BTreeMap<clap::Id, Vec<String>>) -> bool {
    let bad = error.get(ContextKind::InvalidValue).map(ToString::to_string);
    bad.is_some_and(|bad| values.values().flatten().any(|value| *value == bad))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Parser, Debug)]
    struct Options {
        #[command(flatten)]
        launch: LaunchArgs,
        #[arg(long, required = true)]
        control_plane: Vec<String>,
        #[arg(long, default_value_t = 1)]
        threads: u16,
        #[arg(long)]
        quiet: bool,
    }

    fn with_file(text: &str, flags: &[&str]) -> Result<Options, clap::Error> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("it is written");
        let path = file.path().to_str().expect("a plain path").to_owned();
        parse_from(["program", "--config", &path].iter().chain(flags))
    }

    #[test]
    fn a_file_stands_behind_flags_and_before_defaults() {
        let text = "control_plane: [a, b]\nthreads: 3\nquiet: true\nlog: debug\n";
        let read = with_file(text, &[]).expect("the file fits");
        assert_eq!((read.control_plane, read.threads, read.quiet), (vec!["a".into(), "b".into()], 3, true));
        assert_eq!(read.launch.log, "debug");
        let flagged = with_file(text, &["--threads", "5"]).expect("the flag fits");
        assert_eq!(flagged.threads, 5);
        let json = with_file(r#"{"control-plane": "a"}"#, &[]).expect("JSON is YAML");
        assert_eq!((json.control_plane, json.threads), (vec!["a".into()], 1));
    }

    #[test]
    fn an_unknown_key_comes_with_a_suggestion() {
        let error = with_file("control_plain: a", &[]).expect_err("no such key").to_string();
        assert!(error.contains("unknown key 'control_plain'; did you mean 'control-plane'?"), "{error}");
        let error = with_file("config: a", &[]).expect_err("no file within a file").to_string();
        assert!(error.contains("unknown key 'config'"), "{error}");
    }

    #[test]
    fn a_bad_value_names_the_file_the_key_and_the_value() {
        let error = with_file("control_plane: a\nthreads: many", &[]).expect_err("not a number").to_string();
        assert!(error.contains("in /") && error.contains("'many'") && error.contains("--threads"), "{error}");
        for text in ["control_plane: {a: b}", "control_plane: a\nthreads: [1]", "- a", "a: b: c"] {
            with_file(text, &[]).expect_err(text);
        }
    }

    #[test]
    fn what_is_required_is_asked_for_and_bad_directives_are_refused() {
        let missing = parse_from::<Options>(["program"]).expect_err("a required option is missing");
        assert_eq!(missing.kind(), ErrorKind::MissingRequiredArgument);
        let missing =
            parse_from::<Options>(["program", "--config", "/nowhere/at-all.yaml"]).expect_err("no file");
        assert!(missing.to_string().contains("/nowhere/at-all.yaml: the file cannot be read"), "{missing}");
        let bad = parse_from::<Options>(["program", "--control-plane", "a", "--log", "loud=="])
            .expect_err("a bad directive");
        assert!(bad.to_string().contains("--log"), "{bad}");
    }
}
