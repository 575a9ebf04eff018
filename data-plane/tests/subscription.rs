//! What a proxy says to a control plane, and what it does when that misbehaves: over real sockets, with a
//! control plane that the test speaks for.

use std::{collections::VecDeque, net::SocketAddr, path::Path, time::SystemTime};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Mutex, mpsc},
    task::{AbortHandle, JoinSet},
    time::{Duration, Instant, sleep, timeout},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    name::{InstanceKey, ServiceKey},
    route::{Route, RouteMatch},
    snapshot::{Change, Snapshot},
    v1::{
        self, Applied, Hello, InstanceState, Rejected, SubscribeRequest, SubscribeResponse,
        snapshots_server::{Snapshots, SnapshotsServer},
        subscribe_request, subscribe_response,
    },
};
use waypost_proxy::{
    config::{Args, Config},
    proxy::Proxy,
    table::InFlight,
};
use waypost_sdk::launch;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// One stream, spoken for by the test.
struct Session {
    from_proxy: Streaming<SubscribeRequest>,
    to_proxy: mpsc::Sender<Result<SubscribeResponse, Status>>,
    waiting: VecDeque<subscribe_request::Kind>,
}

impl Session {
    async fn next(&mut self) -> subscribe_request::Kind {
        if let Some(kind) = self.waiting.pop_front() {
            return kind;
        }
        let message = timeout(PATIENCE, self.from_proxy.message()).await.expect("the proxy says something");
        message.expect("the stream holds").expect("the stream is open").kind.expect("a known kind")
    }

    async fn hello(&mut self) -> Hello {
        match self.next().await {
            subscribe_request::Kind::Hello(hello) => hello,
            other => panic!("{other:?} came first"),
        }
    }

    async fn applied(&mut self) -> Applied {
        match self.next().await {
            subscribe_request::Kind::Applied(applied) => applied,
            other => panic!("{other:?}"),
        }
    }

    async fn rejected(&mut self) -> Rejected {
        match self.next().await {
            subscribe_request::Kind::Rejected(rejected) => rejected,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, kind: subscribe_response::Kind) {
        self.to_proxy.send(Ok(SubscribeResponse { kind: Some(kind) })).await.expect("the proxy listens");
    }

    async fn send_full(&self, snapshot: &Snapshot) {
        for chunk in snapshot.to_chunks(2) {
            self.send(subscribe_response::Kind::Chunk(chunk)).await;
        }
    }
}

/// Sends on each stream that opens. Whether it says that it wants to be told what proxies see of instances.
struct Service(mpsc::Sender<Session>, bool);

#[tonic::async_trait]
impl Snapshots for Service {
    type SubscribeStream = ReceiverStream<Result<SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (to_proxy, sent) = mpsc::channel(64);
        let session = Session { from_proxy: request.into_inner(), to_proxy, waiting: VecDeque::new() };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        let mut response = Response::new(ReceiverStream::new(sent));
        if self.1 {
            response.metadata_mut().insert("waypost-observed", "true".parse().expect("a value"));
        }
        Ok(response)
    }
}

struct ControlPlane {
    url: String,
    sessions: Mutex<mpsc::Receiver<Session>>,
    server: AbortHandle,
    _tasks: JoinSet<()>,
}

impl ControlPlane {
    async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    fn on(listener: TcpListener) -> Self {
        Self::with(listener, false)
    }

    /// One that wants to be told what proxies see of instances.
    async fn that_listens() -> Self {
        Self::with(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), true)
    }

    fn with(listener: TcpListener, listens: bool) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (sender, sessions) = mpsc::channel(8);
        let mut tasks = JoinSet::new();
        let server = tonic::transport::Server::builder()
            .add_service(SnapshotsServer::new(Service(sender, listens)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tasks.spawn(async move { server.await.expect("it serves") });
        Self { url, sessions: Mutex::new(sessions), server, _tasks: tasks }
    }

    async fn session(&self) -> Session {
        let mut sessions = self.sessions.lock().await;
        timeout(PATIENCE, sessions.recv()).await.expect("the proxy connects").expect("the server runs")
    }
}

fn config(flags: &[&str]) -> Config {
    let fixed =
        ["waypost-proxy", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--threads", "1"];
    launch::parse_from::<Args>(fixed.iter().chain(flags)).expect("good flags").into()
}

fn start(flags: &[&str]) -> Proxy {
    Proxy::start(config(flags)).expect("it starts")
}

fn users() -> ServiceKey {
    "users".parse().expect("a good name")
}

fn endpoint(id: u8, state: InstanceState) -> Endpoint {
    let wire = v1::InstanceSpec {
        service: "users".into(),
        address: format!("127.0.0.1:{id}"),
        ..Default::default()
    };
    Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), state, 1)
}

fn key(id: u8) -> InstanceKey {
    endpoint(id, InstanceState::Up).key
}

fn put(before: &Snapshot, id: u8, state: InstanceState) -> (Snapshot, subscribe_response::Kind) {
    let path = "/users".parse().expect("a good prefix");
    let route = Route::new(users(), RouteMatch::Prefix { path, strip: true }, Vec::new());
    let instances = vec![endpoint(id, state)];
    let change = Change { services: vec![users()], instances, routes: vec![route], ..Change::default() };
    let (next, touched) = before.change(change, before.revision() + 1, true).expect("it is sound");
    let delta = next.delta(before.revision(), &touched, SystemTime::now());
    (next, subscribe_response::Kind::Delta(delta))
}

fn snapshot(history: &str, ids: &[u8]) -> Snapshot {
    ids.iter().fold(Snapshot::empty(history), |before, id| put(&before, *id, InstanceState::Up).0)
}

fn instances(proxy: &Proxy) -> Vec<String> {
    let table = proxy.table().load().expect("a table");
    let service = table.service(&users()).expect("the service");
    service.members().iter().map(|member| member.endpoint.key.to_string()).collect()
}

fn begin(proxy: &Proxy) -> InFlight {
    let table = proxy.table().load().expect("a table");
    let service = table.service(&users()).expect("the service");
    service.endpoints().pick(&[], &mut fastrand::Rng::new()).expect("one takes traffic")
}

#[tokio::test]
async fn a_snapshot_and_its_deltas_are_applied_and_said_to_be() {
    let control_plane = ControlPlane::start().await;
    let proxy = start(&[
        "--control-plane",
        &control_plane.url,
        "--proxy-id",
        "p1",
        "--zone",
        "z",
        "--namespace",
        "default",
    ]);
    let mut session = control_plane.session().await;
    let hello = session.hello().await;
    assert_eq!((hello.proxy_id.as_str(), hello.zone.as_str(), hello.resyncs), ("p1", "z", 0));
    assert_eq!(hello.namespaces, ["default"]);
    assert_eq!(hello.listen_address, proxy.traffic_address().to_string());
    assert_eq!(hello.admin_address, proxy.admin_address().to_string());
    assert_eq!(hello.position, None);
    let first = snapshot("h", &[1, 2]);
    session.send_full(&first).await;
    assert_eq!(session.applied().await, Applied { position: Some(first.position()), draining: Vec::new() });
    let (second, delta) = put(&first, 3, InstanceState::Up);
    session.send(delta).await;
    assert_eq!(session.applied().await.position, Some(second.position()));
    assert_eq!(instances(&proxy).len(), 3);
}

#[tokio::test]
async fn the_end_of_the_last_request_to_a_draining_instance_is_told_at_once() {
    let control_plane = ControlPlane::start().await;
    let proxy = start(&["--control-plane", &control_plane.url]);
    let mut session = control_plane.session().await;
    session.hello().await;
    let first = snapshot("h", &[1]);
    session.send_full(&first).await;
    session.applied().await;
    let in_flight = [begin(&proxy), begin(&proxy)];
    let (second, delta) = put(&first, 1, InstanceState::Draining);
    session.send(delta).await;
    let entry = |count| v1::InFlight { key: Some(key(1).to_wire()), epoch: 1, count };
    let position = Some(second.position());
    assert_eq!(session.applied().await, Applied { position: position.clone(), draining: vec![entry(2)] });
    let [one, other] = in_flight;
    drop(one);
    assert_eq!(session.applied().await, Applied { position: position.clone(), draining: vec![entry(1)] });
    drop(other);
    assert_eq!(session.applied().await, Applied { position, draining: Vec::new() });
}

#[tokio::test]
async fn how_an_instance_answers_is_told_to_who_wants_to_know() {
    let control_plane = ControlPlane::that_listens().await;
    let proxy = start(&["--control-plane", &control_plane.url]);
    let mut session = control_plane.session().await;
    session.hello().await;
    session.send_full(&snapshot("h", &[1])).await;
    session.applied().await;
    let address = proxy.traffic_address();
    let answer = ask_for_users(address).await;
    assert!(answer.contains("upstream_connect"), "nobody listens on port 1: {answer}");
    // The first cooldown may be over when the proxy looks; those of later requests last longer and longer.
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(50)).await;
            ask_for_users(address).await;
        }
    });
    let mut failed = 0;
    loop {
        let subscribe_request::Kind::Observed(observed) = session.next().await else {
            panic!("something else")
        };
        let [one] = &*observed.instances else { panic!("{observed:?}") };
        assert_eq!((one.key.clone(), one.epoch, one.succeeded), (Some(key(1).to_wire()), 1, 0));
        failed += one.failed;
        if one.health() == v1::EndpointHealth::CoolingDown {
            assert!(failed > 0 && !one.reason.is_empty(), "{one:?} after {failed} failures");
            break;
        }
    }
}

/// What the proxy answers to a request for the service.
async fn ask_for_users(address: SocketAddr) -> String {
    let mut client = TcpStream::connect(address).await.expect("it listens");
    let request = b"GET /users/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.expect("it reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test]
async fn a_reconnect_resumes_and_says_what_is_in_flight() {
    let control_plane = ControlPlane::start().await;
    let proxy = start(&["--control-plane", &control_plane.url]);
    let mut session = control_plane.session().await;
    session.hello().await;
    let (head, _) = put(&snapshot("h", &[1, 2]), 1, InstanceState::Up);
    session.send_full(&head).await;
    session.applied().await;
    let in_flight: Vec<InFlight> = (0..20).map(|_| begin(&proxy)).collect();
    let (head, delta) = put(&head, 1, InstanceState::Draining);
    session.send(delta).await;
    let told = session.applied().await;
    assert!(told.draining[0].count > 0, "with 20 requests, one goes to the first of two instances");
    drop(session);
    let mut session = control_plane.session().await;
    assert_eq!(session.hello().await.position, Some(head.position()));
    assert_eq!(session.applied().await, told);
    drop(in_flight);
    assert_eq!(session.applied().await.draining, []);
}

#[tokio::test]
async fn a_lost_delta_leads_to_a_resync_and_the_old_table_stays_meanwhile() {
    let control_plane = ControlPlane::start().await;
    let proxy = start(&["--control-plane", &control_plane.url]);
    let mut session = control_plane.session().await;
    session.hello().await;
    let first = snapshot("h", &[1]);
    session.send_full(&first).await;
    session.applied().await;
    let (second, _lost) = put(&first, 2, InstanceState::Up);
    let (third, delta) = put(&second, 3, InstanceState::Up);
    session.send(delta).await;
    let mut session = control_plane.session().await;
    let hello = session.hello().await;
    assert_eq!((hello.position, hello.resyncs), (None, 1));
    assert_eq!(instances(&proxy).len(), 1);
    session.send_full(&third).await;
    assert_eq!(session.applied().await.position, Some(third.position()));
    assert_eq!(instances(&proxy).len(), 3);
}

#[tokio::test]
async fn what_cannot_be_applied_is_rejected_and_what_follows_is_taken() {
    let control_plane = ControlPlane::start().await;
    let proxy = start(&["--control-plane", &control_plane.url]);
    let mut session = control_plane.session().await;
    session.hello().await;
    let first = snapshot("h", &[1]);
    session.send_full(&first).await;
    session.applied().await;
    let (second, mut bad) = put(&first, 2, InstanceState::Up);
    if let subscribe_response::Kind::Delta(delta) = &mut bad {
        let entries = delta.entries.as_mut().expect("entries");
        entries.instances[0].entry.as_mut().expect("an entry").protocol = 99;
    }
    session.send(bad).await;
    let rejected = session.rejected().await;
    assert_eq!((rejected.revision, rejected.position), (second.revision(), Some(first.position())));
    assert!(rejected.reason.contains("protocol") && rejected.reason.contains("99"), "{}", rejected.reason);
    assert_eq!(instances(&proxy).len(), 1);
    let (third, delta) = put(&first, 3, InstanceState::Up);
    session.send(delta).await;
    assert_eq!(session.applied().await.position, Some(third.position()));
}

#[tokio::test]
async fn what_is_rejected_again_and_again_is_read_less_and_less_often() {
    let control_plane = ControlPlane::start().await;
    let proxy = start(&["--control-plane", &control_plane.url]);
    let mut session = control_plane.session().await;
    session.hello().await;
    let good = snapshot("h", &[1]);
    let mut bad = good.to_chunks(100);
    let entries = bad[0].entries.as_mut().expect("entries");
    entries.instances[0].entry.as_mut().expect("an entry").protocol = 99;
    let began = Instant::now();
    for _ in 0..6 {
        session.send(subscribe_response::Kind::Chunk(bad[0].clone())).await;
        session.rejected().await;
    }
    // The five waits before the last one are at least 25, 50, 100, 200 and 400 ms.
    assert!(began.elapsed() >= Duration::from_millis(775), "{:?}", began.elapsed());
    session.send_full(&good).await;
    session.applied().await;
    assert_eq!(instances(&proxy).len(), 1, "what is good is taken on the same stream");
}

#[tokio::test]
async fn the_next_control_plane_takes_over_from_where_the_first_was() {
    let planes = [ControlPlane::start().await, ControlPlane::start().await];
    let proxy = start(&["--control-plane", &format!("{},{}", planes[0].url, planes[1].url)]);
    let (mut session, used) = tokio::select! {
        session = planes[0].session() => (session, 0),
        session = planes[1].session() => (session, 1),
    };
    session.hello().await;
    let head = snapshot("h", &[1]);
    session.send_full(&head).await;
    session.applied().await;
    planes[used].server.abort();
    drop(session);
    let mut session = planes[1 - used].session().await;
    assert_eq!(session.hello().await.position, Some(head.position()));
    assert_eq!(instances(&proxy).len(), 1, "it serves all the while");
}

#[tokio::test]
async fn a_frozen_control_plane_is_passed_over() {
    // The kernel accepts its connections, and nobody answers on them.
    let frozen = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let good = ControlPlane::start().await;
    let frozen_url = frozen.local_addr().expect("it is bound").to_string();
    // Each draws by lot with which one it begins.
    let flags = ["--control-plane", &frozen_url, "--control-plane", &good.url];
    let proxies: Vec<Proxy> = (0..8).map(|_| start(&flags)).collect();
    let mut sessions = Vec::new();
    for _ in &proxies {
        let mut session = good.session().await;
        session.hello().await;
        sessions.push(session);
    }
}

/// Runs a proxy until it has applied and stored a snapshot.
async fn stored(dir: &Path, head: &Snapshot) -> String {
    let control_plane = ControlPlane::start().await;
    let dir = dir.to_str().expect("a plain path");
    let proxy = start(&["--control-plane", &control_plane.url, "--state-dir", dir]);
    let mut session = control_plane.session().await;
    let hello = session.hello().await;
    session.send_full(head).await;
    // What it had stored before, it says first.
    while session.applied().await.position != Some(head.position()) {}
    assert!(proxy.shutdown().await.is_clean());
    hello.proxy_id
}

#[tokio::test]
async fn a_proxy_starts_from_its_state_with_no_control_plane_and_resumes_when_there_is_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let head = snapshot("h", &[1, 2]);
    let id = stored(dir.path(), &head).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = listener.local_addr().expect("it is bound").to_string();
    let proxy = start(&["--control-plane", &url, "--state-dir", dir.path().to_str().expect("a plain path")]);
    assert_eq!(instances(&proxy).len(), 2, "before any control plane has said a word");
    let control_plane = ControlPlane::on(listener);
    let mut session = control_plane.session().await;
    let hello = session.hello().await;
    assert_eq!((hello.position, hello.proxy_id), (Some(head.position()), id));
}

#[tokio::test]
async fn what_was_known_is_kept_while_a_fresh_control_plane_is_not_settled_even_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    stored(dir.path(), &snapshot("old", &[1, 2])).await;
    let fresh = Snapshot::empty("new");
    stored(dir.path(), &fresh).await;
    let control_plane = ControlPlane::start().await;
    let flags =
        ["--control-plane", &control_plane.url, "--state-dir", dir.path().to_str().expect("a plain path")];
    let proxy = start(&flags);
    assert_eq!(instances(&proxy).len(), 2, "the fresh one did not say that they are gone");
    let mut session = control_plane.session().await;
    assert_eq!(session.hello().await.position, Some(fresh.position()));
    session.applied().await;
    let (settled, delta) = put(&fresh, 2, InstanceState::Up);
    session.send(delta).await;
    assert_eq!(session.applied().await.position, Some(settled.position()));
    assert_eq!(instances(&proxy), [key(2).to_string()]);
}

#[tokio::test]
async fn a_damaged_state_does_not_keep_a_proxy_from_starting() {
    let dir = tempfile::tempdir().expect("a directory");
    stored(dir.path(), &snapshot("h", &[1])).await;
    let file = dir.path().join("snapshot");
    let mut bytes = std::fs::read(&file).expect("it was stored");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("it is written");
    let control_plane = ControlPlane::start().await;
    let proxy = start(&[
        "--control-plane",
        &control_plane.url,
        "--state-dir",
        dir.path().to_str().expect("a plain path"),
    ]);
    assert!(proxy.table().load().is_none());
    assert_eq!(control_plane.session().await.hello().await.position, None);
    assert!(dir.path().join("snapshot.bad").exists());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let flags = ["waypost-proxy", "--listen", "127.0.0.1:0", "--admin-listen", &address];
    let config = launch::parse_from::<Args>(flags).expect("good flags").into();
    let error = Proxy::start(config).expect_err("it is taken").to_string();
    assert!(error.contains("--admin-listen") && error.contains(&address), "{error}");
}

async fn admin_json(proxy: &Proxy, path: &str) -> serde_json::Value {
    let mut socket = TcpStream::connect(proxy.admin_address()).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

#[tokio::test]
async fn the_admin_port_tells_of_the_ports_that_a_control_plane_asks_for() {
    let control_plane = ControlPlane::start().await;
    let proxy = start(&["--control-plane", &control_plane.url]);
    let mut session = control_plane.session().await;
    session.hello().await;
    let listener = |name: &str, port: u16, protocol: v1::ListenerProtocol| {
        let (id, port) = (format!("listener/default/edge/{name}"), port.into());
        let certificates = vec!["certificate/default/none".to_owned()];
        let protocol = protocol.into();
        let entry = v1::ListenerEntry { port, protocol, certificates, ..Default::default() };
        v1::DeclaredEntry { id, kind: Some(v1::declared_entry::Kind::Listener(entry)) }
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    // It stays taken, so that no other test gets it, and as nobody listens the proxy may.
    let free = TcpSocket::new_v4().expect("a socket");
    free.set_reuseaddr(true).expect("a socket");
    free.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let ports = [taken.local_addr(), free.local_addr()].map(|address| address.expect("bound").port());
    let declared = vec![
        listener("taken", ports[0], v1::ListenerProtocol::Http),
        listener("free", ports[1], v1::ListenerProtocol::Https),
        listener("own", proxy.traffic_address().port(), v1::ListenerProtocol::Http),
    ];
    let change = Change { declared, ..Change::default() };
    let (first, _) = Snapshot::empty("h").change(change, 1, true).expect("it is sound");
    session.send_full(&first).await;
    session.applied().await;
    let told = async {
        loop {
            let told = admin_json(&proxy, "/listeners").await;
            if told["ports"].as_array().is_some_and(|ports| ports.len() == 2) {
                return told;
            }
        }
    };
    let told = timeout(PATIENCE, told).await.expect("both were tried");
    for port in told["ports"].as_array().expect("ports") {
        let is_taken = port["port"] == ports[0];
        assert!(is_taken || port["port"] == ports[1], "{told}");
        assert_eq!(port["state"], if is_taken { "failed" } else { "open" }, "{told}");
        assert_eq!(port["error"].as_str().is_some_and(|error| error.contains("in use")), is_taken, "{told}");
    }
    assert_eq!(told["problems"][0]["entry"], "listener/default/edge/free", "{told}");
    assert!(told["problems"][0]["problem"].as_str().expect("a text").contains("certificate"), "{told}");
}
