//! What Consul's own users see of Waypost, and Waypost of them.

use std::{
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use libtest_mimic::Trial;
use serde_json::Value;
use waypost_control_plane::store::{
    LeaseChange, Mutation, Now, Record, Renewal, Store, StoreError, StoreOptions, Written,
    conformance::{emptied, event},
};
use waypost_proto::v1::{EventKind, InstanceState};

use super::{Guarded, TTL, field, fresh, open, put, record, remove_lapsed, shared, until};
use crate::{servers::consul::Consul, trial};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("consul", "others' services are found, followed and given up", found_and_followed),
        trial("consul", "a restart of Consul is nobody's leave", restarted),
        trial("consul", "to a token that may not read nobody has left", blinded),
        trial("consul", "two processes find a service once", found_once),
        trial("consul", "discovery can be turned off", not_found),
        trial("consul", "ours are in the catalog and in DNS", in_the_catalog),
    ]
}

const USERS: &str = r#"{
    "ID": "users/1", "Name": "their-users", "Address": "10.1.2.3", "Port": 9001, "Tags": ["blue"],
    "Meta": {"version": "1.4.2", "zone": "a", "team": "core"}, "Weights": {"Passing": 7, "Warning": 1},
    "Check": {"CheckID": "theirs", "TTL": "10m", "Status": "passing"}
}"#;

fn register(server: &Consul, body: &str) {
    let (status, text) = server.ask("PUT", "/v1/agent/service/register", "", body);
    assert_eq!(status, 200, "{text}");
}

async fn found(store: &dyn Store) -> Vec<Arc<Record>> {
    store.load().await.expect("it loads").records
}

async fn found_and_followed() {
    let server = Consul::start("");
    let store = open(&fresh(&server), &StoreOptions::default()).await;
    register(&server, USERS);
    // Not routable: no port; a name that breaks our rules; and Waypost's own.
    register(&server, r#"{"Name": "portless"}"#);
    register(&server, r#"{"Name": "wrong name", "Port": 1}"#);
    register(&server, r#"{"ID": "waypost:elsewhere:default:x:y", "Name": "x", "Port": 1}"#);
    let records =
        until("it is found", async || Some(found(&*store).await).filter(|records| !records.is_empty())).await;
    let users = &records[0];
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(users.key().to_string(), "their-users/test:users_1");
    assert_eq!((users.spec.address.as_str(), users.spec.weight), ("10.1.2.3:9001", 7));
    assert_eq!((&*users.spec.version, &*users.spec.zone, &*users.spec.tags[0]), ("1.4.2", "a", "blue"));
    assert_eq!((users.state(), users.found_in.as_deref()), (InstanceState::Up, Some("consul")));
    let becomes = async |state: InstanceState, reason: &str| {
        until("its check is followed", async || {
            let records = found(&*store).await;
            (records[0].state() == state && records[0].reason().contains(reason)).then_some(())
        })
        .await;
    };
    let check = |verdict: &str| {
        let (status, _) = server.ask("PUT", &format!("/v1/agent/check/{verdict}/theirs?note=so"), "", "");
        assert_eq!(status, 200);
    };
    check("fail");
    becomes(InstanceState::Down, "so").await;
    check("warn");
    becomes(InstanceState::Up, "").await;
    register(&server, &USERS.replace("9001", "9002"));
    until("its address is followed", async || {
        (found(&*store).await[0].spec.address.port() == 9002).then_some(())
    })
    .await;
    server.ask("PUT", "/v1/agent/service/deregister/users%2F1", "", "");
    let gone = until("it leaves", async || {
        let loaded = store.load().await.expect("it loads");
        loaded.records.is_empty().then_some(loaded)
    })
    .await;
    assert_eq!(gone.empty_services.len(), 1, "its route answers that nobody is there");
    let kinds: Vec<EventKind> = gone.events.iter().map(|past| past.event.kind).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), (EventKind::Registered, EventKind::Deregistered));
}

/// A server that comes up answers before it has read its log.
async fn restarted() {
    let mut server = Consul::start("");
    let store = open(&fresh(&server), &StoreOptions::default()).await;
    // Without a check, whose state would not outlive the agent.
    let service =
        |id| format!(r#"{{"ID": "{id}", "Name": "their-users", "Address": "10.1.2.3", "Port": 9001}}"#);
    register(&server, &service("before"));
    let mut revision = until("it is found", async || {
        let loaded = store.load().await.expect("it loads");
        (!loaded.records.is_empty()).then_some(loaded.revision)
    })
    .await;
    let value = "YWFh".repeat(2000);
    let write = |key| format!(r#"{{"KV": {{"Verb": "set", "Key": "others/{key}", "Value": "{value}"}}}}"#);
    let writes = format!("[{}]", (0..60).map(write).collect::<Vec<_>>().join(","));
    for _ in 0..200 {
        assert_eq!(server.ask("PUT", "/v1/txn", "", &writes).0, 200);
    }
    for id in ["after", "later", "last"] {
        server.server.kill();
        tokio::task::block_in_place(|| server.server.start_again());
        let mut watch = until("it is watched again", async || match store.watch(revision).await {
            Err(StoreError::Unavailable(_)) => None,
            watch => Some(watch.expect("it goes on where it was")),
        })
        .await;
        register(&server, &service(id));
        let commit = watch.next().await.expect("it goes on").expect("a commit");
        let id = format!("test:{id}");
        let next = matches!(&commit.written, Written::Put(record) if record.key().id() == id);
        assert!(next, "nothing else has happened: {commit:?}");
        revision = commit.revision;
    }
}

/// Consul answers as if there were nothing.
async fn blinded() {
    let server = Guarded::start();
    let url = server.fresh();
    let [store, other] = [open(&url, &server.options()).await, open(&url, &server.options()).await];
    let root = |method: &str, path: &str, body: &str| {
        let (status, answer) = server.server.ask(method, path, &server.root, body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    root("PUT", "/v1/agent/service/register", USERS);
    let held = record("orders/a", 1);
    let revision = store.commit(put(held.clone(), None), Now::read()).await.expect("it commits");
    let beat = [(held.key().clone(), 1)];
    store.renew(&beat, Now::read()).await.expect("it beats");
    let both = until("it is found", async || {
        let found = found(&*other).await;
        (found.len() == 2).then_some(found)
    })
    .await;
    let id = field(&root("GET", "/v1/acl/policy/name/waypost", ""), "ID");
    let rules = r#"key_prefix "waypost/" { policy = "write" } service_prefix "" { policy = "write" }"#;
    let policy = serde_json::json!({ "ID": id, "Name": "waypost", "Rules": rules }).to_string();
    root("PUT", &format!("/v1/acl/policy/{id}"), &policy);
    // So that the list of services changes.
    root("PUT", "/v1/agent/service/register", &USERS.replace("users/1", "users/2").replace("theirs", "new"));
    // Nothing is awaited: a client beats, and for three leases nothing is to happen.
    let begun = Instant::now();
    while begun.elapsed() < TTL * 3 {
        assert_eq!(store.renew(&beat, Now::read()).await, Ok(vec![Renewal::Renewed]));
        let lapsed = other.lapsed(Now::read()).await;
        assert!(!lapsed.is_ok_and(|lapsed| lapsed.leases.contains(&beat[0])));
        tokio::time::sleep(TTL / 4).await;
    }
    let swept = other.commit(remove_lapsed(&held, revision), Now::read()).await;
    assert!(swept.is_err(), "{swept:?}");
    let ids = |records: &[Arc<Record>]| records.iter().map(|record| record.key().clone()).collect::<Vec<_>>();
    assert_eq!(ids(&found(&*store).await), ids(&both));
}

async fn found_once() {
    let server = Consul::start("");
    let url = fresh(&server);
    let stores = [open(&url, &StoreOptions::default()).await, open(&url, &StoreOptions::default()).await];
    for store in &stores {
        store.load().await.expect("it loads");
    }
    register(&server, USERS);
    for store in &stores {
        until("it is found", async || (!found(&**store).await.is_empty()).then_some(())).await;
    }
    server.ask("PUT", "/v1/agent/check/fail/theirs", "", "");
    let loaded = until("its check is followed", async || {
        let loaded = stores[0].load().await.expect("it loads");
        (!loaded.records[0].healthy()).then_some(loaded)
    })
    .await;
    let kinds: Vec<EventKind> = loaded.events.iter().map(|past| past.event.kind).collect();
    assert_eq!(kinds, [EventKind::Registered, EventKind::Health], "each once");
}

async fn not_found() {
    let server = Consul::start("");
    let url = fresh(&server);
    let finds = open(&url, &StoreOptions::default()).await;
    let blind = open(&format!("{url}-blind?discover=false"), &StoreOptions::default()).await;
    blind.load().await.expect("it loads");
    register(&server, USERS);
    until("the other finds it", async || (!found(&*finds).await.is_empty()).then_some(())).await;
    assert!(found(&*blind).await.is_empty());
}

async fn in_the_catalog() {
    let server = shared();
    let url = fresh(&server);
    let prefix = url.rsplit('/').next().expect("a prefix").to_owned();
    let name = format!("seen-by-{prefix}");
    let store = open(&url, &StoreOptions::default()).await;
    let held = record(&format!("{name}/a"), 1);
    let revision = store.commit(put(held.clone(), None), Now::read()).await.expect("it commits");
    let listed = async |query: &str| -> Vec<Value> {
        let (_, body) = server.ask("GET", &format!("/v1/health/service/{name}{query}"), "", "");
        serde_json::from_str(&body).expect("JSON")
    };
    let seen = until("it is in the catalog", async || listed("?passing").await.pop()).await;
    let service = &seen["Service"];
    assert_eq!((&service["Address"], &service["Port"]), (&Value::from("127.0.0.1"), &Value::from(9001)));
    assert_eq!(service["Meta"]["waypost-prefix"], prefix.as_str());
    assert_eq!(service["ID"], format!("waypost:{prefix}:default:{name}:a"));
    assert!(resolves(&server, &name), "DNS answers with it");

    let draining = Record { draining: Some("deploy".into()), ..held.clone() };
    let event_of = |kind| event(&held, kind);
    let drain = Mutation::Put {
        record: draining,
        expected: Some(revision),
        lease: LeaseChange::Keep,
        event: Some(event_of(EventKind::Draining)),
    };
    let revision = store.commit(drain, Now::read()).await.expect("it commits");
    let beat = [(held.key().clone(), 1)];
    until("it is in maintenance", async || {
        store.renew(&beat, Now::read()).await.expect("it answers");
        listed("?passing").await.is_empty().then_some(())
    })
    .await;
    let states: Vec<Value> = listed("").await.remove(0)["Checks"].as_array().cloned().unwrap_or_default();
    let critical: Vec<&Value> = states.iter().filter(|check| check["Status"] == "critical").collect();
    assert!(
        critical.len() == 1 && critical[0]["Notes"] == "draining: deploy",
        "its lease goes on: {states:?}"
    );
    assert!(!resolves(&server, &name), "DNS leaves it out");
    tokio::time::sleep(TTL / 2).await;
    assert!(
        store.renew(&beat, Now::read()).await.is_ok()
            && store.lapsed(Now::read()).await.expect("it answers").leases.is_empty()
    );
    let gone = Mutation::Remove {
        key: held.key().clone(),
        expected: revision,
        lapsed: false,
        emptied: emptied(&held, Now::read()),
        event: event_of(EventKind::Deregistered),
    };
    store.commit(gone, Now::read()).await.expect("it commits");
    until("it has left the catalog", async || listed("").await.is_empty().then_some(())).await;
}

/// Whether Consul's DNS answers a query for the A records of a service with 127.0.0.1 (RFC 1035, section 4).
fn resolves(server: &Consul, service: &str) -> bool {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [service, "service", "consul"] {
        query.push(u8::try_from(label.len()).expect("a short label"));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    socket.send_to(&query, ("127.0.0.1", server.dns)).expect("it is sent");
    let mut answer = [0; 1024];
    let length = socket.recv(&mut answer).expect("an answer");
    answer[..length].windows(4).any(|part| part == [127, 0, 0, 1])
}
