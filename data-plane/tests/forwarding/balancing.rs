//! The policy of a service at work: keys are taken from requests, answers are measured where somebody asks, and zones and new
//! instances get the shares that they should.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use waypost_proto::{
    time::wire_duration,
    v1::{
        BalancerKind, DeclaredEntry, HashKey, InstanceState, LoadBalancer, TrafficEntry, ZoneAware,
        declared_entry::Kind, hash_key,
    },
};
use waypost_proxy::serve::ServeConfig;

use crate::support::{Instance, Proxy, api, nobody};

fn balanced(kind: BalancerKind, hash: Vec<hash_key::Kind>) -> DeclaredEntry {
    let hash = hash.into_iter().map(|kind| HashKey { kind: Some(kind) }).collect();
    declared(LoadBalancer { kind: kind.into(), hash, ..LoadBalancer::default() })
}

fn declared(load_balancer: LoadBalancer) -> DeclaredEntry {
    let load_balancer = Some(load_balancer);
    let entry = TrafficEntry { service: Some(api().to_wire()), load_balancer, ..TrafficEntry::default() };
    DeclaredEntry { id: "traffic/default/api".into(), kind: Some(Kind::Traffic(entry)) }
}

async fn instances(count: usize) -> Vec<Instance> {
    let mut instances = Vec::new();
    for name in ["a", "b", "c", "d", "e"].into_iter().take(count) {
        instances.push(
            Instance::start(move |mut wire, _| async move {
                while wire.request().await.is_some() {
                    wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{name}")).await;
                }
            })
            .await,
        );
    }
    instances
}

fn addresses(instances: &[Instance]) -> Vec<SocketAddr> {
    instances.iter().map(|instance| instance.address).collect()
}

/// Who answers requests with this in their heads.
async fn answering(proxy: &Proxy, target: &str, fields: &str, times: usize) -> BTreeSet<String> {
    let mut client = proxy.client().await;
    let mut answers = BTreeSet::new();
    for _ in 0..times {
        client.send(&format!("GET /api/{target} HTTP/1.1\r\nhost: test\r\n{fields}\r\n")).await;
        answers.insert(client.response().await.text());
    }
    answers
}

#[tokio::test]
async fn requests_with_the_same_key_go_to_the_same_instance() {
    let instances = instances(5).await;
    let mut proxy = Proxy::new(ServeConfig::default(), &addresses(&instances));
    for kind in [BalancerKind::RingHash, BalancerKind::Maglev] {
        let sources = vec![
            hash_key::Kind::Header("x-user".to_owned()),
            hash_key::Kind::Cookie("sid".to_owned()),
            hash_key::Kind::Query("user".to_owned()),
        ];
        proxy.declare(vec![balanced(kind, sources)]);
        let mut all = BTreeSet::new();
        for user in 0..30 {
            let by_header = answering(&proxy, "", &format!("x-user: u{user}\r\n"), 3).await;
            assert_eq!(by_header.len(), 1, "{kind:?} u{user}: {by_header:?}");
            assert_eq!(by_header, answering(&proxy, "", &format!("cookie: a=b; sid=u{user}\r\n"), 2).await);
            assert_eq!(by_header, answering(&proxy, &format!("?user=u{user}"), "", 2).await);
            all.extend(by_header);
        }
        assert_eq!(all.len(), 5, "{kind:?}: all get some of thirty keys");
        assert!(answering(&proxy, "", "", 40).await.len() > 1, "{kind:?}: without a key they are spread");
    }
}

/// How many of so many requests each one answers.
async fn shares(proxy: &Proxy, times: usize) -> BTreeMap<String, usize> {
    let mut client = proxy.client().await;
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        client.send("GET /api/ HTTP/1.1\r\nhost: test\r\n\r\n").await;
        *counts.entry(client.response().await.text()).or_default() += 1;
    }
    counts
}

fn counted(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn requests_stay_in_the_zone_until_too_few_instances_there_take_any() {
    let instances = instances(3).await;
    let all = addresses(&instances);
    let [first, second, far] = all[..] else { unreachable!("there are three") };
    let mut proxy = Proxy::new(ServeConfig::default(), &all).in_zone("near");
    for (address, zone) in [(first, "near"), (second, "near"), (far, "far")] {
        proxy.put(address, zone, InstanceState::Up);
    }
    let load_balancer = LoadBalancer {
        kind: BalancerKind::RoundRobin.into(),
        zone_aware: Some(ZoneAware { minimum_instances: 2 }),
        ..LoadBalancer::default()
    };
    proxy.declare(vec![declared(load_balancer)]);
    assert_eq!(shares(&proxy, 60).await, counted(&[("a", 30), ("b", 30)]));
    proxy.put(first, "near", InstanceState::Down);
    assert_eq!(shares(&proxy, 60).await, counted(&[("b", 30), ("c", 30)]), "too few are left");
    proxy.put(first, "near", InstanceState::Up);
    assert_eq!(shares(&proxy, 60).await, counted(&[("a", 30), ("b", 30)]));
}

#[tokio::test]
async fn a_new_instance_begins_with_a_tenth_of_its_share() {
    let instances = instances(3).await;
    let all = addresses(&instances);
    let mut proxy = Proxy::new(ServeConfig::default(), &all[..2]);
    let load_balancer = LoadBalancer {
        kind: BalancerKind::RoundRobin.into(),
        slow_start: Some(wire_duration(Duration::from_secs(3600))),
        ..LoadBalancer::default()
    };
    proxy.declare(vec![declared(load_balancer)]);
    assert_eq!(
        shares(&proxy, 60).await,
        counted(&[("a", 30), ("b", 30)]),
        "nobody knows since when they are there"
    );
    proxy.put(all[2], "", InstanceState::Up);
    let found = shares(&proxy, 420).await;
    // By lot, 20 of them are its share; with a third it would have 140.
    let new = found.get("c").copied().unwrap_or_default();
    assert!((1..=70).contains(&new), "{found:?}");
    proxy.undeclare(&["traffic/default/api".to_owned()]);
    assert_eq!(shares(&proxy, 60).await, counted(&[("a", 20), ("b", 20), ("c", 20)]));
}

#[tokio::test]
async fn a_client_s_address_is_a_key() {
    let instances = instances(4).await;
    let mut proxy = Proxy::new(ServeConfig::default(), &addresses(&instances));
    proxy.declare(vec![balanced(BalancerKind::Maglev, vec![hash_key::Kind::ClientAddress(true)])]);
    // What a client that is not trusted says of itself is no key.
    let one = answering(&proxy, "", "x-forwarded-for: 1.1.1.1\r\n", 5).await;
    let other = answering(&proxy, "", "x-forwarded-for: 2.2.2.2\r\n", 5).await;
    assert!(one.len() == 1 && one == other, "{one:?} {other:?}");
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let mut behind =
        Proxy::new(ServeConfig { trusted_proxies, ..ServeConfig::default() }, &addresses(&instances));
    behind.declare(vec![balanced(BalancerKind::Maglev, vec![hash_key::Kind::ClientAddress(true)])]);
    let mut all = BTreeSet::new();
    for last in 0..30 {
        let answers = answering(&behind, "", &format!("x-forwarded-for: 9.9.9.{last}\r\n"), 3).await;
        assert_eq!(answers.len(), 1, "9.9.9.{last}: {answers:?}");
        all.extend(answers);
    }
    assert_eq!(all.len(), 4);
}

#[tokio::test]
async fn a_key_whose_instance_is_not_there_goes_to_another_and_stays_there() {
    let instances = instances(3).await;
    let mut all = addresses(&instances);
    all.push(nobody().await);
    let mut proxy = Proxy::new(ServeConfig::default(), &all);
    proxy.declare(vec![balanced(BalancerKind::RingHash, vec![hash_key::Kind::Header("x-user".to_owned())])]);
    for user in 0..20 {
        let answers = answering(&proxy, "", &format!("x-user: u{user}\r\n"), 4).await;
        assert!(answers.len() == 1 && !answers.contains(""), "u{user}: {answers:?}");
    }
}

#[tokio::test]
async fn answers_are_measured_only_where_the_policy_asks() {
    let instances = instances(2).await;
    let mut proxy = Proxy::new(ServeConfig::default(), &addresses(&instances));
    let known = |proxy: &Proxy| {
        instances.iter().filter(|one| proxy.endpoint(one.address).latency().is_some()).count()
    };
    answering(&proxy, "", "", 10).await;
    assert_eq!(known(&proxy), 0);
    proxy.declare(vec![balanced(BalancerKind::LeastRequest, Vec::new())]);
    answering(&proxy, "", "", 10).await;
    assert_eq!(known(&proxy), 0);
    proxy.declare(vec![balanced(BalancerKind::PeakEwma, Vec::new())]);
    answering(&proxy, "", "", 20).await;
    assert_eq!(known(&proxy), 2);
}

#[tokio::test]
async fn an_instance_that_fails_at_once_is_no_fast_instance() {
    for (kind, failing) in [
        (BalancerKind::PeakEwma, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfail"),
        (BalancerKind::Prequal, "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\nfail"),
        (BalancerKind::PeakEwma, "HTTP/1.1 200 OK\r\ngrpc-status: 14\r\ncontent-length: 4\r\n\r\nfail"),
    ] {
        let (well, ill) = (instances(1).await, Instance::answering(failing).await);
        // A pause of the machine's can make the other one slow: then a new proxy tries again.
        let mut tries = Vec::new();
        for _ in 0..3 {
            let mut proxy = Proxy::new(ServeConfig::default(), &[well[0].address, ill.address]);
            proxy.declare(vec![balanced(kind, Vec::new())]);
            let failed = shares(&proxy, 100).await.remove("fail").unwrap_or_default();
            tries.push(failed);
            // Prequal draws five by lot, of which all are the one that fails in 1 of 32 choices.
            if (1..=20).contains(&failed) {
                break;
            }
        }
        let last = tries.last().expect("three tries");
        assert!((1..=20).contains(last), "{kind:?}: it got {tries:?} of 100 requests");
    }
}
