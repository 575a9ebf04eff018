//! Faults of instances, and what clients see of them: one table for each protocol that instances speak.
//!
//! Each fault is met by some requests, each through a proxy and an instance of its own: a POST and a GET, on a new
//! connection to the instance and on one that has carried a request before. Whatever becomes of them, those that follow
//! get their own answers, and a request that the instance may have acted on has come once.

mod bare;
mod frames;
mod http1;
mod http2;
mod storms;
mod uploads;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::client::conn::http1 as hyper1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use waypost_proto::instance::Protocol;
use waypost_proxy::serve::ServeConfig;

use crate::{
    http2::{client, full},
    support::{Instance, Proxy, soon},
};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

/// What a client has got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    /// A whole answer.
    Whole { status: u16, reason: Option<String>, body: String },
    /// One that broke off, or none.
    BrokenOff,
}

/// What a client gets of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// An answer of the proxy's own.
    Own(u16, &'static str),
    /// The connection has ended before there was an answer, which is [`Sees::Own`] unless the request can be sent again:
    /// one that may be done twice is, over another connection.
    Closed,
    /// The instance has not looked at the request: it is sent again, over another connection.
    Refused,
    /// The answer has ended before any of its body was there, which is [`Sees::BreaksOff`] unless the request can be sent
    /// again.
    Bare,
    /// An answer that breaks off.
    BreaksOff,
    /// The instance's answer.
    Whole(u16, &'static str),
}

/// A request, and how it meets the fault.
#[derive(Clone, Copy, Debug)]
struct Meeting {
    method: &'static str,
    /// Over a connection to the instance that has carried a request before.
    reused: bool,
    speaks: Speaks,
}

/// What an instance counts, and when it is to have its fault.
#[derive(Clone, Default)]
struct Counts {
    requests: Arc<AtomicUsize>,
    armed: Arc<AtomicBool>,
}

impl Counts {
    /// Counts a request; whether it is the one to meet the fault.
    fn request(&self) -> bool {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.armed.swap(false, Ordering::SeqCst)
    }
}

/// The last two tell more only where a request can be sent again.
const MEETINGS: [Meeting; 4] = [
    Meeting { method: "POST", reused: false, speaks: Speaks::Http1 },
    Meeting { method: "GET", reused: true, speaks: Speaks::Http2 },
    Meeting { method: "POST", reused: true, speaks: Speaks::Http2 },
    Meeting { method: "GET", reused: false, speaks: Speaks::Http1 },
];

/// A proxy that refuses nothing because the machine is slow, and waits for what a slow instance sends in parts.
fn calm() -> ServeConfig {
    let mut config = ServeConfig::default();
    config.overload.delay = Duration::ZERO;
    config.timeouts.head_hold = Duration::from_secs(10);
    config
}

/// Limits that a test can wait for, and in which a slow machine answers all the same.
fn impatient() -> ServeConfig {
    let mut config = calm();
    config.timeouts.response = Duration::from_secs(2);
    config.timeouts.head_hold = Duration::from_millis(20);
    // Longer, as it holds for clients' connections, too: they are to see the answer that the other one brings.
    config.timeouts.stream_idle = Duration::from_secs(8);
    config
}

/// Has each of the requests meet each of the faults, which an instance is made for.
async fn all_meet<S: Clone>(
    protocol: Protocol,
    config: &ServeConfig,
    faults: Vec<(&'static str, Sees, S)>,
    instance: impl AsyncFn(S, Counts) -> Instance,
) {
    let meetings = faults.into_iter().flat_map(|fault| {
        let count = if matches!(fault.1, Sees::Closed | Sees::Refused | Sees::Bare) { 4 } else { 2 };
        MEETINGS[..count].iter().map(move |meeting| (fault.clone(), *meeting))
    });
    // Some at a time, as each has a proxy with its threads.
    let all = stream::iter(meetings).for_each_concurrent(4, async |((what, sees, steps), meeting)| {
        let counts = Counts::default();
        let instance = instance(steps, counts.clone()).await;
        let proxy = Proxy::speaking(protocol, config.clone(), &[instance.address]);
        meet(what, &proxy, instance.address, &counts, sees, meeting).await;
    });
    all.await;
}

/// Has a request meet the fault of an instance that answers each other request with its body, or its path where it has
/// none.
async fn meet(
    what: &'static str,
    proxy: &Proxy,
    instance: SocketAddr,
    counts: &Counts,
    sees: Sees,
    meeting: Meeting,
) {
    let Meeting { method, reused, speaks } = meeting;
    let ask = async |method, number, speaks| soon(what, ask(proxy.address, speaks, method, number)).await;
    if reused {
        assert_eq!(ask("POST", 1, Speaks::Http1).await, answered(1), "{what}, before {meeting:?}");
        proxy.until_in_flight(instance, 0).await;
    }
    let before = counts.requests.load(Ordering::SeqCst);
    counts.armed.store(true, Ordering::SeqCst);
    let got = ask(method, 2, speaks).await;
    let sent = counts.requests.load(Ordering::SeqCst) - before;
    // Not a POST: it may have been done; and where it cannot, its body has begun, and is gone.
    let again = matches!(sees, Sees::Closed | Sees::Refused | Sees::Bare) && method == "GET";
    assert_eq!(
        sent,
        1 + usize::from(again),
        "{what}: how often it was sent, of {meeting:?}, which got {got:?}"
    );
    let own = |status, reason: &str| match &got {
        Got::Whole { status: is, reason: Some(named), .. } => (*is, named.as_str()) == (status, reason),
        _ => false,
    };
    let as_it_should = match sees {
        _ if again => matches!(got, Got::Whole { status: 200, reason: None, .. }),
        Sees::Own(status, reason) => own(status, reason),
        Sees::Closed | Sees::Refused => own(502, "upstream_closed"),
        Sees::Bare | Sees::BreaksOff => got == Got::BrokenOff,
        Sees::Whole(status, body) => got == Got::Whole { status, reason: None, body: body.to_owned() },
    };
    assert!(as_it_should, "{what}: {got:?} is not {sees:?}, for {meeting:?}");
    proxy.until_in_flight(instance, 0).await;
    for number in 3..6 {
        assert_eq!(ask("POST", number, speaks).await, answered(number), "{what}, after {meeting:?}");
    }
}

/// What an instance answers where it has no fault.
fn answered(number: usize) -> Got {
    Got::Whole { status: 200, reason: None, body: number.to_string() }
}

/// Sends a request with a number, over a connection of its own.
async fn ask(proxy: SocketAddr, speaks: Speaks, method: &str, number: usize) -> Got {
    let body = if method == "POST" { number.to_string() } else { String::new() };
    ask_with(proxy, speaks, method, number, body).await
}

/// The same with another body.
async fn ask_with(
    proxy: SocketAddr,
    speaks: Speaks,
    method: &str,
    number: usize,
    body: impl Into<Bytes>,
) -> Got {
    let body = full(body);
    let request = Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a method"));
    let response = match speaks {
        Speaks::Http2 => {
            let request = request.uri(format!("http://test/api/{number}")).body(body).expect("a request");
            client(proxy).await.send_request(request).await
        }
        Speaks::Http1 => {
            let socket = TcpStream::connect(proxy).await.expect("the proxy listens");
            let (mut sender, connection) =
                hyper1::handshake(TokioIo::new(socket)).await.expect("a connection");
            tokio::spawn(connection);
            let request = request.uri(format!("/api/{number}")).header("host", "test").body(body);
            sender.send_request(request.expect("a request")).await
        }
    };
    let Ok(response) = response else { return Got::BrokenOff };
    let status = response.status().as_u16();
    let reason = response.headers().get("x-waypost-reason");
    let reason = reason.map(|reason| reason.to_str().expect("a word").to_owned());
    match response.into_body().collect().await {
        Ok(body) => {
            let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
            Got::Whole { status, reason, body }
        }
        Err(_) => Got::BrokenOff,
    }
}
