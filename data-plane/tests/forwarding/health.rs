//! Who gets no requests because of how it answers or what its checks say, and how it comes back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;
use waypost_proto::{
    instance::Protocol,
    time::wire_duration,
    v1::{
        ActiveHealthCheck, DeclaredEntry, GrpcCheck, HttpCheck, OutlierDetection, TrafficEntry,
        active_health_check, declared_entry::Kind,
    },
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    breaker::Asked,
    log,
    secure::{Authority, accept, backend_tls},
    support::{Client, Instance, Proxy, api, nobody, soon, until},
};

/// An instance that answers 200 or 500, and its checks at `/healthz` with 200 or 503, as it is told.
struct Fickle {
    instance: Instance,
    requests: Arc<AtomicUsize>,
    works: Arc<AtomicBool>,
    healthy: Arc<AtomicBool>,
}

impl Fickle {
    async fn start(works: bool) -> Self {
        let (requests, works) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(works)));
        let healthy = Arc::new(AtomicBool::new(true));
        let shared = (Arc::clone(&requests), Arc::clone(&works), Arc::clone(&healthy));
        let instance = Instance::start(move |mut wire, _| {
            let (requests, works, healthy) = shared.clone();
            async move {
                while let Some((head, _)) = wire.request().await {
                    let status = if head.starts_with("GET /healthz ") {
                        if healthy.load(Ordering::SeqCst) { "200 OK" } else { "503 Oh" }
                    } else {
                        requests.fetch_add(1, Ordering::SeqCst);
                        if works.load(Ordering::SeqCst) { "200 OK" } else { "500 Oh" }
                    };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    // Whoever only checks is gone by then.
                    if wire.socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { instance, requests, works, healthy }
    }

    fn address(&self) -> SocketAddr {
        self.instance.address
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn set_works(&self, works: bool) {
        self.works.store(works, Ordering::SeqCst);
    }

    fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::SeqCst);
    }
}

fn treated(entry: TrafficEntry) -> DeclaredEntry {
    let entry = TrafficEntry { service: Some(api().to_wire()), ..entry };
    DeclaredEntry { id: "traffic/default/api".to_owned(), kind: Some(Kind::Traffic(entry)) }
}

/// Three errors in a row, and this long.
fn ejecting(length: Duration) -> TrafficEntry {
    let outliers = OutlierDetection {
        consecutive_errors: Some(3),
        base_ejection_time: Some(wire_duration(length)),
        max_ejection_time: Some(wire_duration(length)),
        ..OutlierDetection::default()
    };
    TrafficEntry { outlier_detection: Some(outliers), ..TrafficEntry::default() }
}

const LONG: Duration = Duration::from_secs(3600);

/// The statuses of requests, one after the other.
async fn ask(proxy: &Proxy, times: usize) -> Vec<u16> {
    let mut client = proxy.client().await;
    let mut statuses = Vec::new();
    for _ in 0..times {
        client.send("GET /api/ HTTP/1.1\r\nhost: test\r\n\r\n").await;
        statuses.push(client.response().await.status);
    }
    statuses
}

fn errors(statuses: &[u16]) -> usize {
    statuses.iter().filter(|status| **status == 500).count()
}

#[tokio::test]
async fn who_answers_with_errors_in_a_row_is_passed_over() {
    let (bad, good) = (Fickle::start(false).await, Fickle::start(true).await);
    let mut proxy = Proxy::new(ServeConfig::default(), &[bad.address(), good.address()]);
    proxy.declare(vec![treated(ejecting(LONG))]);
    assert_eq!(errors(&ask(&proxy, 40).await), 3);
    assert_eq!((bad.requests(), good.requests()), (3, 37));
    let metrics = proxy.metrics.render();
    let line = "waypost_ejections_total{cause=\"consecutive_errors\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}

#[tokio::test]
async fn who_answers_a_single_request_well_again_comes_back() {
    let (bad, good) = (Fickle::start(false).await, Fickle::start(true).await);
    let mut proxy = Proxy::new(ServeConfig::default(), &[bad.address(), good.address()]);
    proxy.declare(vec![treated(ejecting(Duration::from_millis(20)))]);
    while bad.requests() < 6 {
        // Three in a row, and then one at a time.
        ask(&proxy, 1).await;
    }
    let never = "waypost_ejections_total{cause=\"consecutive_errors\"} 0";
    assert!(!proxy.metrics.render().lines().any(|line| line == never), "it was ejected");
    bad.set_works(true);
    let before = bad.requests();
    while bad.requests() == before {
        assert_eq!(ask(&proxy, 1).await, [200]);
    }
    let before = bad.requests();
    assert_eq!(errors(&ask(&proxy, 20).await), 0);
    assert_eq!(bad.requests() - before, 10, "it has its share again");
}

#[tokio::test]
async fn however_many_come_one_alone_probes_who_was_ejected() {
    let (mut bad, good) = (Asked::start().await, Fickle::start(true).await);
    let address = bad.instance.address;
    let mut proxy = Proxy::new(ServeConfig::default(), &[address, good.address()]);
    proxy.declare(vec![treated(ejecting(Duration::from_millis(1)))]);
    let asking = |answers: &mpsc::UnboundedSender<u16>, mut client: Client| {
        let answers = answers.clone();
        tokio::spawn(async move {
            client.send("GET /api/ HTTP/1.1\r\nhost: test\r\n\r\n").await;
            let _ = answers.send(client.response().await.status);
        });
    };
    let (answered, mut answers) = mpsc::unbounded_channel();
    // In turn.
    for _ in 0..6 {
        asking(&answered, proxy.client().await);
        tokio::select! {
            status = answers.recv() => assert_eq!(status, Some(200)),
            request = bad.request() => {
                request.send("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").expect("it waits");
                assert_eq!(soon("its answer", answers.recv()).await, Some(500));
            }
        }
    }
    until_health(&proxy, address, "ejected: 3 errors in a row, one request is to find out").await;
    let begun = Instant::now();
    for _ in 0..40 {
        asking(&answered, proxy.client().await);
    }
    let probe = bad.request().await;
    let mut others = Vec::new();
    for _ in 0..39 {
        tokio::select! {
            status = answers.recv() => assert_eq!(status, Some(200), "the other instance answers it"),
            request = bad.request() => others.push(request),
        }
    }
    // Another one may go each second.
    let waited = usize::try_from(begun.elapsed().as_secs()).expect("a while");
    assert!(others.len() <= waited, "{} beside the one that probes, in {waited} s", others.len());
    for request in others.into_iter().chain([probe]) {
        request.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("it waits");
    }
    until_health(&proxy, address, "well").await;
}

#[tokio::test]
async fn where_most_are_ejected_all_take_requests() {
    let (one, two) = (Fickle::start(false).await, Fickle::start(false).await);
    let mut proxy = Proxy::new(ServeConfig::default(), &[one.address(), two.address()]);
    proxy.declare(vec![treated(ejecting(LONG))]);
    assert_eq!(errors(&ask(&proxy, 40).await), 40, "they answer, however badly");
    assert!(one.requests() > 3 && two.requests() > 3, "{} {}", one.requests(), two.requests());
    let table = proxy.table();
    assert!(table.service(&api()).expect("the service").endpoints().panics());
}

#[tokio::test]
async fn the_log_says_when_a_service_panics_and_when_that_is_over() {
    log::keep();
    let mut instances = Vec::new();
    for _ in 0..7 {
        instances.push(Fickle::start(false).await);
    }
    let addresses: Vec<_> = instances.iter().map(Fickle::address).collect();
    let mut proxy = Proxy::new(ServeConfig::default(), &addresses);
    proxy.declare(vec![treated(ejecting(LONG))]);
    assert_eq!(errors(&ask(&proxy, 100).await), 100);
    let began = ["WARN ", "service=api", "0 of 7 instances are well", "panic"];
    until("it is said", || log::lines(&began).len() == 1).await;
    proxy.undeclare(&["traffic/default/api".to_owned()]);
    until("its end is said", || !log::lines(&["INFO ", "service=api", "the panic is over"]).is_empty()).await;
    assert_eq!(log::lines(&began).len(), 1, "once");
}

#[tokio::test]
async fn with_a_threshold_of_zero_nobody_who_is_ejected_gets_a_request() {
    let bad = Fickle::start(false).await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[bad.address()]);
    let entry = TrafficEntry { panic_threshold_percent: Some(0), ..ejecting(LONG) };
    proxy.declare(vec![treated(entry)]);
    assert_eq!(ask(&proxy, 5).await, [500, 500, 500, 503, 503]);
    assert_eq!(proxy.get("/api/").await.reason().as_deref(), Some("no_healthy_instance"));
    proxy.undeclare(&["traffic/default/api".to_owned()]);
    assert_eq!(ask(&proxy, 2).await, [500, 500], "with the policy goes what it has done");
}

#[tokio::test]
async fn without_a_policy_answers_change_nothing() {
    let (bad, good) = (Fickle::start(false).await, Fickle::start(true).await);
    let mut proxy = Proxy::new(ServeConfig::default(), &[bad.address(), good.address()]);
    for entry in [None, Some(TrafficEntry { panic_threshold_percent: Some(100), ..TrafficEntry::default() })]
    {
        proxy.declare(entry.map(treated).into_iter().collect());
        assert_eq!(errors(&ask(&proxy, 40).await), 20);
    }
}

/// Two results in a row, often.
fn checking(kind: active_health_check::Kind) -> TrafficEntry {
    let check = ActiveHealthCheck {
        kind: Some(kind),
        interval: Some(wire_duration(Duration::from_millis(10))),
        timeout: Some(wire_duration(Duration::from_secs(60))),
        unhealthy_threshold: 2,
        healthy_threshold: 2,
    };
    TrafficEntry { health_check: Some(check), ..TrafficEntry::default() }
}

fn healthz() -> active_health_check::Kind {
    let check = HttpCheck { path: "/healthz".to_owned(), ..HttpCheck::default() };
    active_health_check::Kind::Http(check)
}

/// How an instance is, in words.
fn health(proxy: &Proxy, instance: SocketAddr) -> String {
    let table = proxy.table();
    let service = table.service(&api()).expect("the service");
    service.health_of(&proxy.endpoint(instance)).unwrap_or_default()
}

async fn until_health(proxy: &Proxy, instance: SocketAddr, expected: &str) {
    until(expected, || health(proxy, instance).starts_with(expected)).await;
}

async fn until_checks_passed(proxy: &Proxy, count: usize) {
    let passed = || {
        let metrics = proxy.metrics.render();
        let line = metrics.lines().find(|line| line.contains("checks_total{result=\"passed\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).unwrap_or_default()
    };
    until("checks", || passed() >= count).await;
}

#[tokio::test]
async fn who_fails_its_checks_gets_no_request_until_it_passes_them_again() {
    let (sick, well) = (Fickle::start(true).await, Fickle::start(true).await);
    let mut proxy = Proxy::new(ServeConfig::default(), &[sick.address(), well.address()]);
    assert_eq!(health(&proxy, sick.address()), "", "nobody asks without a policy");
    proxy.declare(vec![treated(checking(healthz()))]);
    assert_eq!(health(&proxy, sick.address()), "well", "until a check says otherwise");
    until_checks_passed(&proxy, 4).await;
    sick.set_healthy(false);
    until_health(&proxy, sick.address(), "ill: GET /healthz answered 503").await;
    let before = sick.requests();
    ask(&proxy, 20).await;
    assert_eq!((sick.requests(), well.requests()), (before, 20));
    sick.set_healthy(true);
    until_health(&proxy, sick.address(), "well").await;
    ask(&proxy, 20).await;
    assert_eq!((sick.requests(), well.requests()), (before + 10, 30));
}

#[tokio::test]
async fn with_the_policy_go_checks_and_what_they_said() {
    let (sick, well) = (Fickle::start(true).await, Fickle::start(true).await);
    sick.set_healthy(false);
    let mut proxy = Proxy::new(ServeConfig::default(), &[sick.address(), well.address()]);
    proxy.declare(vec![treated(checking(healthz()))]);
    until_health(&proxy, sick.address(), "ill").await;
    proxy.undeclare(&["traffic/default/api".to_owned()]);
    ask(&proxy, 20).await;
    assert_eq!((sick.requests(), well.requests()), (10, 10));
    proxy.declare(vec![treated(checking(healthz()))]);
    until_health(&proxy, sick.address(), "ill").await;
}

#[tokio::test]
async fn who_cannot_be_connected_to_is_ill() {
    let well = Fickle::start(true).await;
    let gone = nobody().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[gone, well.address()]);
    proxy.declare(vec![treated(checking(active_health_check::Kind::Tcp(true)))]);
    until_health(&proxy, gone, "ill: not connected").await;
    assert_eq!(health(&proxy, well.address()), "well");
}

#[tokio::test]
async fn checks_speak_grpc() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop", ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[address]);
    let check = |service: &str| active_health_check::Kind::Grpc(GrpcCheck { service: service.to_owned() });
    proxy.declare(vec![treated(checking(check("shop")))]);
    until_health(&proxy, address, "ill: grpc.health.v1 says NOT_SERVING").await;
    reporter.set_service_status("shop", ServingStatus::Serving).await;
    until_health(&proxy, address, "well").await;
    proxy.declare(vec![treated(checking(check("cart")))]);
    until_health(&proxy, address, "ill: grpc.health.v1 answered NotFound").await;
}

#[tokio::test]
async fn checks_are_over_tls_where_requests_are() {
    let authority = Authority::new("inside");
    let acceptor = authority.server(&["shop.inside"]).acceptor(&["http/1.1"]);
    let instance = Instance::start(move |wire, _| {
        let acceptor = acceptor.clone();
        async move {
            let Some(mut wire) = accept(&acceptor, wire).await else { return };
            while wire.request().await.is_some() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if wire.socket.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    proxy.declare(vec![treated(checking(healthz()))]);
    until_health(&proxy, instance.address, "ill").await;
    proxy.declare(vec![authority.entry("inside"), backend_tls("shop.inside", &[], &["inside"])]);
    until_health(&proxy, instance.address, "well").await;
    until_checks_passed(&proxy, 2).await;
}

#[tokio::test]
async fn who_fails_more_often_than_the_others_is_passed_over() {
    let mut instances = Vec::new();
    for _ in 0..6 {
        instances.push(Fickle::start(true).await);
    }
    let addresses: Vec<SocketAddr> = instances.iter().map(Fickle::address).collect();
    let mut proxy = Proxy::new(ServeConfig::default(), &addresses);
    let outliers = OutlierDetection {
        consecutive_errors: Some(0),
        interval: Some(wire_duration(Duration::from_millis(50))),
        base_ejection_time: Some(wire_duration(LONG)),
        success_rate_stdev_factor: 1900,
        minimum_requests: Some(3),
        ..OutlierDetection::default()
    };
    proxy.declare(vec![treated(TrafficEntry {
        outlier_detection: Some(outliers),
        ..TrafficEntry::default()
    })]);
    instances[3].set_works(false);
    let ejected = async {
        while !health(&proxy, addresses[3]).starts_with("ejected: it fails more often than the others") {
            ask(&proxy, 60).await;
        }
    };
    soon("an ejection", ejected).await;
    assert_eq!(errors(&ask(&proxy, 60).await), 0);
    let well = addresses.iter().filter(|address| health(&proxy, **address) == "well").count();
    assert_eq!(well, 5, "and nobody else is");
}
