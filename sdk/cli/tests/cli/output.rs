//! What people and programs read, and which exit code they get, against a control plane with known answers.

use std::process::Stdio;

use crate::{
    fake::Known,
    support::{self, Ran, Running, nobody, run},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

async fn ask(known: Known, args: &[&str]) -> Ran {
    let address = known.serve().await.to_string();
    run(&[args, &["--control-plane", &address]].concat()).await
}

fn two() -> Known {
    Known { users: vec!["a", "b"], drains: true, ..Known::default() }
}

fn one() -> Known {
    Known { users: vec!["a"], drains: true, ..Known::default() }
}

#[tokio::test]
async fn people_get_an_aligned_table_without_escapes() {
    let ran = ask(two(), &["services"]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (
            0,
            "NAME   UP  DOWN  DRAINING  SUSPECT  VERSIONS  AGE  CONFLICTS\n\
             users  2   0     0         0        2         30m  0\n",
            ""
        )
    );
    let ran = ask(two(), &["instances", "users"]).await;
    assert_eq!(
        ran.stdout,
        "INSTANCE  ADDRESS        STATE  VERSION  AGE  REASON\n\
         users/a   10.0.0.7:9001  up     2        30m  -\n\
         users/b   10.0.0.7:9001  up     2        30m  -\n"
    );
    let ran = ask(two(), &["instances", "-o", "wide"]).await;
    assert!(
        ran.stdout.starts_with("INSTANCE  ADDRESS        STATE  VERSION  AGE  REASON  ZONE"),
        "{}",
        ran.stdout
    );
    let ran = ask(two(), &["services", "users"]).await;
    assert!(ran.stdout.contains("service      users\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("users/b   10.0.0.7:9001  up"), "{}", ran.stdout);
}

#[tokio::test]
async fn programs_get_the_contracts_messages() {
    let ran = ask(one(), &["instances", "-o", "json"]).await;
    let mut document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let registered = document["instances"][0]["registered_at"].take();
    assert!(registered.as_str().is_some_and(|time| time.contains('T')), "{registered}");
    assert_eq!(
        document,
        json!({
            "instances": [{
                "key": { "namespace": "default", "service": "users", "id": "a" },
                "spec": { "service": "users", "address": "10.0.0.7:9001", "version": "2" },
                "state": "INSTANCE_STATE_UP",
                "registered_at": null,
            }],
            "revision": "7",
        })
    );
    let ran = ask(one(), &["status", "-o", "yaml"]).await;
    assert_eq!(ran.stdout, "settled: true\nversion: \"0.0.0\"\n");
}

#[tokio::test]
async fn nothing_is_said_to_be_nothing_with_a_hint() {
    for (args, list, hint) in [
        (&["services"][..], "services", "waypost register --service NAME"),
        (&["instances"], "instances", "waypost register --service NAME"),
        (&["instances", "users", "--version", "9"], "instances", "waypost instances users"),
        (&["routes"], "routes", "waypost register"),
        (&["proxies"], "proxies", "waypost-proxy --control-plane"),
        (&["events"], "events", "no events"),
    ] {
        let ran = ask(Known::default(), args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(hint), "{args:?}: {}", ran.stderr);
        let ran = ask(Known::default(), &[args, &["-o", "json"]].concat()).await;
        let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(document[list], json!([]), "programs can iterate over {list} blindly");
    }
}

#[tokio::test]
async fn what_is_not_there_is_3_and_what_is_refused_is_2() {
    let ran = ask(two(), &["services", "user"]).await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (3, "error: there is no service user; the nearest name is users\n")
    );
    assert_eq!(ask(two(), &["drain", "users/z"]).await.code, 3);
    assert_eq!(ask(two(), &["deregister", "carts"]).await.code, 3);
    let long = "1".repeat(129);
    let ran = ask(two(), &["instances", "--version", &long]).await;
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("version = \"1...\": must be at most 128 characters"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_service_stands_for_its_only_instance() {
    let ran = ask(one(), &["drain", "users", "--wait"]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "users/a drains, as of revision 8; nothing is in flight to it, after 12.0 ms\n")
    );
    let ran = ask(two(), &["drain", "users"]).await;
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("users has 2 instances, and one must be named: users/a, users/b"),
        "{}",
        ran.stderr
    );
    let ran = ask(one(), &["override", "users", "down", "--ttl", "2h", "--reason", "maintenance"]).await;
    assert_eq!(
        ran.stdout,
        "users/a is forced down for 2h: maintenance; its state is down, as of revision 8\n"
    );
}

#[tokio::test]
async fn a_deadline_that_passes_is_5_and_names_who_was_not_done() {
    let stuck = Known { drains: false, ..one() };
    for args in [&["drain", "users/a", "--wait"][..], &["deregister", "users/a", "--drain"]] {
        let ran = ask(stuck.clone(), args).await;
        assert_eq!(ran.code, 5, "{}", ran.stderr);
        assert!(ran.stderr.contains("3 requests in flight to users/a; not done: proxy-1"), "{}", ran.stderr);
    }
    let ran = ask(one(), &["wait", "--revision", "9"]).await;
    assert_eq!(ran.code, 5);
    assert!(ran.stderr.contains("not applied by proxy-1"), "{}", ran.stderr);
    let ran = ask(one(), &["wait"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "revision 7 is applied by all 2 live proxies\n"));
}

#[tokio::test]
async fn an_absent_control_plane_is_4_with_the_way_to_start_one() {
    let free = nobody();
    for args in [&["services"][..], &["watch"], &["events", "--follow"], &["status", "-o", "json"]] {
        let ran = run(&[args, &["--control-plane", &free]].concat()).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (4, ""), "{args:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(&free) && ran.stderr.contains("start one with: waypost dev"),
            "{}",
            ran.stderr
        );
    }
}

#[tokio::test]
async fn one_that_is_frozen_or_is_something_else_is_4_too() {
    let frozen = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = frozen.local_addr().expect("an address").to_string();
    let ran = run(&["services", "--timeout", "300ms", "--control-plane", &address]).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains(&address), "{}", ran.stderr);

    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = other.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let ran = run(&["services", "--control-plane", &address]).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
}

#[tokio::test]
async fn a_refused_registration_is_1_with_the_reason() {
    let args = ["register", "--service", "users", "--address", "127.0.0.1:9", "--timeout", "1s"];
    let ran = ask(one(), &args).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "error: no more instances are taken\n"));
}

#[tokio::test]
async fn a_watch_shows_each_step_and_ends_well_on_a_signal() {
    let address = one().serve().await.to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let mut watch = Running::start(&["watch", "--control-plane", &address], folder.path());
    assert!(watch.line().await.ends_with("1 instance at revision 7"));
    assert!(watch.line().await.ends_with("users/a  up  10.0.0.7:9001  version 2"));
    assert!(watch.line().await.ends_with("users/gone  gone"));
    watch.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(watch.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = support::command(&["completions", "bash"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("it starts").wait_with_output();
    let output = output.await.expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell]).await;
        assert!(ran.code == 0 && ran.stdout.contains("deregister"), "{shell}");
        for command in ["apply", "describe", "rollback", "explain"] {
            assert!(ran.stdout.contains(command), "{command} in {shell}");
        }
    }
}
