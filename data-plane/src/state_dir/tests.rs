//! What is stored reads back, and what is not what was stored is never used.

use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    name::ServiceKey,
    snapshot::{Change, Touched},
    v1::{self, InstanceState},
};

use super::*;
use crate::{metrics::Metrics, subscription::Status};

fn endpoint(id: u8) -> Endpoint {
    let wire = v1::InstanceSpec {
        service: "users".into(),
        address: format!("10.0.0.{id}:80"),
        ..Default::default()
    };
    Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), InstanceState::Up, 1)
}

fn snapshot(history: &str, ids: std::ops::Range<u8>, settled: bool) -> Snapshot {
    let services = vec![ServiceKey::new("", "users").expect("a good name")];
    let change = Change { services, instances: ids.map(endpoint).collect(), ..Change::default() };
    Snapshot::empty(history).change(change, 7, settled).expect("it is sound").0
}

fn saved() -> Saved {
    Saved { current: snapshot("new", 1..3, false), carried: Some(snapshot("old", 2..6, true)) }
}

fn stored(bytes: &[u8]) -> (TempDir, StateDir) {
    let dir = TempDir::new().expect("a directory");
    fs::write(dir.path().join(SNAPSHOT), bytes).expect("it is written");
    let state = StateDir::open(dir.path(), &[]).expect("it is ours");
    (dir, state)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn refused(state: &StateDir, max_age: Duration, now: SystemTime) -> String {
    match state.load(max_age, now) {
        Loaded::Unusable { reason, moved_to, file } => {
            assert!(!file.exists() && moved_to.is_some_and(|moved| moved.exists()), "it is moved aside");
            assert!(matches!(state.load(max_age, now), Loaded::Nothing), "the next start is a fresh one");
            reason.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_stored_reads_back_with_its_age() {
    let dir = TempDir::new().expect("a directory");
    let state = StateDir::open(&dir.path().join("made/for/it"), &["shop".to_owned()]).expect("it is ours");
    assert!(matches!(state.load(Duration::ZERO, now()), Loaded::Nothing));
    // What was named as gone is not in what is carried over, whose digest does not follow.
    let gone = Touched { instances: [endpoint(5).key].into(), ..Touched::default() };
    let carried =
        saved().carried.map(|carried| carried.carrying_over(&snapshot("older", 6..9, true)).without(&gone));
    let written = Saved { carried, ..saved() };
    state.save(&written, now()).expect("it is stored");
    let age = Duration::from_secs(60);
    let Loaded::Found(read, found) = state.load(age, now() + age) else { panic!("it is not too old") };
    assert_eq!(found, age);
    assert_eq!((read.current.position(), read.current.settled()), (written.current.position(), false));
    let ids = |saved: &Saved| {
        let carried = saved.carried.as_ref().expect("it was stored");
        let mut ids: Vec<String> = carried.instances().map(|endpoint| endpoint.key.to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&read), ids(&written));
    assert!(!ids(&read).is_empty());
}

#[tokio::test]
async fn what_says_nothing_yet_is_not_stored() {
    let empty =
        |settled| Snapshot::empty("new").change(Change::default(), 1, settled).expect("it is sound").0;
    let known = || Some(snapshot("old", 1..3, true));
    for (current, carried, kept) in [
        (empty(false), None, false),
        (empty(false), known(), true),
        (empty(true), None, true),
        (snapshot("new", 1..2, false), None, true),
    ] {
        let dir = TempDir::new().expect("a directory");
        let state = Arc::new(StateDir::open(dir.path(), &[]).expect("it is ours"));
        let (status, metrics) = (Arc::new(Status::new(now())), Arc::new(Metrics::new()));
        let (sender, latest) = watch::channel(None);
        let stop = CancellationToken::new();
        let saving = tokio::spawn(saver::run(Arc::clone(&state), latest, status, metrics, stop.clone()));
        sender.send_replace(Some(Saved { current, carried }));
        stop.cancel();
        saving.await.expect("no panic");
        assert_eq!(matches!(state.load(Duration::ZERO, now()), Loaded::Found(..)), kept);
    }
}

#[test]
fn what_is_too_old_or_of_other_namespaces_is_refused() {
    let hour = Duration::from_secs(3600);
    let (_dir, state) = stored(&file::encode(&saved(), &[], now()));
    assert!(matches!(state.load(Duration::ZERO, now() + 9999 * hour), Loaded::Found(..)), "0 is any age");
    let reason = refused(&state, 24 * hour, now() + 25 * hour);
    assert!(reason.contains("1day 1h old") && reason.contains("--state-max-age is 1day"), "{reason}");
    let (_dir, state) = stored(&file::encode(&saved(), &["shop".to_owned()], now()));
    assert!(refused(&state, hour, now()).contains("[\"shop\"]"));
}

#[test]
fn what_is_foreign_or_of_another_version_is_refused() {
    let reason = |bytes: &[u8]| refused(&stored(bytes).1, Duration::ZERO, now());
    assert!(reason(b"#!/bin/sh\n").contains("does not begin as a stored snapshot does"));
    assert!(reason(b"").contains("does not begin"));
    assert!(reason(b"WAYPOSTS\x02\0\0\0").contains("format 2"));
    assert!(reason(b"WAYPOSTS\x01\0\0\0").contains("damaged"));
}

#[test]
fn a_directory_belongs_to_one_proxy_and_keeps_its_id() {
    let dir = TempDir::new().expect("a directory");
    let state = StateDir::open(dir.path(), &[]).expect("it is ours");
    let error = StateDir::open(dir.path(), &[]).expect_err("it is taken");
    assert!(error.to_string().contains("in use by another proxy"), "{error}");
    assert_eq!(state.proxy_id(|| "first".to_owned()).expect("it is kept"), "first");
    drop(state);
    let state = StateDir::open(dir.path(), &[]).expect("it is free again");
    assert_eq!(state.proxy_id(|| "second".to_owned()).expect("it is kept"), "first");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("it is written");
    let error = StateDir::open(&file.join("below"), &[]).expect_err("a file is no directory");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

proptest! {
    #[test]
    fn no_damage_goes_unnoticed(at: prop::sample::Index, bit in 0..8_u8, cut: prop::sample::Index) {
        let bytes = file::encode(&saved(), &[], now());
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(file::decode(&flipped, &[]).is_err());
        prop_assert!(file::decode(&bytes[..cut.index(bytes.len())], &[]).is_err());
        let longer = [bytes.as_slice(), &[0]].concat();
        prop_assert!(file::decode(&longer, &[]).is_err());
        prop_assert!(file::decode(&bytes, &[]).is_ok());
    }
}

#[test]
fn only_the_owner_may_read_what_is_stored() {
    use std::os::unix::fs::PermissionsExt;

    let dir = TempDir::new().expect("a directory");
    fs::write(dir.path().join("snapshot.new"), "left by a crash").expect("it is written");
    let state = StateDir::open(dir.path(), &[]).expect("it is ours");
    state.save(&saved(), now()).expect("it is stored");
    let mode = fs::metadata(dir.path().join(SNAPSHOT)).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "there are private keys in it");
}
