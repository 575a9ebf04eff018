//! Faults of instances that speak HTTP/1.1.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, sync::Notify};
use waypost_proto::instance::Protocol;

use super::{
    Counts, Got,
    Sees::{self, Bare, BreaksOff, Closed, Own, Whole},
    Speaks, all_meet, answered, ask, calm, impatient,
};
use crate::support::{Instance, Proxy, Wire, soon, until};

/// What an instance does for the request that meets its fault, one after the other; then it goes on as if nothing had been.
#[derive(Clone, Copy)]
enum Step {
    Send(&'static str),
    /// So many times.
    Many(usize, &'static str),
    /// A byte now and then, for ever.
    Drip(&'static str),
    /// The end of the connection.
    Close,
    /// Awaits that the proxy has read what was sent: a reset takes back what it has not.
    Heard,
    /// The connection is reset.
    Reset,
}
use Step::*;

/// Plays the steps; `None`: the connection is over.
async fn play(mut wire: Wire, steps: &[Step]) -> Option<Wire> {
    for step in steps {
        // A proxy that has seen enough is gone before all of it is there.
        match *step {
            Send(text) => wire.try_send(text).await?,
            Many(times, text) => wire.try_send(&text.repeat(times)).await?,
            Drip(text) => loop {
                wire.try_send(text).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            },
            Close => {
                let _ = wire.socket.shutdown().await;
                // What comes is read: a socket that is closed before that is reset.
                let _ = wire.rest().await;
                return None;
            }
            Heard => until("the proxy reads", || unread(&wire) == 0).await,
            Reset => {
                wire.socket.set_zero_linger().expect("a TCP socket");
                return None;
            }
        }
    }
    Some(wire)
}

/// How many bytes of what was sent nobody has read, where both ends are on this machine (`proc_net_tcp(5)`).
fn unread(wire: &Wire) -> u64 {
    let ends = [wire.socket.local_addr(), wire.socket.peer_addr()];
    let [from, to] = ends.map(|end| format!(":{:04X}", end.expect("connected").port()));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    // What is yet to leave the one, and to be read at the other.
    let queue = |local: &str, remote: &str, which: usize| {
        let rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let mut rows = rows.filter(|row| row[1].ends_with(local) && row[2].ends_with(remote));
        let queues = rows.next().expect("the connection")[4].split(':').nth(which).expect("two queues");
        u64::from_str_radix(queues, 16).expect("a number")
    };
    queue(&from, &to, 0) + queue(&to, &from, 1)
}

/// An instance that answers each request with its body, or the last segment of its path where it has none, and plays the
/// steps for the one that meets its fault.
async fn instance(steps: Vec<Step>, counts: Counts) -> Instance {
    Instance::start(move |mut wire, _| {
        let (steps, counts) = (steps.clone(), counts.clone());
        async move {
            while let Some((head, body)) = wire.request().await {
                if counts.request() {
                    let Some(rest) = play(wire, &steps).await else { return };
                    wire = rest;
                } else if answer(&mut wire, &head, &body).await.is_none() {
                    return;
                }
            }
        }
    })
    .await
}

/// Answers as if there were no faults.
pub(super) async fn answer(wire: &mut Wire, head: &str, body: &[u8]) -> Option<()> {
    let path = head.split(' ').nth(1).expect("a request line").trim_start_matches('/');
    let text = if body.is_empty() { path } else { std::str::from_utf8(body).expect("text") };
    wire.try_send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await
}

async fn each(faults: Vec<(&'static str, Sees, Vec<Step>)>) {
    all_meet(Protocol::Http1, &calm(), faults, instance).await;
}

/// Faults that are one text.
async fn each_text(sees: Sees, texts: &[&'static str]) {
    each(texts.iter().map(|text| (*text, sees, vec![Send(text)])).collect()).await;
}

const PROTOCOL: Sees = Own(502, "upstream_protocol");
const TIMEOUT: Sees = Own(504, "upstream_timeout");

const FOUR: Step = Send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n");
const CHUNKED: Step = Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
const TO_THE_END: Step = Send("HTTP/1.1 200 OK\r\n\r\n");
const OK: Step = Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";

#[tokio::test]
async fn a_connection_that_ends_is_no_end_of_an_answer() {
    each(vec![
        ("closed before the head", Closed, vec![Close]),
        ("reset before the head", Closed, vec![Reset]),
        ("closed in the head", Closed, vec![Send("HTTP/1.1 200 OK\r\ncontent-len"), Close]),
        ("reset in the head", Closed, vec![Send("HTTP/1.1 200 OK\r\ncontent-len"), Reset]),
        ("closed after a 103", Closed, vec![Send(HINTS), Close]),
        ("closed after the head", Bare, vec![FOUR, Close]),
        ("reset after the head", Bare, vec![FOUR, Heard, Reset]),
        ("closed in a body with a length", BreaksOff, vec![FOUR, Send("ab"), Close]),
        ("reset in a body with a length", BreaksOff, vec![FOUR, Send("ab"), Heard, Reset]),
        ("closed before the first chunk", Bare, vec![CHUNKED, Close]),
        ("closed in a chunk's size", BreaksOff, vec![CHUNKED, Send("2"), Close]),
        ("closed in a chunk", BreaksOff, vec![CHUNKED, Send("4\r\nab"), Close]),
        ("closed between chunks", BreaksOff, vec![CHUNKED, Send("2\r\nab\r\n"), Close]),
        ("reset between chunks", BreaksOff, vec![CHUNKED, Send("2\r\nab\r\n"), Heard, Reset]),
        ("closed before the trailers", BreaksOff, vec![CHUNKED, Send("2\r\nab\r\n0\r\n"), Close]),
        ("closed in the trailers", BreaksOff, vec![CHUNKED, Send("2\r\nab\r\n0\r\na: b\r\n"), Close]),
        ("reset before a body without a length", Bare, vec![TO_THE_END, Heard, Reset]),
        ("reset in a body without a length", BreaksOff, vec![TO_THE_END, Send("ab"), Heard, Reset]),
        ("closed after the head of a body without a length", Whole(200, ""), vec![TO_THE_END, Close]),
        ("closed after a body without a length", Whole(200, "ab"), vec![TO_THE_END, Send("ab"), Close]),
        ("closed after the answer", Whole(200, "ok"), vec![OK, Close]),
        ("reset after the answer", Whole(200, "ok"), vec![OK, Reset]),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_whose_end_is_not_certain_is_none() {
    each_text(
        PROTOCOL,
        &[
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: \r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_chunk_that_is_none_breaks_the_answer_off() {
    let bad = |chunk| vec![CHUNKED, Send(chunk)];
    each(vec![
        ("a size that is no number", BreaksOff, bad("zz\r\nok\r\n0\r\n\r\n")),
        ("a negative size", BreaksOff, bad("-2\r\nok\r\n0\r\n\r\n")),
        ("a size with a prefix", BreaksOff, bad("0x2\r\nok\r\n0\r\n\r\n")),
        ("no size", BreaksOff, bad("\r\nok\r\n0\r\n\r\n")),
        ("a size that overflows", BreaksOff, bad("10000000000000002\r\nok\r\n0\r\n\r\n")),
        ("a size without a carriage return", BreaksOff, bad("2\nok\r\n0\r\n\r\n")),
        ("more than its size", BreaksOff, bad("2\r\nokay\r\n0\r\n\r\n")),
        ("an extension with a line feed", BreaksOff, bad("2;a\nb\r\nok\r\n0\r\n\r\n")),
        ("a trailer that is none", BreaksOff, bad("2\r\nok\r\n0\r\nnothing\r\n\r\n")),
        (
            "extensions without end",
            BreaksOff,
            vec![CHUNKED, Send("2;"), Many(20_000, "x"), Send("\r\nok\r\n0\r\n\r\n")],
        ),
        (
            "trailers without end",
            BreaksOff,
            vec![CHUNKED, Send("2\r\nok\r\n0\r\n"), Many(5_000, "a: b\r\n"), Send("\r\n")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_not_http_is_no_answer() {
    each_text(
        PROTOCOL,
        &[
            "SSH-2.0-OpenSSH_9.9\r\n",
            "\0\0\x0c\x04\0\0\0\0\0\0\0",
            "ok\n\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 abc OK\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nok",
        ],
    )
    .await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let begin = Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n");
    let end = Send("\r\nok");
    each(vec![
        ("many fields", Whole(200, "ok"), vec![begin, Many(90, "a: b\r\n"), end]),
        ("too many fields", PROTOCOL, vec![begin, Many(100, "a: b\r\n"), end]),
        ("a long field", Whole(200, "ok"), vec![begin, Send("a: "), Many(8_000, "b"), Send("\r\n"), end]),
        ("too long a field", PROTOCOL, vec![begin, Send("a: "), Many(70_000, "b"), Send("\r\n"), end]),
        ("a field without end", PROTOCOL, vec![begin, Send("a: "), Many(16 << 20, "b")]),
        ("some interim answers", Whole(200, "ok"), vec![Many(32, HINTS), OK]),
        ("a flood of interim answers", PROTOCOL, vec![Many(100_000, HINTS), OK]),
    ])
    .await;
}

#[tokio::test]
async fn an_instance_that_hangs_is_given_up() {
    let faults = vec![
        ("before the head", TIMEOUT, vec![]),
        ("in the head", TIMEOUT, vec![Send("HTTP/1.1 200 OK\r\ncontent-len")]),
        ("after a 103", TIMEOUT, vec![Send(HINTS)]),
        ("after the head", BreaksOff, vec![FOUR]),
        ("in a body with a length", BreaksOff, vec![FOUR, Send("ab")]),
        ("in a chunk", BreaksOff, vec![CHUNKED, Send("4\r\nab")]),
        ("before the last chunk", BreaksOff, vec![CHUNKED, Send("2\r\nab\r\n")]),
        ("in a body without a length", BreaksOff, vec![TO_THE_END, Send("ab")]),
        ("a slow drip of a head", TIMEOUT, vec![Send("HTTP/1.1 200 OK\r\na: "), Drip("b")]),
    ];
    all_meet(Protocol::Http1, &impatient(), faults, instance).await;
}

#[tokio::test]
async fn what_follows_an_answer_is_not_taken_for_the_next_one() {
    const OTHER: Step = Send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad");
    each(vec![
        ("another answer", Whole(200, "ok"), vec![Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n")]),
        ("another answer after chunks", Whole(200, "ok"), vec![Send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        )]),
        ("more than its length", Whole(200, "ok"), vec![Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokay")]),
        ("a length beside chunks", Whole(200, "ok"), vec![Send(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )]),
        ("HTTP/1.0", Whole(200, "ok"), vec![Send("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")]),
        ("equal lengths", Whole(200, "ok"), vec![Send(
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\ncontent-length: 2\r\n\r\nok",
        )]),
        ("204 with a body", Whole(204, ""), vec![Send("HTTP/1.1 204 No Content\r\n\r\nok")]),
        ("204 with a length", Whole(204, ""), vec![Send("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok")]),
        ("204 with chunks", Whole(204, ""), vec![Send(
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )]),
        ("204 and another answer", Whole(204, ""), vec![Send("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")]),
        ("304 with its length", Whole(304, ""), vec![Send("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n")]),
        ("304 with a body", Whole(304, ""), vec![Send("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok")]),
        ("a close that is not one", Whole(200, "ok"), vec![
            Send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
            OTHER,
        ]),
    ])
    .await;
}

/// What an instance does on a connection once it is idle.
async fn idle(steps: Vec<Step>, counts: Counts, idle: Arc<Notify>, done: Arc<Notify>) -> Instance {
    Instance::start(move |mut wire, number| {
        let (steps, counts) = (steps.clone(), counts.clone());
        let (idle, done) = (Arc::clone(&idle), Arc::clone(&done));
        async move {
            while let Some((head, body)) = wire.request().await {
                counts.request();
                if answer(&mut wire, &head, &body).await.is_none() {
                    return;
                }
                if number == 0 {
                    idle.notified().await;
                    // What was sent over the loopback is there.
                    for step in &steps {
                        match *step {
                            Send(text) => wire.try_send(text).await.expect("the proxy keeps the connection"),
                            Reset => wire.socket.set_zero_linger().expect("a TCP socket"),
                            _ => {}
                        }
                    }
                    drop(wire);
                    return done.notify_one();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_comes_on_an_idle_connection_costs_nothing() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
    const TIMEOUT: &str = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for steps in
        [vec![Close], vec![Reset], vec![Send(ANSWER)], vec![Send(TIMEOUT), Close], vec![Send("\0"), Reset]]
    {
        let (counts, begin, done) = (Counts::default(), Arc::<Notify>::default(), Arc::<Notify>::default());
        let instance = idle(steps, counts.clone(), Arc::clone(&begin), Arc::clone(&done)).await;
        let proxy = Proxy::new(calm(), &[instance.address]);
        for number in 0..4 {
            let got = soon("an answer", ask(proxy.address, Speaks::Http1, "POST", number)).await;
            assert_eq!(got, answered(number));
            proxy.until_in_flight(instance.address, 0).await;
            if number == 0 {
                begin.notify_one();
                soon("the fault", done.notified()).await;
            }
        }
        assert_eq!(
            (counts.requests.load(Ordering::SeqCst), instance.accepted()),
            (4, 2),
            "each was sent once"
        );
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_it_says() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let counts = Counts::default();
            let instance = instance(vec![Send(text)], counts.clone()).await;
            let proxy = Proxy::new(calm(), &[instance.address]);
            counts.armed.store(true, Ordering::SeqCst);
            let got = soon("an answer", ask(proxy.address, speaks, "HEAD", 1)).await;
            assert_eq!(got, Got::Whole { status: 200, reason: None, body: String::new() }, "{text:?}");
            proxy.until_in_flight(instance.address, 0).await;
            for number in 2..4 {
                assert_eq!(
                    ask(proxy.address, speaks, "POST", number).await,
                    answered(number),
                    "after {text:?}"
                );
            }
        }
    }
}
