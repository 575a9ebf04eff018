//! One client connection: find out what it speaks, serve it, end it in a way that loses no answer.
//!
//! HTTP/2 begins with a preface that is no HTTP/1.1 request (RFC 9113, section 3.4), so both can share a port.
//!
//! Deliberately absent: `Upgrade: h2c`, which RFC 9113 has retired and which lets requests be smuggled past
//! proxies.

use std::{
    convert::Infallible, future::poll_fn, net::Shutdown, pin::Pin, rc::Rc, task::Poll, time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::{server::conn::http1, service::service_fn};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::TcpStream,
    time::timeout,
};
use waypost_proto::reason::Reason;

use super::{
    ClientConnection, ServeConfig, Worker,
    client::Phase,
    handshake::{self, Greeting, Shaken},
    http2,
    worker::Admitted,
};
use crate::{
    answer,
    forward::{self, ClientBody},
    http2::PREFACE,
    socket::ClientSocket,
    stream::ClientStream,
    tls::Refusal,
    upgrade,
};

/// What is read to begin with; most requests fit in.
const FIRST_READ: usize = 4096;
/// A peer that vanished without a word is noticed after this and a few probes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How long bytes that nobody wants are read off after the last answer, so that the client can read it:
/// closing with unread bytes would reset the connection (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// How many bytes are read off at most.
const LINGER_BYTES: u64 = 1 << 20;

/// hyper's settings for HTTP/1.1, made once for each worker.
pub(super) struct Protocols {
    http1: http1::Builder,
}

impl Protocols {
    pub(super) fn new(config: &ServeConfig) -> Self {
        let limits = config.limits;
        let mut http1 = http1::Builder::new();
        // Heads are timed by the sweep: hyper's own timer would be set anew for every request.
        http1.header_read_timeout(None);
        http1.max_buf_size(limits.header_bytes.max(8192)).max_header_size(limits.header_bytes);
        if limits.headers != 100 {
            http1.max_headers(limits.headers);
        }
        Self { http1 }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(admitted: Admitted, socket: TcpStream) {
    // Neither is worth refusing a client for.
    let _ = socket.set_nodelay(true);
    let _ = SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE));
    let (worker, client) = (Rc::clone(admitted.worker()), Rc::clone(admitted.client()));
    let has_plain = worker.table().and_then(|table| Some(table.edge().tls_port(client.port())?.has_plain()));
    match has_plain {
        // Boxed, so that connections in the clear need no room for it.
        Some(has_plain) => Box::pin(serve_either(admitted, socket, has_plain)).await,
        None => serve_plain(admitted, socket).await,
    }
}

async fn serve_plain(admitted: Admitted, mut socket: TcpStream) {
    let Some((prefix, is_http2)) = until_expired(admitted.client(), sniff(&mut socket)).await else { return };
    serve_http(admitted, ClientSocket::Plain(socket), prefix, is_http2).await;
}

/// Serves a connection at a port where TLS is spoken.
async fn serve_either(admitted: Admitted, socket: TcpStream, has_plain: bool) {
    let (worker, client) = (Rc::clone(admitted.worker()), Rc::clone(admitted.client()));
    let greeted = async { handshake::greet(&worker, has_plain, socket).await.ok() };
    let socket = match until_expired(&client, greeted).await {
        Some(Greeting::Tls(socket)) => socket,
        Some(Greeting::Plain(socket)) => return serve_plain(admitted, socket).await,
        Some(Greeting::Refused) | None => return,
    };
    let shaken = async { Some(handshake::shake(&worker, &client, socket).await) };
    match until_expired(&client, shaken).await {
        Some(Ok(Shaken { stream, is_http2 })) => {
            worker.metrics.tls_accepted();
            serve_http(admitted, ClientSocket::Tls(stream), Bytes::new(), is_http2).await;
        }
        Some(Err((why, error))) => handshake::note(&worker, &client, why, error.as_ref()),
        None => handshake::note(&worker, &client, Refusal::Timeout, None),
    }
}

async fn serve_http(admitted: Admitted, socket: ClientSocket, prefix: Bytes, is_http2: bool) {
    let (worker, client) = (Rc::clone(admitted.worker()), Rc::clone(admitted.client()));
    if is_http2 {
        serve_http2(&worker, &client, socket, prefix).await;
    } else {
        serve_http1(admitted, ClientStream::new(socket, prefix, client, worker)).await;
    }
}

/// Reads until it is certain whether the client speaks HTTP/2. `None`: it went away.
async fn sniff(socket: &mut TcpStream) -> Option<(Bytes, bool)> {
    let mut prefix = BytesMut::with_capacity(FIRST_READ);
    loop {
        if socket.read_buf(&mut prefix).await.ok()? == 0 {
            return None;
        }
        let compared = prefix.len().min(PREFACE.len());
        if prefix[..compared] != PREFACE[..compared] {
            return Some((prefix.freeze(), false));
        }
        if compared == PREFACE.len() {
            return Some((prefix.freeze(), true));
        }
    }
}

/// Waits for a future, but not for longer than the client may wait. `None`: the connection expired.
async fn until_expired<T>(client: &ClientConnection, future: impl Future<Output = Option<T>>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|context| {
        client.register(context.waker());
        // What has arrived counts before the time that is up: this worker may have stood still.
        let polled = future.as_mut().poll(context);
        if polled.is_pending() && client.expired().is_some() {
            return Poll::Ready(None);
        }
        polled
    })
    .await
}

async fn serve_http1(admitted: Admitted, stream: ClientStream) {
    let (worker, client) = (Rc::clone(admitted.worker()), Rc::clone(admitted.client()));
    let service = service_fn(async |request| {
        let request = http::Request::map(request, ClientBody::Http1);
        Ok::<_, Infallible>(forward::handle(Rc::clone(&worker), Rc::clone(&client), request).await)
    });
    let mut connection = worker.protocols.http1.serve_connection(stream, service);
    let mut told = false;
    let ended = poll_fn(|context| {
        client.register(context.waker());
        // A request that has arrived is begun before the connection is told to end.
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
            return Poll::Ready(Some(ended));
        }
        if client.expired().is_some() {
            return Poll::Ready(None);
        }
        if (worker.is_winding_down() || client.is_retiring()) && client.is_used() && !told {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
            return Pin::new(&mut connection).poll(context).map(Some);
        }
        Poll::Pending
    })
    .await;
    let switched = client.take_switched(worker.now());
    let parts = connection.into_parts();
    let socket = parts.io.into_socket();
    match ended {
        Some(Ok(())) => match switched {
            // The tunnel is a task of its own: it copies as fast as it can and must yield to others.
            Some(switched) => {
                worker.metrics.upgraded();
                tokio::task::spawn_local(async move {
                    upgrade::run(socket, parts.read_buf, *switched).await;
                    drop(admitted);
                });
            }
            None => linger(socket.into_tcp()).await,
        },
        Some(Err(error)) => end_with_error(&worker, socket, &error).await,
        None => end_expired(&worker, &client, socket).await,
    }
}

/// Ends a connection that hyper gave up.
async fn end_with_error(worker: &Worker, socket: ClientSocket, error: &hyper::Error) {
    if error.is_parse() {
        // hyper has answered 400, 414 or 431 already.
        let reason = if error.is_parse_too_large() { Reason::HeadersTooLarge } else { Reason::BadRequest };
        worker.metrics.answered(reason);
        linger(socket.into_tcp()).await;
    } else if error.is_user() {
        abort(socket.tcp());
    }
}

async fn end_expired(worker: &Worker, client: &ClientConnection, mut socket: ClientSocket) {
    match client.expired() {
        Some(Phase::Head) => {
            worker.metrics.answered(Reason::ClientTimeout);
            // A client that does not read either gets no more of our time.
            let answer = answer::header_timeout(worker.config.timeouts.client_header);
            let told = async {
                socket.write_all(&answer).await?;
                socket.shutdown().await
            };
            let _ = timeout(LINGER, told).await;
            linger(socket.into_tcp()).await;
        }
        Some(Phase::Busy) => abort(socket.tcp()),
        Some(Phase::Waiting | Phase::Tunnel) | None => {}
    }
}

async fn serve_http2(
    worker: &Rc<Worker>,
    client: &Rc<ClientConnection>,
    socket: ClientSocket,
    prefix: Bytes,
) {
    client.set_multiplexed();
    let (end, mut socket) = http2::serve(worker, client, socket, prefix).await;
    if end == http2::End::Over {
        // A client that does not read either gets no more of our time.
        let _ = timeout(LINGER, socket.shutdown()).await;
        linger(socket.into_tcp()).await;
    }
}

/// Resets the connection, so that an answer that was cut short cannot be taken for a complete one.
fn abort(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Says that nothing more will come, and reads off what the client has still sent, for a while.
pub(super) async fn linger(mut socket: TcpStream) {
    // The other end may be gone already, which is as good.
    let _ = SockRef::from(&socket).shutdown(Shutdown::Write);
    let mut rest = (&mut socket).take(LINGER_BYTES);
    let _ = timeout(LINGER, copy(&mut rest, &mut sink())).await;
}
