//! The policy of a service at work: keys are taken from requests, and answers are measured where somebody asks.

use std::{collections::BTreeSet, net::SocketAddr};

use waypost_proto::v1::{
    BalancerKind, DeclaredEntry, HashKey, LoadBalancer, TrafficEntry, declared_entry::Kind, hash_key,
};
use waypost_proxy::serve::ServeConfig;

use crate::support::{Instance, Proxy, api, nobody};

fn balanced(kind: BalancerKind, hash: Vec<hash_key::Kind>) -> DeclaredEntry {
    let hash = hash.into_iter().map(|kind| HashKey { kind: Some(kind) }).collect();
    let load_balancer = Some(LoadBalancer { kind: kind.into(), hash, ..LoadBalancer::default() });
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
        let mut proxy = Proxy::new(ServeConfig::default(), &[well[0].address, ill.address]);
        proxy.declare(vec![balanced(kind, Vec::new())]);
        let mut client = proxy.client().await;
        let mut failed = 0;
        for _ in 0..100 {
            client.send("GET /api HTTP/1.1\r\nhost: test\r\n\r\n").await;
            failed += usize::from(client.response().await.text() == "fail");
        }
        // Prequal draws five by lot, of which all are the one that fails in 1 of 32 choices.
        assert!((1..=20).contains(&failed), "{kind:?}: it got {failed} of 100 requests");
    }
}
