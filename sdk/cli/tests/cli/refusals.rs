//! Bad input is refused before anything is asked of a control plane: the flag, the value and the rule are
//! named, and the exit code is 2.

use crate::support::{self, Ran, run};

async fn refused(args: &[&str], parts: &[&str]) {
    let Ran { code, stdout, stderr } = run(args).await;
    assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{args:?} must say {part:?}: {stderr}");
    }
}

#[tokio::test]
async fn a_bad_registration_names_flag_value_and_rule() {
    let good = ["register", "--service", "users", "--address", "127.0.0.1:9001"];
    let bad = [
        ("--service", "-users", "must be 1 to 63"),
        ("--address", "0.0.0.0:80", "must be an address that proxies can connect to"),
        ("--address", "users", "must be HOST:PORT"),
        ("--prefix", "users", "must be a path"),
        ("--endpoint", "GET users", "must be METHOD /path"),
        ("--ttl", "10", "1s to 1h"),
        ("--ttl", "2h", "1s to 1h"),
        ("--weight", "70000", "0..=65535"),
        ("--protocol", "http3", "http1, http2, grpc"),
        ("--metadata", "owner", "must be KEY=VALUE"),
        ("--drain-deadline", "forever", "1ms to 1h"),
    ];
    for (flag, value, rule) in bad {
        // Joined, because a value that begins with a hyphen would be taken for a flag.
        let joined = format!("{flag}={value}");
        let mut args: Vec<&str> = good.to_vec();
        match args.iter().position(|arg| *arg == flag) {
            Some(at) => drop(args.splice(at..at + 2, [joined.as_str()])),
            None => args.push(&joined),
        }
        refused(&args, &[flag, value, rule]).await;
    }
}

#[tokio::test]
async fn bad_values_of_other_commands_are_refused_alike() {
    refused(&["services", "--namespace", "a b"], &["--namespace", "a b", "must be 1 to 63"]).await;
    refused(&["services", "-o", "xml"], &["--output", "xml", "table, wide, json, yaml"]).await;
    refused(&["services", "--timeout", "soon"], &["--timeout", "soon", "1ms to 24h"]).await;
    refused(&["instances", "--state", "sleepy"], &["--state", "sleepy", "up, down, draining, suspect"]).await;
    refused(&["events", "--since", "yesterday"], &["--since", "yesterday", "10m"]).await;
    refused(&["events", "--limit", "0"], &["--limit", "0", "1..=10000"]).await;
    refused(&["drain", "a/b/c/d"], &["a/b/c/d", "SERVICE/ID"]).await;
    refused(&["drain", "users/a", "--wait", "--cancel"], &["--wait", "--cancel"]).await;
    refused(&["deregister", "users/"], &["users/", "must not be empty"]).await;
    refused(&["override", "users/a", "sideways"], &["sideways", "up, down, clear"]).await;
    refused(&["override", "users/a", "up", "--ttl", "8d"], &["--ttl", "8d", "1s to 7d"]).await;
    refused(&["wait", "--revision", "-1"], &["-1"]).await;
    refused(&["dev", "--proxies", "0"], &["--proxies", "0", "1..=9"]).await;
    refused(&["dev", "--listen", "localhost"], &["--listen", "localhost", "127.0.0.1:8080"]).await;
    refused(&["dev", "--tour"], &["--demo"]).await;
    refused(&["completions", "cmd"], &["cmd", "bash"]).await;
    refused(&["servces"], &["servces", "services"]).await;
}

#[tokio::test]
async fn a_bad_control_plane_is_refused_wherever_it_comes_from() {
    refused(
        &["status", "--control-plane", "ftp://a:1"],
        &["--control-plane", "ftp://a:1", "must be HOST:PORT"],
    )
    .await;
    let mut command = support::command(&["status"]);
    let ran: Ran = command.env("WAYPOST_CONTROL_PLANE", "a b").output().await.expect("it runs").into();
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("'a b'"), "{}", ran.stderr);
}

#[tokio::test]
async fn two_words_on_the_instance_must_agree() {
    let ran = run(&["events", "--service", "carts", "--instance", "users/a"]).await;
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("users/a is not an instance of --service carts"), "{}", ran.stderr);
}

#[tokio::test]
async fn help_tells_the_exit_codes() {
    let ran = run(&["--help"]).await;
    assert_eq!(ran.code, 0);
    for line in
        ["0  done", "1  failed", "2  a flag", "3  there is no such", "4  no control plane", "5  it did not"]
    {
        assert!(ran.stdout.contains(line), "{line:?} in {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("supervised"), "what is internal is not offered");
}
