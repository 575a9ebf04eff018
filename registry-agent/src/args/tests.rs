//! What the agent's options accept, and what they refuse and why.

use std::{io::Write, time::Duration};

use super::*;

fn parse(arguments: &[&str]) -> Result<Agent, String> {
    Agent::parse_from(["waypost-agent"].iter().chain(arguments)).map_err(|error| error.to_string())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("it is written");
    file
}

#[test]
fn run_takes_a_service_and_a_command() {
    let agent = parse(&[
        "run",
        "--service",
        "users",
        "--port",
        "9001",
        "--health",
        "http:/health",
        "--stop-deadline",
        "3s",
        "--control-plane",
        "a:1,b:2",
        "--log",
        "debug",
        "--",
        "./users",
        "--port",
        "1",
    ]);
    let agent = agent.expect("good arguments");
    assert_eq!(agent.options.control_plane, ["a:1", "b:2"]);
    assert_eq!(agent.launch.log, "debug");
    let Work::Run(run) = agent.work else { panic!("a run") };
    assert_eq!(run.command, ["./users", "--port", "1"]);
    assert_eq!((run.port, run.stop_deadline), (Some(9001), Duration::from_secs(3)));
    assert_eq!(run.config.probe.to_string(), "GET http://127.0.0.1:9001/health");
}

#[test]
fn a_file_stands_behind_flags_and_before_defaults() {
    let file =
        file("control-plane: [a:1]\nadmin-listen: none\nlog: debug\nservices: [{service: users, port: 1}]");
    let path = file.path().to_str().expect("a plain path");
    let agent = parse(&["--config", path]).expect("good arguments");
    assert_eq!(agent.options.control_plane, ["a:1"]);
    assert_eq!((agent.options.admin_listen, agent.launch.log.as_str()), (AdminListen::Off, "debug"));
    let agent = parse(&["--config", path, "--control-plane", "b:2", "--admin-listen", "127.0.0.1:0"]);
    let agent = agent.expect("good arguments");
    assert_eq!(agent.options.control_plane, ["b:2"]);
    assert!(matches!(agent.work, Work::Fleet(_, file) if file.services.as_ref().map(Vec::len) == Some(1)));
}

#[test]
fn mistakes_are_named_with_the_way_out() {
    let listed = file("services: [{service: users, port: 1}]");
    let listed = listed.path().to_str().expect("a plain path");
    let bad = file("admin-listen: everywhere\nservices: [{service: users, port: 1}]");
    let bad = bad.path().to_str().expect("a plain path");
    let empty = file("log: info");
    let empty = empty.path().to_str().expect("a plain path");
    for (arguments, words) in [
        (vec![], "give 'run ... -- COMMAND'"),
        (vec!["run", "--port", "1", "--", "true"], "--service"),
        (vec!["run", "--service", "users", "--port", "1"], "COMMAND"),
        (vec!["run", "--service", "users", "--", "true"], "address = \"\": must be given, or port"),
        (vec!["run", "--service", "a b", "--port", "1", "--", "true"], "service = \"a b\": must be 1 to 63"),
        (vec!["run", "--service", "a", "--port", "1", "--health", "ping", "--", "true"], "health = \"ping\""),
        (vec!["run", "--service", "a", "--port", "1", "--ttl", "soon", "--", "true"], "500ms, 10s or 2m"),
        (vec!["--config", "/nowhere/at-all.yaml"], "/nowhere/at-all.yaml: the file cannot be read"),
        (vec!["--config", bad], "must be IP:PORT or none"),
        (vec!["--config", empty], "'services' is missing or empty"),
        (
            vec!["--config", listed, "run", "--service", "a", "--port", "1", "--", "true"],
            "leave one of them out",
        ),
    ] {
        let error = parse(&arguments).expect_err(words);
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
}
