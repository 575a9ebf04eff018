//! Every flag of every program, with values that break its rule.
//!
//! The flags are read from each program's own help, so that a flag that is added later is tried as well.

use std::{collections::BTreeSet, fs};

use waypost_tests::{
    process::{Ended, run},
    program::Program,
};

/// A value that no flag takes but those that take any text.
const NONSENSE: &str = "~!no such value!~";

/// Flags that take any text, or the name of a file that need not be there yet.
const FREE_TEXT: [&str; 18] = [
    "--reason",
    "--description",
    "--client",
    "--client-name",
    "--id",
    "--tag",
    "--zone",
    "--version",
    "--state-dir",
    "--data-dir",
    "--proxy-id",
    "--working-directory",
    "--instance",
    "--service-version",
    "--metadata",
    "--via",
    "--server-name",
    "--config",
];

/// What must be there for the other flags to be looked at.
fn commands() -> Vec<(Program, Vec<&'static str>, Vec<&'static str>)> {
    let address = ["--service", "users", "--address", "127.0.0.1:9001"];
    vec![
        (Program::ControlPlane, vec![], vec![]),
        (Program::Proxy, vec![], vec![]),
        (Program::Agent, vec!["run"], vec!["--service", "users", "--port", "9001", "--", "true"]),
        (Program::Cli, vec!["services"], vec![]),
        (Program::Cli, vec!["instances"], vec![]),
        (Program::Cli, vec!["events"], vec![]),
        (Program::Cli, vec!["register"], address.to_vec()),
        (Program::Cli, vec!["deregister"], vec!["users/a"]),
        (Program::Cli, vec!["drain"], vec!["users/a"]),
        (Program::Cli, vec!["override"], vec!["users/a", "down"]),
        (Program::Cli, vec!["wait"], vec![]),
        (Program::Cli, vec!["watch"], vec![]),
        (Program::Cli, vec!["dev"], vec![]),
    ]
}

/// The long flags that take a value, from a program's help.
fn flags_with_value(help: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for line in help.lines() {
        let Some(start) = line.find("--").filter(|start| line[..*start].trim_start().len() <= 4) else {
            continue;
        };
        let mut words = line[start..].split_whitespace();
        let flag = words.next().unwrap_or_default();
        if words.next().is_some_and(|value| value.starts_with('<')) {
            flags.insert(flag.to_owned());
        }
    }
    flags
}

/// Why a program did not refuse as it should: with 2, and a message that holds all of `names`.
fn offence(ended: &Ended, names: &[&str]) -> Option<String> {
    if ended.code != Some(2) || ended.stderr.contains("panicked") {
        return Some(format!("{ended:?}"));
    }
    let missing = names.iter().find(|name| !ended.stderr.contains(**name))?;
    Some(format!("the message does not name {missing}: {}", ended.stderr))
}

#[track_caller]
fn assert_refused(what: &str, ended: &Ended, names: &[&str]) {
    let offence = offence(ended, names);
    assert!(offence.is_none(), "{what}: {}", offence.unwrap_or_default());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flag_refuses_nonsense_and_names_itself_and_the_value() {
    let mut offences = Vec::new();
    for (program, command, required) in commands() {
        let help = run(program, &[command.as_slice(), &["--help"]].concat()).await;
        assert_eq!(help.code, Some(0), "{program:?} {command:?} --help: {help:?}");
        let flags = flags_with_value(&help.stdout);
        assert!(flags.len() > 1, "{program:?} {command:?} has flags: {}", help.stdout);
        for flag in flags.iter().filter(|flag| !FREE_TEXT.contains(&flag.as_str())) {
            // `waypost dev` has a control plane of its own and calls no other.
            if command == ["dev"] && flag == "--control-plane" {
                continue;
            }
            // The flag under test may be one of those that must be there: it then takes that one's place.
            let mut arguments = command.clone();
            let at = required.iter().position(|given| given == flag);
            let rest = match at {
                Some(at) => [&required[..at], &required[at + 2..]].concat(),
                None => required.clone(),
            };
            arguments.extend([flag.as_str(), NONSENSE]);
            arguments.extend(rest);
            let ended = run(program, &arguments).await;
            // The agent's options have one name on the command line and in its file, and messages use that.
            let name = flag.trim_start_matches('-').split('-').next().unwrap_or_default();
            let offence = offence(&ended, &[name, NONSENSE]);
            offences.extend(offence.map(|offence| format!("{program:?} {arguments:?}: {offence}")));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_are_near_a_rule_are_refused_too() {
    let table: [(Program, &[&str], &[&str]); 14] = [
        (Program::ControlPlane, &["--grpc-listen", "127.0.0.1:99999"], &["--grpc-listen", "127.0.0.1:99999"]),
        (Program::ControlPlane, &["--http-listen", "localhost"], &["--http-listen", "localhost"]),
        (Program::ControlPlane, &["--store", "cassandra://127.0.0.1"], &["--store", "cassandra", "memory"]),
        (Program::ControlPlane, &["--grpc-lisen", "127.0.0.1:0"], &["--grpc-lisen", "--grpc-listen"]),
        (Program::ControlPlane, &["--log", "waypost=loudly"], &["--log", "loudly"]),
        (Program::ControlPlane, &["surplus"], &["surplus"]),
        (
            Program::Proxy,
            &["--control-plane", "ftp://127.0.0.1:1"],
            &["--control-plane", "ftp://127.0.0.1:1"],
        ),
        (Program::Proxy, &["--threads", "0"], &["--threads", "0"]),
        (Program::Proxy, &["--threads", "-1"], &["-1"]),
        (Program::Proxy, &["--log-format", "xml"], &["--log-format", "xml", "json"]),
        (Program::Cli, &["servces"], &["servces", "services"]),
        (Program::Cli, &["register", "--service", "a b", "--address", "127.0.0.1:1"], &["--service", "a b"]),
        (
            Program::Cli,
            &["register", "--service", "a", "--address", "127.0.0.1"],
            &["--address", "127.0.0.1"],
        ),
        (Program::Agent, &["run", "--service", "a", "--port", "70000", "--", "true"], &["--port", "70000"]),
    ];
    for (program, arguments, names) in table {
        assert_refused(&format!("{program:?} {arguments:?}"), &run(program, arguments).await, names);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_file_is_checked_as_flags_are() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("waypost.yaml");
    let path = file.display().to_string();
    let table: [(&str, &[&str]); 5] = [
        ("grpc_lisen: 127.0.0.1:0\n", &["grpc_lisen", "did you mean 'grpc-listen'", "waypost.yaml"]),
        ("grpc-listen: nowhere\n", &["nowhere", "grpc-listen"]),
        ("grpc-listen: [1, {a: b}]\n", &["grpc-listen"]),
        ("- a list\n", &["waypost.yaml"]),
        ("grpc-listen: \"unclosed\nhttp\n", &["waypost.yaml"]),
    ];
    for (text, names) in table {
        fs::write(&file, text).expect("the file can be written");
        let ended = run(Program::ControlPlane, &["--config", &path]).await;
        assert_refused(&format!("{text:?}"), &ended, names);
    }
    let ended = run(Program::ControlPlane, &["--config", "/nowhere/at/all.yaml"]).await;
    assert_refused("a file that is not there", &ended, &["/nowhere/at/all.yaml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    for (program, flag, other) in [
        (Program::ControlPlane, "--grpc-listen", "--http-listen"),
        (Program::ControlPlane, "--http-listen", "--grpc-listen"),
        (Program::Proxy, "--listen", "--admin-listen"),
        (Program::Proxy, "--admin-listen", "--listen"),
    ] {
        let ended = run(program, &[flag, &address, other, "127.0.0.1:0"]).await;
        assert_eq!(ended.code, Some(1), "{program:?} {flag}: {ended:?}");
        for name in [flag, &address] {
            assert!(
                ended.stderr.contains(name),
                "{program:?} {flag}: the message names {name}: {}",
                ended.stderr
            );
        }
    }
}
