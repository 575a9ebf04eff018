//! A proxy with a table made by hand, raw clients, and instances that follow a script.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use waypost_proto::{
    instance::{Endpoint, Protocol},
    load::Share,
    name::{InstanceKey, ServiceKey},
    route::{Route, RouteMatch},
    snapshot::{Change, Snapshot},
    v1::{DeclaredEntry, InstanceState},
};
use waypost_proxy::{
    balance::PolicyName,
    health,
    metrics::Metrics,
    serve::{self, Listening, Running, ServeConfig, ShutdownReport},
    table::{Compiler, EndpointState, SharedTable, Source, Table},
};

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must happen soon.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let polled = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(what, polled).await;
}

/// A proxy and the table that it serves by.
pub(crate) struct Proxy {
    running: Option<Running>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    shared: SharedTable,
    compiler: Compiler,
    snapshot: Snapshot,
    _health: DropGuard,
}

impl Proxy {
    /// A proxy without a table. One worker, so that tests see one pool.
    pub(crate) fn without_table(config: ServeConfig) -> Self {
        Self::with_workers(1, config)
    }

    fn with_workers(threads: usize, config: ServeConfig) -> Self {
        let shared = SharedTable::new();
        let metrics = Arc::new(Metrics::new());
        let config = ServeConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), threads, ..config };
        let running = serve::start(config, shared.clone(), Arc::clone(&metrics)).expect("a free port");
        let mut compiler =
            Compiler::new(shared.clone(), PolicyName::RoundRobin.policy(), Arc::new(Notify::new()));
        let address = running.addr();
        compiler.listen_on(address.port());
        let stop = CancellationToken::new();
        tokio::spawn(health::run(shared.clone(), metrics.worker(), stop.clone()));
        let (snapshot, _health) = (Snapshot::empty("test"), stop.drop_guard());
        Self { running: Some(running), address, metrics, shared, compiler, snapshot, _health }
    }

    /// A proxy that routes `/api` to `instances` of one service, `api`, the prefix stripped.
    pub(crate) fn new(config: ServeConfig, instances: &[SocketAddr]) -> Self {
        Self::speaking(Protocol::Http1, config, instances)
    }

    /// The same with instances that speak another protocol.
    pub(crate) fn speaking(protocol: Protocol, config: ServeConfig, instances: &[SocketAddr]) -> Self {
        Self::without_table(config).routing_to(protocol, instances)
    }

    /// The same with two workers.
    pub(crate) fn of_two_workers(instances: &[SocketAddr]) -> Self {
        Self::with_workers(2, ServeConfig::default()).routing_to(Protocol::Http1, instances)
    }

    fn routing_to(mut self, protocol: Protocol, instances: &[SocketAddr]) -> Self {
        let strip = RouteMatch::Prefix { path: "/api".parse().expect("a prefix"), strip: true };
        let keep = RouteMatch::Template("GET /exact/{id}".parse().expect("a template"));
        self.change(Change {
            services: vec![api()],
            instances: endpoints(protocol, InstanceState::Up, instances),
            routes: vec![Route::new(api(), strip, Vec::new()), Route::new(api(), keep, Vec::new())],
            ..Change::default()
        });
        self
    }

    /// The same, where the proxy is in a zone. What is declared from now on goes by it.
    pub(crate) fn in_zone(mut self, zone: &str) -> Self {
        self.compiler = self.compiler.in_zone(zone);
        self
    }

    /// Puts an HTTP/1.1 instance, in a zone and a state.
    pub(crate) fn put(&mut self, instance: SocketAddr, zone: &str, state: InstanceState) {
        let mut instances = endpoints(Protocol::Http1, state, &[instance]);
        instances.iter_mut().for_each(|endpoint| endpoint.zone = zone.into());
        self.change(Change { instances, ..Change::default() });
    }

    /// Serves by the table after a change.
    pub(crate) fn change(&mut self, change: Change) {
        let revision = self.snapshot.revision() + 1;
        let (snapshot, touched) = self.snapshot.change(change, revision, true).expect("nothing dangles");
        self.compiler.serve(&Source { current: &snapshot, carried: None }, &touched);
        self.snapshot = snapshot;
    }

    /// Puts entries of declared routing, or new ones in the place of those with the same ids.
    pub(crate) fn declare(&mut self, declared: Vec<DeclaredEntry>) {
        self.change(Change { declared, ..Change::default() });
    }

    /// Removes entries of declared routing.
    pub(crate) fn undeclare(&mut self, ids: &[String]) {
        let removed_declared = ids.iter().map(|id| id.as_str().into()).collect();
        self.change(Change { removed_declared, ..Change::default() });
    }

    /// The ports that the table asks for.
    pub(crate) fn listening(&self) -> Listening {
        self.running.as_ref().expect("not stopped yet").listening().clone()
    }

    /// The table.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.shared.load().expect("a table")
    }

    /// Sets the state of an HTTP/1.1 instance.
    pub(crate) fn set_state(&mut self, instance: SocketAddr, state: InstanceState) {
        let instances = endpoints(Protocol::Http1, state, &[instance]);
        self.change(Change { instances, ..Change::default() });
    }

    /// The state of an instance.
    pub(crate) fn endpoint(&self, instance: SocketAddr) -> Arc<EndpointState> {
        let table = self.shared.load().expect("a table");
        let service = table.service(&api()).expect("the service");
        Arc::clone(&service.member(&instance.to_string()).expect("the instance").state)
    }

    /// Waits until this many requests are in flight to an instance.
    pub(crate) async fn until_in_flight(&self, instance: SocketAddr, count: u64) {
        let endpoint = self.endpoint(instance);
        until(&format!("{count} requests in flight"), || endpoint.in_flight() == count).await;
    }

    /// A client's connection.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Response {
        let mut client = self.client().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        client.response().await
    }

    /// Stops it; the answer comes when it has stopped.
    pub(crate) fn shutdown(&mut self, limit: Duration) -> impl Future<Output = ShutdownReport> + use<> {
        let running = self.running.take().expect("not stopped yet");
        running.shutdown(limit)
    }
}

/// The one service.
pub(crate) fn api() -> ServiceKey {
    "api".parse().expect("a service")
}

fn endpoints(protocol: Protocol, state: InstanceState, addresses: &[SocketAddr]) -> Vec<Endpoint> {
    let endpoint = |address: &SocketAddr| Endpoint {
        share: Share::FULL,
        key: InstanceKey::new(api(), &address.to_string()).expect("an id"),
        address: address.to_string().parse().expect("an address"),
        version: "".into(),
        zone: "".into(),
        weight: 1,
        protocol,
        state,
        tags: Vec::new(),
        epoch: 1,
    };
    addresses.iter().map(endpoint).collect()
}

/// A response as it came over the wire.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// A field's value; lines of the same name joined by `, `.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reason, where the proxy answered by itself.
    pub(crate) fn reason(&self) -> Option<String> {
        self.field("x-waypost-reason")
    }
}

/// A field's value in a head; lines of the same name joined by `, `.
pub(crate) fn field(head: &str, name: &str) -> Option<String> {
    let values: Vec<&str> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// A socket that is read and written as text, on either side of the proxy.
pub(crate) struct Wire<S = TcpStream> {
    pub(crate) socket: S,
    buffer: Vec<u8>,
}

/// A client of the proxy.
pub(crate) type Client = Wire;

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = soon("a connection", TcpStream::connect(address)).await.expect("the proxy listens");
        socket.set_nodelay(true).expect("a TCP socket");
        Self::over(socket)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Over any stream of bytes.
    pub(crate) fn over(socket: S) -> Self {
        Self { socket, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        soon("writing", self.socket.write_all(bytes)).await.expect("the peer reads");
    }

    /// Sends to a peer that may be gone: then `None`.
    pub(crate) async fn try_send(&mut self, text: &str) -> Option<()> {
        soon("writing", self.socket.write_all(text.as_bytes())).await.ok()
    }

    /// One request for a path, and its answer. An error is a reset, or an end before the answer.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> std::io::Result<Response> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        soon("writing", self.socket.write_all(request.as_bytes())).await?;
        match self.try_head().await? {
            Some(head) => Ok(self.response_after(head, false).await),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads more; false at the end.
    pub(crate) async fn fill(&mut self) -> std::io::Result<bool> {
        let read = soon("bytes", self.socket.read_buf(&mut self.buffer)).await?;
        Ok(read > 0)
    }

    /// Reads up to and with the empty line. `None`: the peer closed before.
    pub(crate) async fn try_head(&mut self) -> std::io::Result<Option<String>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Ok(Some(String::from_utf8(head).expect("a head is text")));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    pub(crate) async fn head(&mut self) -> String {
        self.try_head().await.expect("no reset").expect("a head before the end")
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill().await.expect("no reset"), "the peer closed after {:?}", self.buffered());
        }
        self.buffer.drain(..count).collect()
    }

    /// The next bytes. `None`: the peer has closed before, or reset.
    pub(crate) async fn try_exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await.ok()? {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// All chunks as they are framed, up to and with the trailer section.
    pub(crate) async fn chunks(&mut self) -> (Vec<u8>, String) {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line().await.trim(), 16).expect("a chunk size");
            if size == 0 {
                let mut trailers = String::new();
                loop {
                    let line = self.line().await;
                    if line == "\r\n" {
                        return (body, trailers);
                    }
                    trailers.push_str(&line);
                }
            }
            body.extend(self.exactly(size).await);
            assert_eq!(self.exactly(2).await, b"\r\n");
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return String::from_utf8(line).expect("text");
            }
            assert!(self.fill().await.expect("no reset"), "the peer closed after {:?}", self.buffered());
        }
    }

    /// Reads to the end. An error is a reset.
    pub(crate) async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        while self.fill().await? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    pub(crate) async fn response(&mut self) -> Response {
        let head = self.head().await;
        self.response_after(head, false).await
    }

    /// A response to HEAD, which has no body whatever it says.
    pub(crate) async fn response_to_head(&mut self) -> Response {
        let head = self.head().await;
        self.response_after(head, true).await
    }

    async fn response_after(&mut self, head: String, bodyless: bool) -> Response {
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status line");
        let body = if bodyless || matches!(status, 101 | 204 | 304) {
            Vec::new()
        } else if let Some(length) = field(&head, "content-length") {
            self.exactly(length.parse().expect("a length")).await
        } else if field(&head, "transfer-encoding").is_some() {
            self.chunks().await.0
        } else {
            self.rest().await.expect("a clean end")
        };
        Response { status, head, body }
    }

    /// A request as an instance sees it, with its body.
    pub(crate) async fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.try_head().await.ok()??;
        let body = if let Some(length) = field(&head, "content-length") {
            self.exactly(length.parse().expect("a length")).await
        } else if field(&head, "transfer-encoding").is_some() {
            self.chunks().await.0
        } else {
            Vec::new()
        };
        Some((head, body))
    }

    fn buffered(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// An instance. Each connection that it accepts runs the script once, with its number.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Instance {
    pub(crate) async fn start<F>(script: impl Fn(Wire, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                socket.set_nodelay(true).expect("a TCP socket");
                tokio::spawn(script(Wire::over(socket), number));
            }
        });
        Self { address, accepted, task }
    }

    /// An instance that answers every request with its head and body, on connections that it keeps.
    pub(crate) async fn mirror() -> Self {
        Self::start(|mut wire, _| async move {
            while let Some((head, body)) = wire.request().await {
                let mut answer = head.into_bytes();
                answer.extend(body);
                let length = answer.len();
                wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
                wire.send_bytes(&answer).await;
            }
        })
        .await
    }

    /// An instance that answers every request with the same bytes, on connections that it keeps.
    pub(crate) async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut wire, _| async move {
            while wire.request().await.is_some() {
                wire.send(answer).await;
            }
        })
        .await
    }

    /// An instance that gives its answers one after the other, on connections that it keeps, and the last one for ever;
    /// instead of an empty one it closes. With how many requests it has seen.
    pub(crate) async fn in_turn(answers: &'static [&'static str]) -> (Self, Arc<AtomicUsize>) {
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        let instance = Self::start(move |mut wire, _| {
            let counter = Arc::clone(&counter);
            async move {
                while wire.request().await.is_some() {
                    let at = counter.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                    if answers[at].is_empty() {
                        return;
                    }
                    wire.send(answers[at]).await;
                }
            }
        })
        .await;
        (instance, seen)
    }

    /// How many connections it has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port to listen at, by sockets that share addresses as servers' do. It stays taken: nobody else is given it.
pub(crate) async fn free_port() -> u16 {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let port = socket.local_addr().expect("bound").port();
    std::mem::forget(socket);
    port
}

/// An address where nobody listens, now or later: it stays taken.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = socket.local_addr().expect("bound");
    std::mem::forget(socket);
    address
}

/// Timeouts for clients that tests can wait for.
pub(crate) fn hasty() -> ServeConfig {
    let mut config = ServeConfig::default();
    // What a test sends first must come within it on any machine.
    config.timeouts.client_header = Duration::from_secs(1);
    config.timeouts.client_idle = Duration::from_millis(300);
    config.timeouts.stream_idle = Duration::from_millis(300);
    config
}
