//! Consul dies, stands still, loses what it held, or does not answer; and processes that want the same.

use std::{
    process::Command,
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
};
use waypost_control_plane::store::{Mutation, Now, Record, Renewal, StoreError, StoreOptions};

use super::{TTL, fresh, impatient, open, put, record, remove_lapsed, shared, until};
use crate::{
    servers::consul::{Consul, program},
    trial,
};

/// What a busy machine may add to a time-out.
const LATE: Duration = Duration::from_secs(4);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("consul", "what was acknowledged outlives a crash", outlives_a_crash),
        trial("consul", "a standstill is noticed and costs no lease", standstill),
        trial("consul", "lost data are another history", lost_data),
        trial("consul", "a restored snapshot is an earlier time", restored_snapshot),
        trial("consul", "a lost answer is found out", lost_answer),
        trial("consul", "of two that sweep one wins", two_sweep),
        trial("consul", "a beat at another process counts", beat_elsewhere),
        trial("consul", "either a late beat or the sweep succeeds", beat_or_sweep),
        trial("consul", "processes see each other's commits", commits_of_others),
        trial("consul", "a watch older than the log is told so", older_than_the_log),
        trial("consul", "what the catalog must not show lives all the same", not_shown_but_alive),
        trial("consul", "a wrong token is named but not shown", wrong_token),
        trial("consul", "a wrong URL is explained", wrong_url),
    ]
}

async fn outlives_a_crash() {
    let mut server = Consul::start("");
    let store = open(&fresh(&server), &impatient()).await;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let key = format!("users/i{number}");
        acknowledged.push(store.commit(put(record(&key, 1), None), Now::read()).await.expect("it commits"));
    }
    server.server.kill();
    let begun = Instant::now();
    let outcome = store.commit(put(record("users/late", 1), None), Now::read()).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert!(begun.elapsed() < impatient().timeout + LATE, "within the timeout: {:?}", begun.elapsed());
    tokio::task::block_in_place(|| server.server.start_again());
    let loaded = until("it comes back by itself", async || store.load().await.ok()).await;
    let mut revisions: Vec<u64> = loaded.records.iter().map(|record| record.revision).collect();
    revisions.sort_unstable();
    assert!(acknowledged.iter().all(|revision| revisions.contains(revision)), "{revisions:?}");
    until("it commits again", async || {
        store.commit(put(record("orders/a", 1), None), Now::read()).await.ok()
    })
    .await;
    let renewed = async || store.renew(&[(record("users/i0", 1).key().clone(), 1)], Now::read()).await.ok();
    assert_eq!(until("leases are renewed", renewed).await, [Renewal::Renewed]);
}

async fn standstill() {
    // Long enough for Consul to choose a leader again, which it does after a standstill.
    let ttl = TTL * 3;
    let server = Consul::start("");
    let store = open(&fresh(&server), &impatient()).await;
    let key = record("users/a", 1).key().clone();
    let held = Record { ttl, ..record("users/a", 1) };
    store.commit(put(held, None), Now::read()).await.expect("it commits");
    let beat = [(key, 1)];
    assert_eq!(store.renew(&beat, Now::read()).await, Ok(vec![Renewal::Renewed]));
    server.server.freeze();
    let begun = Instant::now();
    let outcome = store.commit(put(record("users/b", 1), None), Now::read()).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert!(begun.elapsed() < impatient().timeout + LATE, "within the timeout: {:?}", begun.elapsed());
    while begun.elapsed() < ttl * 3 / 2 {
        let lapsed = store.lapsed(Now::read()).await;
        assert!(lapsed.is_err() || lapsed.is_ok_and(|lapsed| !lapsed.leases.contains(&beat[0])));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.server.thaw();
    // The check has failed meanwhile. That no beat came through was none of the instance's fault.
    until("Consul misses the beats", async || {
        let (_, body) = server.ask("GET", "/v1/health/state/critical", "", "");
        body.contains("TTL expired").then_some(())
    })
    .await;
    let noticed = Instant::now();
    while noticed.elapsed() < ttl / 3 {
        let lapsed = store.lapsed(Now::read()).await.expect("it answers").leases;
        // The one that was committed without an answer, if it was, sends no beats.
        assert!(!lapsed.contains(&beat[0]), "{:?} after it was missed", noticed.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.renew(&beat, Now::read()).await, Ok(vec![Renewal::Renewed]));
    // The commit without an answer was made or not, but not half, and not twice.
    let loaded = store.load().await.expect("it loads");
    let made = loaded.records.iter().any(|record| record.key().id() == "b");
    let again = store.commit(put(record("users/b", 2), None), Now::read()).await;
    assert_eq!(made, matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
}

async fn lost_data() {
    let mut server = Consul::start("");
    let store = open(&fresh(&server), &impatient()).await;
    let before = store.load().await.expect("it loads");
    let revision = store.commit(put(record("users/a", 1), None), Now::read()).await.expect("it commits");
    let mut watch = store.watch(revision).await.expect("it is watched");
    server.server.kill();
    std::fs::remove_dir_all(server.server.directory().join("data")).expect("it is gone");
    tokio::task::block_in_place(|| server.server.start_again());
    while let Some(Ok(_)) = watch.next().await {}
    let compacted = async || match store.watch(revision).await {
        Err(StoreError::Compacted { .. }) => Some(()),
        _ => None,
    };
    until("the watch is told so", compacted).await;
    let commit = store.commit(put(record("users/b", 1), None), Now::read()).await;
    assert!(matches!(commit, Err(StoreError::Unavailable(_))), "nothing is mixed: {commit:?}");
    let after = until("it loads", async || store.load().await.ok()).await;
    assert!(after.history != before.history && after.records.is_empty() && !after.complete, "{after:?}");
    store.commit(put(record("users/b", 1), None), Now::read()).await.expect("it commits");
}

async fn restored_snapshot() {
    let server = Consul::start("");
    let store = open(&fresh(&server), &StoreOptions::default()).await;
    let file = server.server.directory().join("snapshot").display().to_string();
    let snapshot = |what: &str| {
        let address = format!("-http-addr=http://127.0.0.1:{}", server.port);
        let arguments = ["snapshot", what, address.as_str(), file.as_str()];
        let done = Command::new(program().expect("consul")).args(arguments).output().expect("it runs");
        assert!(done.status.success(), "{done:?}");
    };
    let first = store.commit(put(record("users/a", 1), None), Now::read()).await.expect("it commits");
    snapshot("save");
    let second = store.commit(put(record("users/b", 1), None), Now::read()).await.expect("it commits");
    snapshot("restore");
    until("the watch is told so", async || match store.watch(second).await {
        Err(StoreError::Compacted { .. }) => Some(()),
        _ => None,
    })
    .await;
    let loaded = store.load().await.expect("it loads");
    assert_eq!((loaded.revision, loaded.records.len()), (first, 1));
    let again = store.commit(put(record("users/b", 2), None), Now::read()).await;
    assert_eq!(again, Ok(first + 1));
}

/// Forwards to Consul; once `swallows` is set, it cuts the next connection that carries a transaction, after Consul
/// has answered.
async fn relay(to: u16, swallows: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let swallows = swallows.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
                let (mut question, mut answer) = (vec![0; 1 << 20], vec![0; 1 << 20]);
                let mut doomed = false;
                loop {
                    tokio::select! {
                        read = client.read(&mut question) => match read? {
                            0 => return Ok(()),
                            count => {
                                let text = String::from_utf8_lossy(&question[..count]);
                                doomed |= text.contains("/v1/txn") && swallows.swap(false, Ordering::AcqRel);
                                server.write_all(&question[..count]).await?;
                            }
                        },
                        read = server.read(&mut answer) => match read? {
                            0 => return Ok(()),
                            _ if doomed => return Ok(()),
                            count => client.write_all(&answer[..count]).await?,
                        },
                    }
                }
                #[allow(unreachable_code)] // it gives the block its type
                Ok::<_, std::io::Error>(())
            });
        }
    });
    port
}

async fn lost_answer() {
    let server = shared();
    let swallows = Arc::new(AtomicBool::new(false));
    let port = relay(server.port, swallows.clone()).await;
    let direct = fresh(&server);
    let url = direct.replace(&server.port.to_string(), &port.to_string());
    let store = open(&url, &StoreOptions::default()).await;
    let first = store.commit(put(record("users/a", 1), None), Now::read()).await.expect("it commits");
    swallows.store(true, Ordering::Release);
    let second = store.commit(put(record("users/b", 1), None), Now::read()).await;
    assert!(!swallows.load(Ordering::Acquire), "an answer was swallowed");
    assert_eq!(second, Ok(first + 1), "it was made, once");
    let third = store.commit(put(record("users/b", 2), Some(first + 1)), Now::read()).await;
    assert_eq!(third, Ok(first + 2));
    let witness = open(&direct, &StoreOptions::default()).await.load().await.expect("it loads");
    assert_eq!((witness.revision, witness.records.len(), witness.events.len()), (first + 2, 2, 3));
}

async fn two_sweep() {
    let server = shared();
    let url = fresh(&server);
    let stores = [open(&url, &StoreOptions::default()).await, open(&url, &StoreOptions::default()).await];
    let held = record("users/a", 1);
    let revision = stores[0].commit(put(held.clone(), None), Now::read()).await.expect("it commits");
    for store in &stores {
        until("both see it lapse", async || {
            let lapsed = store.lapsed(Now::read()).await.expect("it answers");
            (!lapsed.leases.is_empty()).then_some(())
        })
        .await;
    }
    let sweep = stores.iter().map(|store| store.commit(remove_lapsed(&held, revision), Now::read()));
    let outcomes = futures_util::future::join_all(sweep).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let lost = |outcome: &Result<u64, StoreError>| matches!(outcome, Err(StoreError::Conflict { .. }));
    assert!(outcomes.iter().any(lost), "{outcomes:?}");
}

async fn beat_elsewhere() {
    let server = shared();
    let url = fresh(&server);
    let [one, other] =
        [open(&url, &StoreOptions::default()).await, open(&url, &StoreOptions::default()).await];
    let held = record("users/a", 1);
    let revision = one.commit(put(held.clone(), None), Now::read()).await.expect("it commits");
    let beat = [(held.key().clone(), 1)];
    let begun = Instant::now();
    while begun.elapsed() < TTL * 3 {
        assert_eq!(other.renew(&beat, Now::read()).await, Ok(vec![Renewal::Renewed]));
        for store in [&one, &other] {
            let lapsed = store.lapsed(Now::read()).await.expect("it answers");
            assert!(lapsed.leases.is_empty(), "after {:?}", begun.elapsed());
        }
        tokio::time::sleep(TTL / 4).await;
    }
    until("it lapses for both", async || {
        let lapsed = one.lapsed(Now::read()).await.expect("it answers").leases;
        (lapsed == beat).then_some(())
    })
    .await;
    assert_eq!(other.renew(&beat, Now::read()).await, Ok(vec![Renewal::Renewed]), "a late beat counts");
    let swept = one.commit(remove_lapsed(&held, revision), Now::read()).await;
    assert!(matches!(swept, Err(StoreError::Conflict { .. })), "{swept:?}");
}

async fn beat_or_sweep() {
    let server = shared();
    let url = fresh(&server);
    let [one, other] =
        [open(&url, &StoreOptions::default()).await, open(&url, &StoreOptions::default()).await];
    let held: Vec<_> = (0..24).map(|number| record(&format!("users/i{number}"), 1)).collect();
    let grants = held.iter().map(|record| one.commit(put(record.clone(), None), Now::read()));
    let revisions = futures_util::future::try_join_all(grants).await.expect("they commit");
    for store in [&one, &other] {
        until("all lapse", async || {
            let lapsed = store.lapsed(Now::read()).await.expect("it answers").leases;
            (lapsed.len() == held.len()).then_some(())
        })
        .await;
    }
    let races = held.iter().zip(revisions).enumerate().map(|(number, (record, revision))| {
        let beat = [(record.key().clone(), 1)];
        let (one, other) = (&one, &other);
        async move {
            let late = async {
                tokio::time::sleep(Duration::from_millis(number as u64)).await;
                other.renew(&beat, Now::read()).await
            };
            tokio::join!(late, one.commit(remove_lapsed(record, revision), Now::read()))
        }
    });
    for (beat, sweep) in futures_util::future::join_all(races).await {
        match (&beat, &sweep) {
            (Ok(beat), Err(StoreError::Conflict { .. })) if *beat == [Renewal::Renewed] => {}
            (Ok(beat), Ok(_)) if *beat == [Renewal::Unknown] => {}
            other => panic!("both or neither: {other:?}"),
        }
    }
}

async fn commits_of_others() {
    let server = shared();
    let url = fresh(&server);
    let [one, other] =
        [open(&url, &StoreOptions::default()).await, open(&url, &StoreOptions::default()).await];
    let start = other.load().await.expect("it loads").revision;
    let watch = other.watch(start).await.expect("it is watched");
    // More than the head keeps, so that the log is read.
    let writers = [&one, &other].into_iter().enumerate().flat_map(|(process, store)| {
        (0..60).map(move |number| {
            let id = format!("users/p{process}-{number}");
            async move { store.commit(put(record(&id, 1), None), Now::read()).await }
        })
    });
    let outcomes = futures_util::future::join_all(writers).await;
    let mut revisions: Vec<u64> = outcomes
        .into_iter()
        .map(|outcome| outcome.expect("those that do not touch do not disturb"))
        .collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (start + 1..=start + 120).collect::<Vec<_>>(), "one order, no gap");
    let seen: Vec<u64> = watch.take(120).map(|commit| commit.expect("a commit").revision).collect().await;
    assert_eq!(seen, revisions);
    let late = open(&url, &StoreOptions::default()).await;
    let seen = late.watch(start).await.expect("the log has it");
    let seen: Vec<u64> = seen.take(120).map(|commit| commit.expect("a commit").revision).collect().await;
    assert_eq!(seen, revisions);
}

async fn older_than_the_log() {
    let server = shared();
    let url = fresh(&server);
    let options = StoreOptions { remembered: 3, ..StoreOptions::default() };
    let store = open(&url, &options).await;
    let start = store.load().await.expect("it loads").revision;
    for _ in 0..5 {
        store.commit(Mutation::Complete, Now::read()).await.expect("it commits");
    }
    let watch = store.watch(start).await;
    assert!(matches!(watch, Err(StoreError::Compacted { oldest }) if oldest == start + 2));
    assert!(store.watch(start + 2).await.is_ok());
}

async fn not_shown_but_alive() {
    let server = super::Guarded::shared();
    let rules = r#"key_prefix "waypost/" { policy = "write" } service_prefix "shown" { policy = "write" }
                   service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let options = StoreOptions { password: Some(server.token_for("shown-only", rules)), ..server.options() };
    let store = open(&server.fresh(), &options).await;
    store.commit(put(record("hidden/a", 1), None), Now::read()).await.expect("it commits");
    store.commit(put(record("shown/a", 1), None), Now::read()).await.expect("it commits");
    let beats = ["hidden/a", "shown/a"].map(|key| (record(key, 1).key().clone(), 1));
    let begun = Instant::now();
    while begun.elapsed() < TTL * 2 {
        let renewed = store.renew(&beats, Now::read()).await;
        assert_eq!(renewed, Ok(vec![Renewal::Renewed; 2]));
        assert!(store.lapsed(Now::read()).await.expect("it answers").leases.is_empty());
        tokio::time::sleep(TTL / 4).await;
    }
}

async fn wrong_token() {
    let server = super::Guarded::shared();
    let secret = "00000000-dead-beef-0000-000000000000";
    let options = StoreOptions { password: Some(secret.to_owned()), ..server.options() };
    let store = open(&server.fresh(), &options).await;
    let error = store.load().await.expect_err("it is refused");
    assert!(matches!(&error, StoreError::Refused(reason) if reason.contains("403")), "{error}");
    let commit = store.commit(Mutation::Complete, Now::read()).await.expect_err("it is refused");
    let findings = store.examine().await.expect("Consul is there");
    let bad: Vec<_> = findings.iter().filter(|finding| !finding.good).collect();
    let subjects: Vec<_> = bad.iter().map(|finding| finding.subject.as_str()).collect();
    assert!(["version", "keys", "services"].iter().all(|subject| subjects.contains(subject)), "{findings:?}");
    assert!(bad.iter().all(|finding| !finding.remedy.is_empty()), "{findings:?}");
    for text in [error.to_string(), commit.to_string(), format!("{findings:?}"), store.url().to_owned()] {
        assert!(!text.contains("dead-beef"), "{text}");
    }
}

async fn wrong_url() {
    for (url, reason) in [
        ("consul://one,two", "one agent"),
        ("consul://:secret@one/a//b", "prefix"),
        ("consul://one/../b", "prefix"),
        ("consul://one?discover=maybe", "discover"),
        ("consul://one?tag=secret", "known: dc, namespace, discover"),
    ] {
        let outcome = waypost_control_plane::store::open(url, &StoreOptions::default()).await;
        let error = outcome.err().expect(url).to_string();
        assert!(error.contains(reason) && !error.contains("secret"), "{url}: {error}");
    }
}
