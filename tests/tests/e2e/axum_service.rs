//! An axum router that is served as a service, behind a real control plane and real proxies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Query, http::StatusCode, response::IntoResponse, routing::get};
use nix::sys::signal::Signal;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use waypost_sdk::{ServeError, Service};
use waypost_tests::{
    cluster::Cluster,
    http::{get as http_get, try_get},
    load::{Load, Plan},
    process::Process,
    program::Program,
    service::INSTANCE_HEADER,
    wait::{eventually, holds, throughout},
};

const ROUNDS: u32 = 5;
const INSTANCES: usize = 3;
const SOON: Duration = Duration::from_secs(20);

/// An instance of `shop` in this process.
struct Instance {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Instance {
    async fn start(cluster: &Cluster, id: &str, app: Router, service: Service) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (stop, stopped) = oneshot::channel::<()>();
        let service =
            service.control_plane(cluster.control_plane.grpc.to_string()).registration(|it| it.id(id));
        let stopped = async { drop(stopped.await) };
        let serving = tokio::spawn(waypost_sdk::axum::serve_until(listener, app, service, stopped));
        Self { stop, serving }
    }

    async fn stop(self) {
        drop(self.stop);
        let ended = tokio::time::timeout(SOON, self.serving).await.expect("it ends in time");
        ended.expect("it does not panic").expect("a good end");
    }
}

#[derive(serde::Deserialize)]
struct Slow {
    ms: u64,
}

fn shop(id: &str) -> Router {
    let header = [(INSTANCE_HEADER, id.to_owned())];
    let slow_header = header.clone();
    let slow = |Query(slow): Query<Slow>| async move {
        tokio::time::sleep(Duration::from_millis(slow.ms)).await;
        (slow_header, "slow").into_response()
    };
    Router::new().route("/", get(|| async { (header, "hello") })).route("/slow", get(slow))
}

/// Waits until the registry holds these instances and no other, and all proxies know them.
async fn registered(cluster: &Cluster, wanted: &[String]) {
    eventually("the instances are registered", SOON, async || {
        let held = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
        let mut held: Vec<String> = held.into_iter().filter_map(|it| Some(it.key?.id)).collect();
        let mut wanted = wanted.to_vec();
        held.sort();
        wanted.sort();
        holds(held == wanted, || format!("{held:?}"))
    })
    .await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_every_axum_instance_under_load_loses_no_request() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let mut instances = Vec::new();
    for number in 0..INSTANCES {
        let id = format!("round-0-{number}");
        let instance = Instance::start(&cluster, &id, shop(&id), Service::new("shop")).await;
        instances.push((id, instance));
    }
    let ids =
        |instances: &[(String, Instance)]| instances.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    registered(&cluster, &ids(&instances)).await;

    let (first, second) = (cluster.proxies[0].traffic, cluster.proxies[1].traffic);
    let loads = [
        ("HTTP/1.1", Load::http1(&Plan::new(first, "/shop/").per_second(150))),
        ("HTTP/2", Load::http2(&Plan::new(second, "/shop/").per_second(150))),
        ("slow requests", Load::http1(&Plan::new(second, "/shop/slow?ms=100").per_second(30))),
    ];
    for round in 1..=ROUNDS {
        for number in 0..INSTANCES {
            let id = format!("round-{round}-{number}");
            let next = Instance::start(&cluster, &id, shop(&id), Service::new("shop")).await;
            instances.push((id, next));
            registered(&cluster, &ids(&instances)).await;
            instances.remove(0).1.stop().await;
        }
    }
    for (what, load) in loads {
        let report = load.stop().await;
        report.assert_lossless(what, u64::from(ROUNDS));
        assert!(report.by_instance.len() > INSTANCES, "{what}: answered by {:?}", report.by_instance);
    }
    registered(&cluster, &ids(&instances)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axum_service_is_registered_only_once_it_can_answer() {
    let cluster = Cluster::builder().start().await;
    let well = Arc::new(AtomicBool::new(false));
    let told = well.clone();
    let health = move || async move {
        if told.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let app = shop("one").route("/healthz", get(health));
    let one = Instance::start(&cluster, "one", app, Service::new("shop").health("/healthz")).await;
    throughout("it is not registered", Duration::from_secs(1), async || {
        let held = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
        holds(held.is_empty(), || format!("{held:?}"))
    })
    .await;
    well.store(true, Ordering::Relaxed);
    registered(&cluster, &["one".to_owned()]).await;
    let answer = cluster.proxies[0].get("/shop/").await;
    assert_eq!((answer.status, answer.header(INSTANCE_HEADER)), (StatusCode::OK, "one"));
    one.stop().await;
    registered(&cluster, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_an_axum_service_and_cuts_no_request() {
    let cluster = Cluster::builder().start().await;
    let control_plane = format!("http://{}", cluster.control_plane.grpc);
    let variables = [("WAYPOST_CONTROL_PLANE", control_plane.as_str())];
    let listen = ["127.0.0.1:0".to_owned()];
    let mut one = Process::start_with(Program::ServeExample, &listen, &variables).await;
    eventually("it is reachable", SOON, async || {
        let answer = cluster.proxies[0].get("/hello/you").await;
        holds(answer.text() == "hello, you\n", || format!("{} {}", answer.status, answer.text()))
    })
    .await;
    let other = Process::start_with(Program::ServeExample, &listen, &variables).await;
    eventually("the other one is reachable", SOON, async || {
        let held = cluster.api().instances("hello").await.map_err(|status| status.to_string())?;
        holds(held.len() == 2, || format!("{held:?}"))
    })
    .await;
    cluster.converged().await;

    let slow = tokio::spawn(http_get(cluster.traffic(), "/hello/slow?ms=1000"));
    let mut asked = 0;
    let traffic = cluster.traffic();
    let status = loop {
        let asking = async {
            let answer = try_get(traffic, "/hello/you").await.expect("an answer");
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        };
        tokio::select! {
            status = one.ended() => break status,
            () = asking => asked += 1,
        }
        if asked == 3 {
            one.signal(Signal::SIGTERM);
        }
    };
    assert!(status.success(), "{status} after {asked} requests");
    assert_eq!(slow.await.expect("a task").status, StatusCode::OK);
    eventually("the log says so", SOON, async || {
        let log = one.log.lines().join("\n");
        holds(log.contains("SIGTERM") && log.contains("drained"), || log.clone())
    })
    .await;
    let held = cluster.api().instances("hello").await.expect("instances");
    assert_eq!(held.len(), 1, "the other one is left: {held:?}");
    assert_eq!(cluster.proxies[0].get("/hello/you").await.status, StatusCode::OK);
    drop(other);
}
