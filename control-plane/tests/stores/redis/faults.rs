//! What only Redis promises, and what must hold when it fails.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use waypost_control_plane::store::{
    Commit, LeaseChange, Mutation, Now, Record, Renewal, Store, StoreError, StoreOptions, Watch, Written,
    conformance::{emptied, event, record},
};
use waypost_proto::v1::EventKind;

use super::{TTL, open, patient};
use crate::{
    servers::{
        free_port,
        redis::{Redis, Watched, cluster},
    },
    trial,
};

/// The time-out of the stores here: short, so that it is reached.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What a busy machine may add to it.
const LATE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("redis", "kill -9 loses nothing acknowledged", kill_loses_nothing_acknowledged),
        trial("redis", "a frozen server is noticed in time", a_frozen_server_is_noticed_in_time),
        trial("redis", "an absent server is noticed in time", an_absent_server_is_noticed_in_time),
        trial("redis", "a lost answer is found again", a_lost_answer_is_found_again),
        trial("redis", "scripts that are flushed are sent again", scripts_that_are_flushed_are_sent_again),
        trial("redis", "what is gone is another history", what_is_gone_is_another_history),
        trial("redis", "a server that went back begins another history", a_server_that_went_back),
        trial("redis", "no revision stands for two changes", no_revision_stands_for_two_changes),
        trial("redis", "what only one has seen is lost for all", what_only_one_has_seen_is_lost_for_all),
        trial("redis", "a watch from a forgotten revision is told so", a_forgotten_revision_is_told),
        trial("redis", "a lapsed lease is swept once", a_lapsed_lease_is_swept_once),
        trial("redis", "a standstill is nobody's death", a_standstill_is_nobodys_death),
        trial("redis", "a load stands for one revision", a_load_stands_for_one_revision),
        trial("redis", "a fail-over is followed", a_fail_over_is_followed),
        trial("redis", "a slot that moves is followed", a_slot_that_moves_is_followed),
        trial("redis", "a commit waits for replicas", a_commit_waits_for_replicas),
        trial("redis", "what is refused is named, and no secret", what_is_refused_is_named),
        trial("redis", "a bad configuration is found", a_bad_configuration_is_found),
    ]
}

/// The permissions that a user needs, as `REDIS.md` says them.
pub(super) fn grants() -> Vec<&'static str> {
    let page = include_str!("../../../src/store/REDIS.md");
    let rule = page.lines().find(|line| line.contains("+evalsha")).expect("the page says which");
    rule.split_whitespace().filter(|word| word.starts_with('+')).collect()
}

async fn store(redis: &Redis) -> Arc<dyn Store> {
    impatient(&format!("redis://127.0.0.1:{}", redis.port)).await
}

async fn impatient(url: &str) -> Arc<dyn Store> {
    open(url, &StoreOptions { timeout: TIMEOUT, ..StoreOptions::default() }).await
}

fn sample(key: &str) -> Record {
    Record { ttl: TTL, ..record(key, 1, Now::read()) }
}

fn put(record: Record, expected: Option<u64>) -> Mutation {
    let event = Some(event(&record, EventKind::Registered));
    Mutation::Put { record, expected, lease: LeaseChange::Grant, event }
}

fn remove(record: &Record, expected: u64, lapsed: bool) -> Mutation {
    let emptied = emptied(record, Now::read());
    let event = event(record, EventKind::Expired);
    Mutation::Remove { key: record.key().clone(), expected, lapsed, emptied, event }
}

async fn commit(store: &Arc<dyn Store>, mutation: Mutation) -> Result<u64, StoreError> {
    store.commit(mutation, Now::read()).await
}

async fn committed(store: &Arc<dyn Store>, mutation: Mutation) -> u64 {
    commit(store, mutation).await.expect("it commits")
}

async fn next(watch: &mut Watch) -> Result<Arc<Commit>, StoreError> {
    timeout(PATIENCE, watch.next()).await.expect("something comes").expect("it goes on")
}

/// Tries again until it succeeds.
async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    mut attempt: impl FnMut() -> F,
) -> T {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The error of an operation, which must come in time.
#[track_caller]
fn unavailable_in_time<T: std::fmt::Debug>(begun: Instant, outcome: &Result<T, StoreError>) {
    let elapsed = begun.elapsed();
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert!(elapsed < TIMEOUT + LATE, "it took {elapsed:?}");
}

async fn kill_loses_nothing_acknowledged() {
    let mut redis = Redis::start(&[]);
    let store = store(&redis).await;
    let history = store.load().await.expect("it loads").history;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut acknowledged = Vec::new();
            loop {
                let key = format!("users/i{}", acknowledged.len());
                match commit(&store, put(sample(&key), None)).await {
                    Ok(revision) => acknowledged.push((key, revision)),
                    Err(_) => return acknowledged,
                }
            }
        }
    });
    let mut watch = store.watch(0).await.expect("it is watched");
    for _ in 0..100 {
        next(&mut watch).await.expect("a commit");
    }
    redis.server.kill();
    let acknowledged = writer.await.expect("it has ended");
    redis.server.start_again();
    let loaded = store.load().await.expect("it loads, without a restart of ours");
    assert_eq!(*loaded.history, *history);
    assert!(!acknowledged.is_empty());
    let held: BTreeMap<String, u64> =
        loaded.records.iter().map(|record| (record.key().to_string(), record.revision)).collect();
    for (key, revision) in &acknowledged {
        assert_eq!(held.get(key), Some(revision), "{key} was acknowledged");
    }
    let (_, last) = acknowledged.last().expect("there are some");
    assert!(loaded.revision > *last, "a new term is above all that was seen");
    let outcome = store.watch(*last).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
    let mut watch = store.watch(loaded.revision).await.expect("it is watched");
    let revision = committed(&store, Mutation::Complete).await;
    assert_eq!(next(&mut watch).await.expect("a commit").revision, revision);
}

async fn a_frozen_server_is_noticed_in_time() {
    let redis = Redis::start(&[]);
    let store = store(&redis).await;
    let first = committed(&store, put(sample("users/a"), None)).await;
    let mut watch = store.watch(first).await.expect("it is watched");
    redis.server.freeze();
    let begun = Instant::now();
    let beats = [(sample("users/a").key().clone(), 1)];
    let all = tokio::join!(
        async { unavailable_in_time(begun, &commit(&store, put(sample("users/b"), None)).await) },
        async { unavailable_in_time(begun, &store.renew(&beats, Now::read()).await) },
        async { unavailable_in_time(begun, &store.lapsed(Now::read()).await) },
        async { unavailable_in_time(begun, &store.load().await) },
        async { unavailable_in_time(begun, &store.watch(first).await.map(|_| ())) },
        async { unavailable_in_time(begun, &next(&mut watch).await) },
    );
    let ((), (), (), (), (), ()) = all;
    let outcome = store.examine().await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    redis.server.thaw();
    // What was sent before may be made now, or not: but once, and the watch knows.
    let outcome = commit(&store, put(sample("users/b"), None)).await;
    let loaded = store.load().await.expect("it loads");
    assert_eq!(loaded.records.len(), 2, "{outcome:?}");
    assert_eq!(loaded.revision, first + 1, "{outcome:?}");
    let mut watch = store.watch(first).await.expect("it is watched");
    assert_eq!(next(&mut watch).await.expect("a commit").revision, first + 1);
}

async fn an_absent_server_is_noticed_in_time() {
    let url = format!("redis://me:secret@127.0.0.1:{}", free_port());
    let store = impatient(&url).await;
    let begun = Instant::now();
    let outcome = store.load().await;
    let shown = format!("{outcome:?}");
    unavailable_in_time(begun, &outcome);
    assert!(!shown.contains("secret") && !store.url().contains("secret"), "{shown}");
}

/// Forwards to a server, until it is told to lose an answer and the connection with it.
async fn loses_an_answer(server: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let lose = Arc::new(AtomicBool::new(false));
    let forwarder = lose.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let lose = forwarder.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("the server listens");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let there =
                    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut answer = vec![0; 65536];
                while let Ok(length @ 1..) = from_server.read(&mut answer).await {
                    if lose.swap(false, Ordering::AcqRel)
                        || to_client.write_all(&answer[..length]).await.is_err()
                    {
                        break;
                    }
                }
                there.abort();
            });
        }
    });
    (port, lose)
}

async fn a_lost_answer_is_found_again() {
    let redis = Redis::start(&[]);
    let (port, lose) = loses_an_answer(redis.port).await;
    let store = impatient(&format!("redis://127.0.0.1:{port}")).await;
    let first = committed(&store, put(sample("users/a"), None)).await;
    lose.store(true, Ordering::Release);
    let second = committed(&store, put(sample("users/b"), None)).await;
    assert!(!lose.load(Ordering::Acquire), "an answer was lost");
    let loaded = store.load().await.expect("it loads");
    assert_eq!((second, loaded.revision, loaded.events.len()), (first + 1, first + 1, 2), "it is made once");
    lose.store(true, Ordering::Release);
    let third = committed(&store, remove(&sample("users/b"), second, false)).await;
    assert_eq!((third, store.load().await.expect("it loads").revision), (second + 1, second + 1));
}

async fn scripts_that_are_flushed_are_sent_again() {
    let redis = Redis::start(&[]);
    let store = store(&redis).await;
    for round in 0..3 {
        committed(&store, put(sample(&format!("users/i{round}")), None)).await;
        assert_eq!(redis.say(&["SCRIPT", "FLUSH"]), "OK");
        store.lapsed(Now::read()).await.expect("it answers");
        assert_eq!(redis.say(&["SCRIPT", "FLUSH"]), "OK");
    }
    assert_eq!(store.load().await.expect("it loads").records.len(), 3);
}

async fn what_is_gone_is_another_history() {
    let redis = Redis::start(&[]);
    let store = store(&redis).await;
    for number in 0..5 {
        committed(&store, put(sample(&format!("users/i{number}")), None)).await;
    }
    let before = store.load().await.expect("it loads");
    let mut watch = store.watch(before.revision).await.expect("it is watched");
    assert_eq!(redis.say(&["FLUSHALL"]), "OK");
    let outcome = next(&mut watch).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
    let outcome = store.watch(before.revision).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
    let after = store.load().await.expect("it loads");
    assert!(*after.history != *before.history && !after.complete && after.records.is_empty());
    assert!(after.revision > before.revision, "revisions do not go back: {}", after.revision);
    committed(&store, put(sample("users/a"), None)).await;
}

/// A server that has lost what was written after `saved`: the revision that it has, and the one that it has not.
async fn gone_back(redis: &mut Redis, store: &Arc<dyn Store>) -> (u64, u64) {
    committed(store, Mutation::Complete).await;
    let saved = committed(store, put(sample("users/a"), None)).await;
    assert_eq!(redis.say(&["SAVE"]), "OK");
    let lost = committed(store, put(sample("users/b"), None)).await;
    redis.server.kill();
    redis.server.start_again();
    (saved, lost)
}

async fn a_server_that_went_back() {
    let mut redis = Redis::start(&["--appendonly", "no"]);
    let store = store(&redis).await;
    let history = store.load().await.expect("it loads").history;
    let (saved, lost) = gone_back(&mut redis, &store).await;
    let again = committed(&store, put(sample("users/c"), None)).await;
    assert!(again > lost, "no revision stands for two changes: {again}");
    let outcome = store.watch(lost).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
    let loaded = store.load().await.expect("it loads");
    assert!(*loaded.history != *history && !loaded.complete, "what is missing was not removed");
    let mut held: Vec<_> =
        loaded.records.iter().map(|record| (record.key().to_string(), record.revision)).collect();
    held.sort();
    assert_eq!(held, [("users/a".to_owned(), saved), ("users/c".to_owned(), again)]);
}

async fn no_revision_stands_for_two_changes() {
    let mut redis = Redis::start(&["--appendonly", "no"]);
    let one = store(&redis).await;
    committed(&one, put(sample("users/a"), None)).await;
    assert_eq!(redis.say(&["SAVE"]), "OK");
    redis.server.kill();
    redis.server.start_again();
    // A term, and what is changed in it, that the next start knows nothing of.
    let lost = committed(&one, put(sample("users/b"), None)).await;
    redis.server.kill();
    redis.server.start_again();
    let fresh = store(&redis).await;
    for number in 0..5 {
        committed(&fresh, put(sample(&format!("users/c{number}")), None)).await;
    }
    let outcome = one.watch(lost).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
}

async fn what_only_one_has_seen_is_lost_for_all() {
    let mut redis = Redis::start(&["--appendonly", "no"]);
    let (other, fresh) = (store(&redis).await, store(&redis).await);
    let before = other.load().await.expect("it loads");
    let has_seen = store(&redis).await;
    let (_, lost) = gone_back(&mut redis, &has_seen).await;
    let first = other.load().await.expect("it loads");
    assert_eq!(*first.history, *before.history, "it has seen nothing of what is lost");
    assert!(!fresh.load().await.expect("it loads").complete, "who comes new has not seen what there was");
    // Another term, which loses nothing, changes nothing of that.
    assert_eq!(redis.say(&["SAVE"]), "OK");
    redis.server.kill();
    redis.server.start_again();
    let first = other.load().await.expect("it loads");
    assert_eq!(*first.history, *before.history);
    let mut watch = other.watch(first.revision).await.expect("it is watched");
    let later = has_seen.load().await.expect("it loads");
    assert!(*later.history != *before.history && later.revision > lost && !later.complete, "{later:?}");
    let outcome = next(&mut watch).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
    for store in [&other, &has_seen, &fresh] {
        let loaded = store.load().await.expect("it loads");
        assert_eq!(*loaded.history, *later.history, "they agree, and none begins another one");
    }
}

async fn a_forgotten_revision_is_told() {
    let redis = Redis::start(&[]);
    let options = StoreOptions { remembered: 10, events: 10, ..StoreOptions::default() };
    let store = open(&format!("redis://127.0.0.1:{}", redis.port), &options).await;
    let first = committed(&store, put(sample("users/a"), None)).await;
    let mut last = first;
    for _ in 0..500 {
        last = committed(&store, put(sample("users/a"), Some(last))).await;
    }
    let Some(StoreError::Compacted { oldest }) = store.watch(first).await.err() else {
        panic!("{first} is forgotten");
    };
    assert!(oldest > first && oldest <= last - 10, "{oldest}");
    for after in [oldest, last - 10, last] {
        assert!(store.watch(after).await.is_ok(), "{after} is remembered");
    }
    let outcome = store.watch(last + 1).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "nobody made that one: {outcome:?}");
    let events = store.load().await.expect("it loads").events.len();
    assert!((10..300).contains(&events), "{events} events are kept");
}

async fn a_lapsed_lease_is_swept_once() {
    let redis = Redis::start(&[]);
    let stores = [store(&redis).await, store(&redis).await];
    let held = sample("users/a");
    let revision = committed(&stores[0], put(held.clone(), None)).await;
    eventually(async || match stores[1].lapsed(Now::read()).await.expect("it answers").leases.as_slice() {
        [] => Err("it lives"),
        _ => Ok(()),
    })
    .await;
    let sweeps = stores.iter().map(|store| commit(store, remove(&held, revision, true)));
    let outcomes = futures_util::future::join_all(sweeps).await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let lost = outcomes.iter().filter(|outcome| matches!(outcome, Err(StoreError::Conflict { .. }))).count();
    assert_eq!((won, lost), (1, 1), "{outcomes:?}");
}

async fn a_standstill_is_nobodys_death() {
    let redis = Redis::start(&[]);
    let store = store(&redis).await;
    let held = sample("users/a");
    let revision = committed(&store, put(held.clone(), None)).await;
    store.lapsed(Now::read()).await.expect("it answers");
    redis.server.freeze();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    redis.server.thaw();
    let thawed = Instant::now();
    let lapsed = store.lapsed(Now::read()).await.expect("it answers");
    assert!(lapsed.leases.is_empty() && lapsed.next.is_some(), "{lapsed:?}");
    let outcome = commit(&store, remove(&held, revision, true)).await;
    assert!(matches!(outcome, Err(StoreError::Conflict { .. })), "{outcome:?}");
    let leases = store.leases(held.key().service(), Now::read()).await.expect("it answers");
    assert!(!leases[0].remaining.is_zero(), "{leases:?}");
    eventually(async || match store.lapsed(Now::read()).await.expect("it answers").leases.as_slice() {
        [] => Err("it lives"),
        _ => Ok(()),
    })
    .await;
    assert!(thawed.elapsed() >= TTL - Duration::from_millis(100), "it had its full length again");
    committed(&store, remove(&held, revision, true)).await;
}

async fn a_load_stands_for_one_revision() {
    const INSTANCES: usize = 1200;
    let redis = Redis::start(&["--appendonly", "no"]);
    let store = store(&redis).await;
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..INSTANCES {
        let key = format!("users/i{number}");
        model.insert(key.clone(), committed(&store, put(sample(&key), None)).await);
    }
    let start = store.load().await.expect("it loads").revision;
    let mut watch = store.watch(start).await.expect("it is watched");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop, mut held) = (store.clone(), stop.clone(), model.clone());
        async move {
            let mut random = fastrand::Rng::with_seed(7);
            while !stop.load(Ordering::Acquire) {
                let key = format!("users/i{}", random.usize(0..INSTANCES));
                let mutation = match held.remove(&key) {
                    Some(revision) if random.bool() => remove(&sample(&key), revision, false),
                    revision => put(sample(&key), revision),
                };
                let stays = matches!(mutation, Mutation::Put { .. });
                let revision = committed(&store, mutation).await;
                if stays {
                    held.insert(key, revision);
                }
            }
        }
    });
    let loading = async {
        let mut loads = Vec::new();
        while loads.len() < 10 {
            loads.push(store.load().await.expect("it loads"));
        }
        stop.store(true, Ordering::Release);
        writer.await.expect("it has ended");
        loads
    };
    tokio::pin!(loading);
    // Watched meanwhile: on a slow machine there are more commits than Redis keeps.
    let mut commits = VecDeque::new();
    let loads = loop {
        tokio::select! {
            commit = next(&mut watch) => commits.push_back(commit.expect("a commit")),
            loads = &mut loading => break loads,
        }
    };
    assert!(loads[9].revision > loads[0].revision, "it changed meanwhile");
    let mut revision = start;
    for loaded in loads {
        while revision < loaded.revision {
            let commit = match commits.pop_front() {
                Some(commit) => commit,
                None => next(&mut watch).await.expect("a commit"),
            };
            match &commit.written {
                Written::Put(record) => model.insert(record.key().to_string(), commit.revision),
                Written::Removed { key, .. } => model.remove(&key.to_string()),
                _ => None,
            };
            revision = commit.revision;
        }
        let held: BTreeMap<String, u64> =
            loaded.records.iter().map(|record| (record.key().to_string(), record.revision)).collect();
        assert!(held == model, "the load of revision {revision} is not what the watch leads to");
    }
}

async fn a_fail_over_is_followed() {
    let mut servers = Watched::start();
    let url = format!("redis+sentinel://127.0.0.1:{}/primary?wait_replicas=1", servers.sentinel.port);
    let store = open(&url, &patient()).await;
    // A replica that has just been filled is slow to confirm its first change.
    eventually(async || commit(&store, Mutation::Complete).await).await;
    let first = committed(&store, put(sample("users/a"), None)).await;
    let mut watch = store.watch(first).await.expect("it is watched");
    servers.master.server.kill();
    assert!(next(&mut watch).await.is_err(), "the watch ends");
    let plain = impatient(&url.replace("?wait_replicas=1", "")).await;
    let second = eventually(async || commit(&plain, put(sample("users/b"), None)).await).await;
    let loaded = store.load().await.expect("it loads, without a restart of ours");
    assert!(second > first && loaded.revision >= second && loaded.records.len() == 2, "{loaded:?}");
    let outcome = store.watch(first).await.err();
    assert!(matches!(outcome, Some(StoreError::Compacted { .. })), "{outcome:?}");
    assert!(store.watch(loaded.revision).await.is_ok());
}

async fn a_slot_that_moves_is_followed() {
    let nodes = cluster();
    let store = impatient(&format!("redis+cluster://127.0.0.1:{}", nodes[0].port)).await;
    let first = committed(&store, put(sample("users/a"), None)).await;
    let mut watch = store.watch(first).await.expect("it is watched");
    let slot = nodes[0].say(&["CLUSTER", "KEYSLOT", "{waypost}"]);
    let keys = |node: &Redis| node.say(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
    let from = nodes.iter().find(|node| keys(node).contains("{waypost}:meta")).expect("one has it");
    let to = nodes.iter().find(|node| node.port != from.port).expect("there are others");
    let [from_id, to_id] = [from, to].map(|node| node.say(&["CLUSTER", "MYID"]));
    to.say(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.say(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let (moved, port) = (keys(from), to.port.to_string());
    let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    let told = from.say(&migrate.into_iter().chain(moved.lines()).collect::<Vec<_>>());
    assert_eq!(told, "OK");
    for node in [to, from].into_iter().chain(&nodes) {
        node.say(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    assert!(next(&mut watch).await.is_err(), "the watch ends");
    let second = eventually(async || commit(&store, put(sample("users/b"), None)).await).await;
    let loaded = store.load().await.expect("it loads");
    assert!(second > first && loaded.records.len() == 2 && keys(to).contains("{waypost}:meta"), "{loaded:?}");
}

async fn a_commit_waits_for_replicas() {
    let master = Redis::start(&["--repl-diskless-sync-delay", "0"]);
    let url = format!("redis://127.0.0.1:{}", master.port);
    let store = impatient(&format!("{url}?wait_replicas=1")).await;
    let outcome = commit(&store, put(sample("users/a"), None)).await;
    let told = outcome.expect_err("there is no replica").to_string();
    assert!(told.contains("only 0 of 1 replicas"), "{told}");
    let findings = store.examine().await.expect("it answers");
    assert!(findings.iter().any(|finding| finding.subject == "replicas" && !finding.good), "{findings:?}");
    let _replica = Redis::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
    eventually(async || commit(&store, Mutation::Complete).await).await;
    let findings = store.examine().await.expect("it answers");
    assert!(findings.iter().all(|finding| finding.good), "{findings:?}");
}

async fn what_is_refused_is_named() {
    let grants = grants();
    let user = ["--user", "default", "off", "--user", "full", "on", ">secret", "~{waypost}*"];
    let partly: Vec<&str> = grants.iter().copied().filter(|grant| *grant != "+xadd").collect();
    let partial = ["--user", "partial", "on", ">secret", "~{waypost}*"];
    let elsewhere = ["--user", "elsewhere", "on", ">secret", "~other*"];
    let rules = [&user[..], &grants, &partial, &partly, &elsewhere, &grants].concat();
    let redis = Redis::start(&rules);
    let at = |user: &str, more: &str| format!("redis://{user}@127.0.0.1:{}{more}", redis.port);
    for (url, word) in [
        (at("full:secret2", ""), "authentication"),
        (at("nobody:secret", ""), "authentication"),
        (at("", ""), "NOAUTH"),
        (at("full:secret", "?db=99"), "DB index"),
        (at("partial:secret", ""), "xadd"),
        (at("elsewhere:secret", ""), "NOPERM"),
    ] {
        let store = impatient(&url).await;
        let refused = store.load().await.expect_err(&url);
        let told = refused.to_string();
        assert!(matches!(refused, StoreError::Refused(_)), "{url}: {told}");
        assert!(told.to_lowercase().contains(&word.to_lowercase()), "{url}: {told}");
        let commit = commit(&store, put(sample("users/a"), None)).await.expect_err(&url).to_string();
        assert!(!format!("{told}{commit}{}", store.url()).contains("secret"), "{told}");
    }
    let store = impatient(&at("partial:secret", "")).await;
    let findings = store.examine().await.expect("it answers");
    let permissions =
        findings.iter().find(|finding| finding.subject == "permissions").expect("it is looked at");
    assert!(!permissions.good && permissions.remedy.contains("+xadd"), "{permissions:?}");
    let options = StoreOptions { password: Some("secret".to_owned()), ..StoreOptions::default() };
    let store = open(&at("full", ""), &options).await;
    committed(&store, put(sample("users/a"), None)).await;
    let renewed = store.renew(&[(sample("users/a").key().clone(), 1)], Now::read()).await;
    assert_eq!(renewed, Ok(vec![Renewal::Renewed]));
}

async fn a_bad_configuration_is_found() {
    let redis = Redis::start(&["--appendonly", "no", "--maxmemory-policy", "allkeys-lru"]);
    let findings = store(&redis).await.examine().await.expect("it answers");
    let bad: Vec<&str> =
        findings.iter().filter(|finding| !finding.good).map(|finding| finding.subject.as_str()).collect();
    assert_eq!(bad, ["eviction", "persistence"], "{findings:?}");
    assert!(findings.iter().all(|finding| finding.good == finding.remedy.is_empty()), "{findings:?}");
}
