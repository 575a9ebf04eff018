//! Servers that die, stand still, compact, or lose everything; answers that are lost; and many at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use waypost_control_plane::{
    registry::{self, Beat, Registry},
    store::{LeaseChange, Mutation, Now, Record, Renewal, Store, StoreError, StoreOptions},
};
use waypost_proto::{
    name::InstanceKey,
    v1::{BeatOutcome, EventKind},
};

use super::{
    Shared, TTL, case, commit, committed, impatient, next, open, options, prefix, put, put_with, record,
    remove, revisions, until,
};
use crate::{servers::etcd::Etcd, trial};

pub(super) fn trials(shared: &Arc<Shared>) -> Vec<Trial> {
    vec![
        trial("etcd", "a killed server loses nothing", a_killed_server_loses_nothing),
        trial("etcd", "a frozen server is noticed in time", a_frozen_server_is_noticed_in_time),
        trial("etcd", "a cluster goes on when its leader dies", async || {
            a_cluster_goes_on_without_its_leader(|leader| leader.server.kill()).await;
        }),
        trial("etcd", "a cluster goes on when its leader stands still", async || {
            a_cluster_goes_on_without_its_leader(|leader| leader.server.freeze()).await;
        }),
        trial("etcd", "a full database is said to be full", a_full_database_is_said_to_be_full),
        trial("etcd", "what is compacted is not waited for", what_is_compacted_is_not_waited_for),
        trial("etcd", "lost data is a new history", lost_data_is_a_new_history),
        trial("etcd", "after lost data leases lapse again", after_lost_data_leases_lapse_again),
        case(shared, "a lost answer is asked for again", a_lost_answer_is_asked_for_again),
        case(shared, "of two that sweep one wins", of_two_that_sweep_one_wins),
        case(shared, "others do not disturb", others_do_not_disturb),
        case(shared, "ten thousand beats are all answered", ten_thousand_beats),
        case(shared, "who registers again keeps the etcd lease of the same length", a_lease_is_kept),
        case(shared, "registries share it", registries_share_it),
        case(shared, "old events are removed", old_events_are_removed),
    ]
}

fn url(members: &[&Etcd]) -> String {
    let hosts: Vec<String> = members.iter().map(|etcd| format!("127.0.0.1:{}", etcd.port)).collect();
    format!("etcd://{}/{}", hosts.join(","), prefix())
}

fn key(text: &str) -> InstanceKey {
    text.parse().expect("a good key")
}

/// The instances that a store holds.
async fn held(store: &Arc<dyn Store>) -> BTreeSet<String> {
    let loaded = store.load().await.expect("it loads");
    loaded.records.iter().map(|record| record.key().to_string()).collect()
}

async fn a_killed_server_loses_nothing() {
    let mut etcd = Etcd::start(None, &[]);
    let store = open(&url(&[&etcd]), &impatient()).await;
    let start = store.load().await.expect("it loads").revision;
    let mut watch = store.watch(start).await.expect("it is watched");
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let name = format!("users/i{number}");
                match commit(&store, put(&name, 1)).await {
                    Ok(revision) => acknowledged.push((revision, name)),
                    Err(_) => break,
                }
            }
            acknowledged
        }
    });
    revisions(&mut watch, 30).await;
    etcd.server.kill();
    let acknowledged = writer.await.expect("it ends");
    assert!(acknowledged.len() >= 29, "all that came back but the last, whose answer may be under way");
    while next(&mut watch).await.is_ok() {}
    assert!(matches!(store.load().await, Err(StoreError::Unavailable(_))));
    etcd.start_again();
    let loaded = store.load().await.expect("it loads again");
    let known: BTreeSet<(u64, String)> =
        loaded.records.iter().map(|record| (record.revision, record.key().to_string())).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|entry| !known.contains(entry)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let mut watch = store.watch(start).await.expect("it is watched from before the kill");
    let seen = revisions(&mut watch, known.len()).await;
    assert_eq!(seen, known.iter().map(|(revision, _)| *revision).collect::<Vec<_>>());
    let renewals = store.renew(&[(key("users/i0"), 1)], Now::read()).await;
    assert_eq!(renewals, Ok(vec![Renewal::Renewed]), "leases survive, too");
}

async fn a_frozen_server_is_noticed_in_time() {
    let etcd = Etcd::start(None, &[]);
    let store = open(&url(&[&etcd]), &impatient()).await;
    let first = committed(&store, put("users/a", 1)).await;
    let mut watch = store.watch(first).await.expect("it is watched");
    let beat = [(key("users/a"), 1)];
    store.renew(&beat, Now::read()).await.expect("it answers");
    etcd.server.freeze();
    let frozen = Instant::now();
    let limit = impatient().timeout + Duration::from_millis(500);
    let (commit_end, renew_end, lapsed_end, load_end, watch_end) = tokio::join!(
        commit(&store, put("users/b", 1)),
        store.renew(&beat, Now::read()),
        async {
            // The copy of the leases is known to be out of step only once its watch has asked for a sign of life.
            tokio::time::sleep(impatient().timeout).await;
            store.lapsed(Now::read()).await
        },
        store.load(),
        next(&mut watch),
    );
    assert!(frozen.elapsed() < limit * 4, "{:?}", frozen.elapsed());
    assert!(matches!(commit_end, Err(StoreError::Unavailable(_))), "{commit_end:?}");
    assert!(matches!(renew_end, Err(StoreError::Unavailable(_))), "{renew_end:?}");
    assert!(matches!(lapsed_end, Err(StoreError::Unavailable(_))), "{lapsed_end:?}");
    assert!(matches!(load_end, Err(StoreError::Unavailable(_))), "{:?}", load_end.err());
    assert!(matches!(watch_end, Err(StoreError::Unavailable(_))), "{watch_end:?}");
    for timed in [commit(&store, put("users/c", 1)).await.err(), store.watch(first).await.err()] {
        assert!(matches!(timed, Some(StoreError::Unavailable(_))), "{timed:?}");
    }
    etcd.server.thaw();
    until("it commits again", async || commit(&store, put("users/d", 1)).await.is_ok()).await;
    let last = store.load().await.expect("it loads").revision;
    let mut watch = store.watch(first).await.expect("it is watched");
    let mut seen = first;
    while seen < last {
        let commit = next(&mut watch).await.expect("a commit");
        assert!(commit.revision > seen, "in order, and each once");
        seen = commit.revision;
    }
    assert!(store.lapsed(Now::read()).await.is_ok() && store.renew(&beat, Now::read()).await.is_ok());
}

async fn a_cluster_goes_on_without_its_leader(strike: fn(&mut Etcd)) {
    let mut members = tokio::task::spawn_blocking(Etcd::cluster).await.expect("a cluster");
    let store = open(&url(&members.each_ref()), &options()).await;
    let start = store.load().await.expect("it loads").revision;
    let mut watch = store.watch(start).await.expect("it is watched");
    let mut revision = committed(&store, put("users/before", 1)).await;
    let leader = members.iter().position(Etcd::leads).expect("a leader");
    strike(&mut members[leader]);
    for number in 0..20 {
        let name = format!("users/i{number}");
        until("it commits", async || match commit(&store, put(&name, 1)).await {
            Ok(_) => true,
            // An attempt that was reported as unavailable may have been made all the same.
            Err(StoreError::Conflict { .. }) => true,
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
                false
            }
        })
        .await;
    }
    let expected: BTreeSet<String> =
        (0..20).map(|number| format!("users/i{number}")).chain(["users/before".to_owned()]).collect();
    assert_eq!(held(&store).await, expected);
    let mut seen = Vec::new();
    let mut after = start;
    while seen.len() < expected.len() {
        match next(&mut watch).await {
            Ok(commit) => {
                assert!(commit.revision > after, "in order, and each once");
                after = commit.revision;
                seen.push(after);
            }
            Err(StoreError::Unavailable(_)) => {
                until("it is watched again", async || store.watch(after).await.is_ok()).await;
                watch = store.watch(after).await.expect("it is watched again");
            }
            Err(error) => panic!("{error}"),
        }
    }
    revision = revision.max(after);
    assert_eq!(store.load().await.expect("it loads").revision, revision);
    let renewed = store.renew(&[(key("users/i19"), 1)], Now::read()).await;
    assert_eq!(renewed, Ok(vec![Renewal::Renewed]));
}

/// Several write at once: then etcd also refuses what it has applied all the same.
async fn a_full_database_is_said_to_be_full() {
    let etcd = Etcd::start(None, &["--quota-backend-bytes=4000000"]);
    let store = open(&url(&[&etcd]), &options()).await;
    let big = |name: &str, expected| {
        let record = Record { client: "x".repeat(100_000).into(), ..record(name, 1) };
        Mutation::Put { record, expected, lease: LeaseChange::Keep, event: None }
    };
    store.load().await.expect("it loads");
    let written = join_all((0..8).map(async |number| {
        let name = format!("users/i{number}");
        let mut written = None;
        loop {
            match commit(&store, big(&name, written)).await {
                Ok(revision) => written = Some(revision),
                Err(StoreError::Refused(why)) if why.contains("alarm disarm") => break (name, written),
                Err(error) => panic!("{error}"),
            }
        }
    }))
    .await;
    let findings = store.examine().await.expect("it answers");
    let space = findings.iter().find(|finding| finding.subject == "space").expect("it was looked at");
    assert!(!space.good && space.detail.contains("NOSPACE") && space.remedy.contains("defrag"), "{space:?}");
    let loaded = store.load().await.expect("what is there can be read");
    let held = loaded.records.iter().map(|record| (record.key().to_string(), Some(record.revision)));
    let written: BTreeMap<String, Option<u64>> = written.into_iter().collect();
    let acknowledged = written.clone().into_iter().filter(|(_, revision)| revision.is_some());
    assert_eq!(held.collect::<BTreeMap<_, _>>(), acknowledged.collect(), "what was refused is not there");
    etcd.control(&["compact", &loaded.revision.to_string()]);
    etcd.control(&["defrag"]);
    etcd.control(&["alarm", "disarm"]);
    committed(&store, big("users/i0", written["users/i0"])).await;
    assert!(store.examine().await.expect("it answers").iter().all(|finding| finding.good));
}

async fn what_is_compacted_is_not_waited_for() {
    let etcd = Etcd::start(None, &[]);
    let store = open(&url(&[&etcd]), &options()).await;
    let mut seen = Vec::new();
    for number in 0..4 {
        seen.push(committed(&store, put(&format!("users/i{number}"), 1)).await);
    }
    let mut kept = store.watch(seen[3]).await.expect("it is watched");
    etcd.control(&["compact", &seen[2].to_string()]);
    for after in [0, seen[0]] {
        let error = store.watch(after).await.err();
        let Some(StoreError::Compacted { oldest }) = error else { panic!("after {after}: {error:?}") };
        assert!(store.watch(oldest).await.is_ok(), "a watch can begin after {oldest}");
    }
    let mut resumed = store.watch(seen[1]).await.expect("these are remembered");
    assert_eq!(revisions(&mut resumed, 2).await, seen[2..]);
    // Others write a lot, and all of it is compacted: nothing of ours is missed by that.
    for _ in 0..5 {
        etcd.control(&["put", "/elsewhere", "x"]);
    }
    let far = seen[3] + 5;
    etcd.control(&["compact", &far.to_string()]);
    let mut quiet = store.watch(seen[3]).await.expect("nothing has happened since");
    let last = committed(&store, put("users/last", 1)).await;
    assert_eq!(revisions(&mut quiet, 1).await, [last]);
    assert_eq!(revisions(&mut kept, 1).await, [last], "a watch that is there misses nothing either");
}

async fn lost_data_is_a_new_history() {
    let etcd = Etcd::start(None, &[]);
    let store = open(&url(&[&etcd]), &options()).await;
    committed(&store, put("users/a", 1)).await;
    let before = store.load().await.expect("it loads");
    let mut watch = store.watch(before.revision).await.expect("it is watched");
    etcd.control(&["del", "--prefix", "/waypost/"]);
    let ended = next(&mut watch).await.err();
    assert!(matches!(ended, Some(StoreError::Compacted { .. })), "{ended:?}");
    let late = commit(&store, put("users/b", 1)).await.expect_err("it was planned from what is lost");
    assert!(matches!(late, StoreError::Unavailable(_)), "{late:?}");
    let again = store.watch(before.revision).await.err();
    assert!(matches!(again, Some(StoreError::Compacted { .. })), "{again:?}");
    let after = store.load().await.expect("it loads");
    assert!(after.history != before.history && after.records.is_empty() && !after.complete, "{after:?}");
    let mut watch = store.watch(after.revision).await.expect("the new history is followed");
    let revision = committed(&store, put("users/c", 1)).await;
    assert_eq!(revisions(&mut watch, 1).await, [revision]);
}

/// Then etcd counts from the beginning.
async fn after_lost_data_leases_lapse_again() {
    let mut etcd = Etcd::start(None, &[]);
    let store = open(&url(&[&etcd]), &impatient()).await;
    for number in 0..200 {
        committed(&store, put(&format!("users/i{number}"), 1)).await;
    }
    etcd.server.kill();
    std::fs::remove_dir_all(etcd.server.directory().join("data")).expect("it is gone");
    tokio::task::block_in_place(|| etcd.start_again());
    until("it is loaded again", async || store.load().await.is_ok_and(|all| all.records.is_empty())).await;
    committed(&store, put("users/new", 1)).await;
    let lapsed = vec![(key("users/new"), 1)];
    until("the lease lapses", async || store.lapsed(Now::read()).await.is_ok_and(|all| all.leases == lapsed))
        .await;
}

/// Passes bytes on to a server; from the server back only while it may.
async fn one_way(target: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mute = Arc::new(AtomicBool::new(false));
    let muted = mute.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let muted = muted.clone();
            tokio::spawn(async move {
                let address = SocketAddr::from(([127, 0, 0, 1], target));
                let server = TcpStream::connect(address).await.expect("the server is there");
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let back = async {
                    let mut piece = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = from_server.read(&mut piece).await {
                        // A connection of which something was lost stays silent.
                        if muted.load(Ordering::Relaxed) || to_client.write_all(&piece[..read]).await.is_err()
                        {
                            std::future::pending::<()>().await;
                        }
                    }
                };
                tokio::join!(back, tokio::io::copy(&mut from_client, &mut to_server)).1.ok();
            });
        }
    });
    (port, mute)
}

async fn a_lost_answer_is_asked_for_again(shared: Arc<Shared>) {
    let below = prefix();
    let (port, mute) = one_way(shared.server().port).await;
    let store = open(&format!("etcd://127.0.0.1:{port}/{below}"), &options()).await;
    let direct = open(&format!("etcd://127.0.0.1:{}/{below}", shared.server().port), &options()).await;
    let start = store.load().await.expect("it loads").revision;
    let mut watch = direct.watch(start).await.expect("it is watched");
    for (number, heard) in [true, false].into_iter().enumerate() {
        let name = format!("users/i{number}");
        mute.store(true, Ordering::Relaxed);
        let committing = tokio::spawn({
            let (store, name) = (store.clone(), name.clone());
            async move { commit(&store, put_with(&name, 1, LeaseChange::Keep)).await }
        });
        let made = next(&mut watch).await.expect("it was made");
        if heard {
            mute.store(false, Ordering::Relaxed);
            assert_eq!(committing.await.expect("it ends"), Ok(made.revision), "told as it was");
        } else {
            let outcome = committing.await.expect("it ends");
            assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "never a conflict: {outcome:?}");
            mute.store(false, Ordering::Relaxed);
        }
        assert_eq!(direct.load().await.expect("it loads").revision, made.revision, "once");
    }
    // Even if it is gone again by then: an answer that comes late is about what was.
    let last =
        committed(&direct, remove("users/i1", direct.load().await.expect("it loads").revision, false)).await;
    assert_eq!(next(&mut watch).await.expect("a commit").revision, last);
}

async fn of_two_that_sweep_one_wins(shared: Arc<Shared>) {
    let url = shared.url();
    let stores = [open(&url, &options()).await, open(&url, &options()).await];
    let mut revisions = Vec::new();
    for number in 0..5 {
        revisions.push(committed(&stores[0], put(&format!("users/i{number}"), 1)).await);
    }
    for store in &stores {
        until("all leases have lapsed", async || {
            store.lapsed(Now::read()).await.expect("it answers").leases.len() == 5
        })
        .await;
    }
    for (number, revision) in revisions.into_iter().enumerate() {
        let name = format!("users/i{number}");
        let outcomes =
            join_all(stores.iter().map(|store| commit(store, remove(&name, revision, true)))).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let lost =
            outcomes.iter().filter(|outcome| matches!(outcome, Err(StoreError::Conflict { .. }))).count();
        assert_eq!((won, lost), (1, 1), "{outcomes:?}");
    }
    for store in &stores {
        until("nothing has lapsed", async || {
            store.lapsed(Now::read()).await.expect("it answers").leases.is_empty()
        })
        .await;
    }
    // A beat by one replica for what another has just registered is not taken for a ghost's.
    for epoch in 1..20 {
        let name = format!("orders/i{epoch}");
        committed(&stores[0], put(&name, epoch)).await;
        let beat = [(key(&name), epoch)];
        assert_eq!(stores[1].renew(&beat, Now::read()).await, Ok(vec![Renewal::Renewed]));
    }
}

async fn others_do_not_disturb(shared: Arc<Shared>) {
    let mine = open(&shared.url(), &options()).await;
    let theirs = open(&shared.url(), &options()).await;
    let start = committed(&mine, put("users/a", 1)).await;
    let mut watch = mine.watch(start).await.expect("it is watched");
    for number in 0..10 {
        committed(&theirs, put(&format!("users/i{number}"), 1)).await;
        shared.server().control(&["put", "/elsewhere", "x"]);
    }
    assert_eq!(mine.load().await.expect("it loads").revision, start, "theirs are not ours");
    let last = committed(&mine, Mutation::Complete).await;
    assert_eq!(revisions(&mut watch, 1).await, [last]);
    assert_eq!(held(&mine).await, BTreeSet::from(["users/a".to_owned()]));
}

async fn a_lease_is_kept(shared: Arc<Shared>) {
    let url = shared.url();
    let store = open(&url, &options()).await;
    let prefix = url.rsplit('/').next().expect("a prefix");
    let lease = || {
        let alive = format!("/waypost/{prefix}/leases/alive/default/users/a");
        let found = shared.server().control(&["get", &alive, "-w", "json"]);
        let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
        found["kvs"][0]["lease"].to_string()
    };
    let again = |epoch, ttl, expected| {
        let record = Record { ttl, ..record("users/a", epoch) };
        Mutation::Put { record, expected, lease: LeaseChange::Grant, event: None }
    };
    let long = Duration::from_secs(60);
    let revision = committed(&store, again(1, long, None)).await;
    let first = lease();
    store.lapsed(Now::read()).await.expect("it has seen its own lease");
    let conflict = commit(&store, again(2, long, Some(revision + 1))).await;
    assert!(matches!(conflict, Err(StoreError::Conflict { .. })), "{conflict:?}");
    let revision = committed(&store, again(2, long, Some(revision))).await;
    assert_eq!(lease(), first);
    let beat = async |epoch| store.renew(&[(key("users/a"), epoch)], Now::read()).await;
    assert_eq!(beat(1).await, Ok(vec![Renewal::Stale]));
    assert_eq!(beat(2).await, Ok(vec![Renewal::Renewed]));
    let revision = committed(&store, again(3, long * 2, Some(revision))).await;
    assert_ne!(lease(), first, "it is to be longer");
    // One that has lapsed is not kept, even where that was not heard of yet.
    shared.server().control(&["lease", "revoke", &format!("{:x}", lease().parse::<i64>().expect("an id"))]);
    committed(&store, again(4, long * 2, Some(revision))).await;
    assert_eq!(beat(4).await, Ok(vec![Renewal::Renewed]));
}

async fn ten_thousand_beats(shared: Arc<Shared>) {
    const INSTANCES: usize = 500;
    let store = open(&shared.url(), &options()).await;
    let name = |number: usize| format!("users/i{number}");
    let registered: Vec<_> = stream::iter(0..INSTANCES)
        .map(|number| {
            let store = store.clone();
            // Long enough that none lapses while the others are registered.
            let record = Record { ttl: Duration::from_secs(60), ..record(&name(number), 1) };
            let put = Mutation::Put { record, expected: None, lease: LeaseChange::Grant, event: None };
            async move { commit(&store, put).await }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    assert!(registered.iter().all(Result::is_ok));
    let beats: Vec<(InstanceKey, u64)> =
        (0..10_000).map(|number| (key(&name(number % INSTANCES)), 1)).collect();
    store.renew(&beats[..INSTANCES], Now::read()).await.expect("the streams are open");
    for beats in beats.chunks(256) {
        let renewals = store.renew(beats, Now::read()).await.expect("it answers");
        assert!(renewals.iter().all(|renewal| *renewal == Renewal::Renewed), "{renewals:?}");
    }
}

async fn old_events_are_removed(shared: Arc<Shared>) {
    let below = prefix();
    let url = format!("etcd://127.0.0.1:{}/{below}", shared.server().port);
    let store = open(&url, &StoreOptions { events: 3, ..options() }).await;
    let commits: Vec<_> = stream::iter(0..4200)
        .map(|_| {
            let store = store.clone();
            async move { commit(&store, Mutation::Complete).await }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    assert!(commits.iter().all(Result::is_ok));
    let mut newest = Vec::new();
    for number in 0..5 {
        newest.push(committed(&store, put(&format!("users/i{number}"), 1)).await);
    }
    let folder = format!("/{below}/events/");
    until("few are left", async || {
        let keys = shared.server().control(&["get", "--prefix", "--keys-only", &folder]);
        keys.lines().filter(|line| !line.is_empty()).count() <= 1024 + 2048 + 64 + 5
    })
    .await;
    let events = store.load().await.expect("it loads").events;
    let kept: Vec<u64> = events.iter().map(|past| past.revision).collect();
    assert_eq!(kept, newest[2..], "the newest are told");
}

async fn registries_share_it(shared: Arc<Shared>) {
    let url = shared.url();
    let shutdown = CancellationToken::new();
    let mut registries = Vec::new();
    for _ in 0..2 {
        let registry = Registry::open(open(&url, &options()).await, registry::Options::default()).await;
        let registry = registry.expect("it opens");
        tokio::spawn(registry.clone().run(None, shutdown.clone()));
        registries.push(registry);
    }
    let spec = record("users/a", 1).spec;
    let registered = registries[0].register((*spec).clone(), TTL, "test").await.expect("it registers");
    let users = key("users/a");
    let shows = async |registry: &Registry| registry.view().instance(&users).is_some();
    until("the other one shows it", async || shows(&registries[1]).await).await;
    let beat = Beat { key: users.clone(), epoch: registered.epoch, health: None, load: None };
    let begun = Instant::now();
    while begun.elapsed() < TTL * 2 {
        let beaten = registries[1].heartbeat(vec![beat.clone()]).await.expect("it answers");
        assert_eq!(beaten[0].outcome, BeatOutcome::Renewed);
        assert!(shows(&registries[0]).await, "it beats");
        tokio::time::sleep(TTL / 4).await;
    }
    for registry in &registries {
        until("it has expired", async || !shows(registry).await).await;
    }
    let store = open(&url, &options()).await;
    let expired: Vec<_> = store.load().await.expect("it loads").events;
    let expired = expired.iter().filter(|past| past.event.kind == EventKind::Expired).count();
    assert_eq!(expired, 1, "once");
    shutdown.cancel();
}
