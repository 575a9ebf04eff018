//! Beyond what a service, or the proxy, can do requests are refused, with the reason.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc};
use waypost_proto::v1::{
    AdaptiveConcurrency, DeclaredEntry, RequestPriority, RuleRoute, TrafficEntry, declared_entry::Kind,
};
use waypost_proxy::serve::{OverloadLimits, ServeConfig};

use crate::{
    routes::{entry, rule, to},
    support::{Client, Instance, Proxy, Response, api, until},
};

const GET: &str = "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An instance that answers when it is told to, and tells of each request.
struct Held {
    instance: Instance,
    arrived: mpsc::UnboundedReceiver<()>,
    release: Arc<Notify>,
}

impl Held {
    async fn start() -> Self {
        let (asked, arrived) = mpsc::unbounded_channel();
        let release = Arc::new(Notify::new());
        let released = Arc::clone(&release);
        let instance = Instance::start(move |mut wire, _| {
            let (asked, released) = (asked.clone(), Arc::clone(&released));
            async move {
                while wire.request().await.is_some() {
                    let told = released.notified();
                    asked.send(()).expect("the test waits");
                    told.await;
                    wire.send(OK).await;
                }
            }
        })
        .await;
        Self { instance, arrived, release }
    }

    /// Sends a request that waits for its answer.
    async fn hold(&mut self, proxy: &Proxy) -> Client {
        let mut client = proxy.client().await;
        client.send(GET).await;
        self.arrived.recv().await.expect("it arrives");
        client
    }

    fn proxy(&self, config: ServeConfig) -> Proxy {
        Proxy::new(config, &[self.instance.address])
    }
}

fn declare(proxy: &mut Proxy, entry: TrafficEntry) {
    let entry = TrafficEntry { service: Some(api().to_wire()), ..entry };
    let kind = Some(Kind::Traffic(entry));
    proxy.declare(vec![DeclaredEntry { id: "traffic/default/api".into(), kind }]);
}

async fn refused(proxy: &Proxy) -> Response {
    let answer = proxy.get("/api/").await;
    assert_eq!((answer.status, answer.reason().as_deref()), (503, Some("overloaded")), "{}", answer.text());
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    answer
}

#[tokio::test]
async fn no_more_requests_wait_than_the_limit_that_follows_latency_lets_them() {
    let mut held = Held::start().await;
    let mut proxy = held.proxy(ServeConfig::default());
    let limit = AdaptiveConcurrency { minimum: 2, maximum: 2 };
    declare(&mut proxy, TrafficEntry { adaptive_concurrency: Some(limit), ..TrafficEntry::default() });
    let mut clients = [held.hold(&proxy).await, held.hold(&proxy).await];
    let answer = refused(&proxy).await;
    assert!(answer.text().contains("adaptiveConcurrency: the limit is 2 now"), "{}", answer.text());
    let shown = proxy.table().service(&api()).expect("the service").concurrency();
    assert_eq!(shown, Some((2, 2)));
    held.release.notify_waiters();
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    let mut again = held.hold(&proxy).await;
    held.release.notify_waiters();
    assert_eq!(again.response().await.status, 200, "there is room again");
}

#[tokio::test]
async fn a_place_is_left_when_the_answer_begins_or_the_client_goes() {
    let begins = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel";
    let instance = Instance::answering(begins).await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let limit = AdaptiveConcurrency { minimum: 1, maximum: 1 };
    let entry = TrafficEntry { adaptive_concurrency: Some(limit), ..TrafficEntry::default() };
    declare(&mut proxy, entry.clone());
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.client().await;
        client.send(GET).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"), "bodies hold no place");
        clients.push(client);
    }

    let mut held = Held::start().await;
    let mut proxy = held.proxy(ServeConfig::default());
    declare(&mut proxy, entry);
    let waits = held.hold(&proxy).await;
    refused(&proxy).await;
    drop(waits);
    let service = Arc::clone(proxy.table().service(&api()).expect("the service"));
    until("its place is free", || service.concurrency() == Some((1, 0))).await;
    held.hold(&proxy).await;
}

#[tokio::test]
async fn a_proxy_with_too_much_to_do_refuses_low_first_and_high_last() {
    let mut held = Held::start().await;
    let overload = OverloadLimits { requests: 10, delay: Duration::ZERO };
    let mut proxy = held.proxy(ServeConfig { overload, ..ServeConfig::default() });
    let matters = |proxy: &mut Proxy, priority: RequestPriority| {
        declare(proxy, TrafficEntry { priority: priority.into(), ..TrafficEntry::default() });
    };
    let mut clients = Vec::new();
    matters(&mut proxy, RequestPriority::Low);
    for _ in 0..8 {
        clients.push(held.hold(&proxy).await);
    }
    let answer = refused(&proxy).await;
    let says = "as it takes for services of low priority (80% of --max-requests 10)";
    assert!(answer.text().contains(says), "{}", answer.text());
    for (priority, name) in [(RequestPriority::Normal, "normal"), (RequestPriority::High, "high")] {
        matters(&mut proxy, priority);
        clients.push(held.hold(&proxy).await);
        let answer = refused(&proxy).await;
        assert!(answer.text().contains(&format!("services of {name} priority")), "{}", answer.text());
    }
    matters(&mut proxy, RequestPriority::Unspecified);
    assert!(refused(&proxy).await.text().contains("normal priority"));

    held.release.notify_waiters();
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    let metrics = proxy.metrics.render();
    for (priority, count) in [("low", 1), ("normal", 2), ("high", 1)] {
        let line =
            format!("waypost_shed_requests_total{{cause=\"requests\",priority=\"{priority}\"}} {count}");
        let other =
            format!("waypost_shed_requests_total{{priority=\"{priority}\",cause=\"requests\"}} {count}");
        assert!(metrics.contains(&line) || metrics.contains(&other), "{line} is not in\n{metrics}");
    }
    matters(&mut proxy, RequestPriority::Low);
    let mut again = held.hold(&proxy).await;
    held.release.notify_waiters();
    assert_eq!(again.response().await.status, 200, "there is room again");
}

#[tokio::test]
async fn a_rule_of_a_declared_route_refuses_for_its_backends_priority() {
    let mut held = Held::start().await;
    let overload = OverloadLimits { requests: 10, delay: Duration::ZERO };
    let mut proxy = held.proxy(ServeConfig { overload, ..ServeConfig::default() });
    declare(&mut proxy, TrafficEntry { priority: RequestPriority::Low.into(), ..TrafficEntry::default() });
    proxy.declare(vec![entry(RuleRoute { rules: vec![rule("/", to("api", 1))], ..RuleRoute::default() })]);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(held.hold(&proxy).await);
    }
    assert!(refused(&proxy).await.text().contains("low priority"));
    held.release.notify_waiters();
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
}
