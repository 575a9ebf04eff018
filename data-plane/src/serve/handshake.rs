//! TLS handshakes with clients: which listener a client means, and why it is refused where it is.
//!
//! ```text
//! first byte ─▶ 0x16 ─▶ ClientHello ─▶ listener of the server name ─▶ its settings, as the table has them now ─▶ HTTP
//!     └▶ else: plain HTTP where the port has it, else a 400 that says what to do
//! ```

use std::{
    cell::Cell,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::server::Acceptor;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{ClientConnection, Worker, client::TlsClient, connection::linger};
use crate::{
    answer,
    table::TlsSite,
    tls::{H2, Refusal},
};

/// How a record of a handshake begins (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;
/// The alert `unrecognized_name`, as a record (RFC 6066, section 3).
const UNRECOGNISED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];
/// The alert `internal_error`.
const INTERNAL_ERROR: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 80];
/// How long a client that is refused has to take the alert.
const GOODBYE: Duration = Duration::from_secs(1);

/// How often refusals may be told in the log: clients choose how many there are.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Keeps a worker's log from being filled by refusals.
#[derive(Default)]
pub(super) struct RefusalLog {
    last: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl RefusalLog {
    /// Whether one may be told, and how many were not since the last one.
    fn permit(&self, now: Instant) -> Option<u64> {
        if self.last.get().is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.unsaid.replace(0))
    }
}

/// What comes over a connection.
pub(super) enum Greeting {
    /// HTTP in the clear.
    Plain(TcpStream),
    /// TLS. The handshake has not begun.
    Tls(TcpStream),
    /// Neither; the client was told.
    Refused,
}

/// Finds out whether a client speaks TLS, at a port where that is spoken.
pub(super) async fn greet(worker: &Worker, has_plain: bool, mut socket: TcpStream) -> io::Result<Greeting> {
    let mut first = [0];
    if socket.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == HANDSHAKE {
        return Ok(Greeting::Tls(socket));
    }
    if has_plain {
        return Ok(Greeting::Plain(socket));
    }
    worker.metrics.tls_refused(Refusal::PlainHttp);
    if first[0].is_ascii_alphabetic() {
        let _ = timeout(GOODBYE, socket.write_all(&answer::plain_on_tls())).await;
        linger(socket).await;
    }
    Ok(Greeting::Refused)
}

/// A client with whom hands were shaken.
pub(super) struct Shaken {
    pub(super) stream: Box<TlsStream<TcpStream>>,
    pub(super) is_http2: bool,
}

/// Shakes hands. The client's connection is told by which listener it came in.
///
/// # Errors
/// Why not; the client was told.
pub(super) async fn shake(
    worker: &Worker,
    client: &ClientConnection,
    socket: TcpStream,
) -> Result<Shaken, (Refusal, Option<io::Error>)> {
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
    let start = (&mut acceptor).await.map_err(refused)?;
    let server_name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let table = worker.table();
    let port = table.as_ref().and_then(|table| table.edge().port(client.port()));
    let Some(site) = port.and_then(|port| port.tls_site(server_name.as_deref())) else {
        return Err(turn_away(start.io, &UNRECOGNISED_NAME, Refusal::NoListener).await);
    };
    let site: Arc<TlsSite> = Arc::clone(site);
    let Some(tls) = site.tls.clone() else {
        return Err(turn_away(start.io, &INTERNAL_ERROR, Refusal::NotReady).await);
    };
    // A name may belong to a listener in the clear at the same port; then requests for it are misdirected.
    let of_host = port.and_then(|port| port.site(server_name.as_deref()?));
    let is_direct = of_host.is_some_and(|of_host| of_host.hostname == site.hostname);
    drop(table);
    let stream = start.into_stream(tls.config).await.map_err(refused)?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
    let hostname = Arc::clone(&site.hostname);
    client.set_tls(TlsClient { hostname, server_name, is_direct, demand: tls.demand }, worker.now());
    Ok(Shaken { stream: Box::new(stream), is_http2 })
}

fn refused(error: io::Error) -> (Refusal, Option<io::Error>) {
    (Refusal::of(&error), Some(error))
}

async fn turn_away(mut socket: TcpStream, alert: &[u8], why: Refusal) -> (Refusal, Option<io::Error>) {
    let _ = timeout(GOODBYE, socket.write_all(alert)).await;
    linger(socket).await;
    (why, None)
}

/// Counts a refusal, and says it in the log where not too much is said there.
pub(super) fn note(worker: &Worker, client: &ClientConnection, why: Refusal, error: Option<&io::Error>) {
    worker.metrics.tls_refused(why);
    // Whoever only looks whether the port is open is no news.
    if why == Refusal::Closed {
        return;
    }
    if let Some(unsaid) = worker.refusals.permit(worker.now()) {
        let (reason, peer, port) = (why.name(), client.peer, client.listener_port());
        let error = error.map(tracing::field::display);
        tracing::warn!(reason, %peer, port, error, unsaid, "a TLS handshake was refused");
    }
}
