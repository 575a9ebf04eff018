//! What the SDK promises of a router that is served as a service: it is registered when it can answer, says how busy
//! it is, and stops only after its drain.

mod fake;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use fake::{Fake, Held, Registry, State};
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use waypost_proto::error::{Error as ContractError, ErrorCode};
use waypost_sdk::{Client, Registration, ServeError, Service, health::http::check};

/// A router that is being served.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(control_plane: String, app: Router, service: Service) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let service = service.control_plane(control_plane).registration(|it| it.ttl(Duration::from_secs(1)));
        let ended = tokio::spawn(waypost_sdk::axum::serve_until(listener, app, service, stopped));
        Self { address, stop, ended }
    }

    fn key(&self) -> String {
        format!("users/{}", self.address)
    }

    async fn get(&self, path: &str) -> Result<(), String> {
        check(&self.address.to_string(), path, "test").await
    }

    async fn stop(self) -> Result<(), ServeError> {
        drop(self.stop);
        ended(self.ended).await
    }
}

async fn ended(serving: JoinHandle<Result<(), ServeError>>) -> Result<(), ServeError> {
    let ended = tokio::time::timeout(Duration::from_secs(20), serving).await;
    ended.expect("it ends").expect("it does not panic")
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// One that soon gives up an attempt to register.
fn impatient() -> Service {
    Service::new("users").registration(|it| it.register_timeout(Duration::from_millis(200)))
}

/// The one instance, where it is as `look` wants it.
fn held(look: impl Fn(&Held) -> bool) -> impl FnMut(&State) -> Option<()> {
    move |state| state.instances.values().any(&look).then_some(())
}

#[tokio::test]
async fn it_is_registered_with_all_that_it_says_and_answers() {
    let fake = Fake::start();
    let service = Service::new("users")
        .version("1.2.0")
        .tags(["canary"])
        .zone("eu-1")
        .weight(3)
        .prefix("/people")
        .strip_prefix(false)
        .endpoints(["GET /people/{id}"]);
    let running = Running::start(fake.url(), hello(), service).await;
    let spec = fake.registry().until_registered(&running.key()).await.spec;
    running.get("/").await.expect("it answers");
    assert_eq!(spec.address, running.address.to_string());
    assert_eq!((spec.version.as_str(), spec.zone.as_str(), spec.weight), ("1.2.0", "eu-1", Some(3)));
    assert_eq!((spec.prefix.as_deref(), spec.strip_prefix), (Some("/people"), Some(false)));
    // The registry keeps templates without the names of their parameters.
    assert_eq!((spec.tags, spec.endpoints), (vec!["canary".to_owned()], vec!["GET /people/{}".to_owned()]));
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn it_is_registered_only_once_its_health_passes_and_out_of_rotation_while_it_fails() {
    let fake = Fake::start();
    let (well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let app = {
        let (well, asked) = (well.clone(), asked.clone());
        hello().route(
            "/healthz",
            get(move || async move {
                asked.notify_one();
                if well.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
            }),
        )
    };
    let running = Running::start(fake.url(), app, Service::new("users").health("/healthz")).await;
    for _ in 0..3 {
        asked.notified().await;
    }
    assert!(fake.registry().with(|state| state.registrations.is_empty()), "it has not passed yet");
    well.store(true, Ordering::Relaxed);
    fake.registry().until_registered(&running.key()).await;
    well.store(false, Ordering::Relaxed);
    let reported = |healthy| held(move |held| held.health.as_ref().is_some_and(|it| it.healthy == healthy));
    fake.registry().until("bad health", reported(false)).await;
    well.store(true, Ordering::Relaxed);
    fake.registry().until("good health", reported(true)).await;
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn it_drains_before_it_stops_and_reports_what_is_in_flight() {
    let fake = Fake::start();
    fake.registry().with(|state| state.hold_drains = true);
    let release = Arc::new(Notify::new());
    let released = release.clone();
    let app = hello().route("/slow", get(move || async move { released.notified().await }));
    let mut running = Running::start(fake.url(), app, Service::new("users")).await;
    let (address, key) = (running.address.to_string(), running.key());
    fake.registry().until_registered(&key).await;
    let slow = tokio::spawn({
        let address = address.clone();
        async move { check(&address, "/slow", "test").await }
    });
    let in_flight = |count| held(move |held| held.load.is_some_and(|load| load.in_flight == Some(count)));
    fake.registry().until("one in flight", in_flight(1)).await;

    drop(std::mem::replace(&mut running.stop, oneshot::channel().0));
    fake.registry().until("a drain", held(|held| held.draining)).await;
    running.get("/").await.expect("it answers while it drains");
    release.notify_one();
    slow.await.expect("a task").expect("it is answered");
    fake.registry().until("nothing in flight", in_flight(0)).await;
    assert!(!running.ended.is_finished(), "the barrier still holds");
    fake.registry().with(|state| state.hold_drains = false);
    ended(running.ended).await.expect("a good end");
    check(&address, "/", "test").await.expect_err("it has stopped");
    assert!(fake.registry().with(|state| state.deregistrations.iter().all(|request| request.drain)));
}

#[tokio::test]
async fn it_serves_while_there_is_no_control_plane_and_registers_when_there_is_one() {
    let address = Fake::start().kill();
    let running = Running::start(format!("http://{address}"), hello(), impatient()).await;
    // Longer than one attempt to register.
    for _ in 0..5 {
        running.get("/").await.expect("it answers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let fake = Fake::start_at(address, Registry::new());
    fake.registry().until_registered(&running.key()).await;
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn it_can_be_stopped_before_it_is_registered() {
    let address = Fake::start().kill();
    let running = Running::start(format!("http://{address}"), hello(), impatient()).await;
    running.get("/").await.expect("it answers");
    running.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_refused_registration_ends_it_with_the_reason() {
    let fake = Fake::start();
    let refusal = ContractError::new(ErrorCode::FailedPrecondition, "this registry takes no users");
    fake.registry().with(|state| state.refusals.push(refusal.into()));
    let running = Running::start(fake.url(), hello(), Service::new("users")).await;
    let error = ended(running.ended).await.expect_err("it is refused").to_string();
    assert!(error.contains("this registry takes no users"), "{error}");
    let running = Running::start(fake.url(), hello(), Service::new("users").weight(70_000)).await;
    let error = ended(running.ended).await.expect_err("it is refused").to_string();
    assert!(error.contains("weight") && error.contains("70000"), "{error}");
}

#[tokio::test]
async fn another_process_under_its_name_ends_it_with_the_way_out() {
    let fake = Fake::start();
    let running = Running::start(fake.url(), hello(), Service::new("users")).await;
    fake.registry().until_registered(&running.key()).await;
    let client = Client::connect([fake.url()]).expect("a good address");
    let other = client.register(Registration::new("users", running.address.to_string())).await;
    let error = ended(running.ended).await.expect_err("it is superseded").to_string();
    assert!(error.contains("another process") && error.contains("WAYPOST_INSTANCE_ID"), "{error}");
    drop(other);
}

#[tokio::test]
async fn a_server_that_fails_is_deregistered_and_its_reason_kept() {
    let fake = Fake::start();
    let (fail, failing) = oneshot::channel::<()>();
    let local: SocketAddr = "127.0.0.1:9001".parse().expect("an address");
    let service = Service::new("users").control_plane(fake.url());
    let server = |_| async {
        let _ = failing.await;
        Err("the disk is full")
    };
    let serving = tokio::spawn(service.run_until(local, server, std::future::pending()));
    fake.registry().until_registered("users/127.0.0.1:9001").await;
    drop(fail);
    let error = ended(serving).await.expect_err("it fails").to_string();
    assert!(error.contains("the disk is full"), "{error}");
    assert!(fake.registry().with(|state| state.instances.is_empty()), "nobody is sent there any more");
}
