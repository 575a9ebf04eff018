//! Instances that do not want a request's body, or never take it.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use waypost_proto::instance::Protocol;

use super::{Counts, Got, Speaks, answered, ask, ask_with, calm, http1::answer, impatient};
use crate::support::{Instance, Proxy, Wire, field, soon};

/// As much as is read of a body that nobody wants.
const SOME: usize = 1 << 19;
/// More than sockets hold on the way.
const LARGE: usize = 24 << 20;

/// What an instance does after it has answered before it had the body.
#[derive(Clone, Copy, Debug)]
enum Then {
    Reads,
    Closes,
}

/// An instance that answers a POST with a body of so many bytes at once.
async fn early(text: &'static str, then: Then, counts: Counts) -> Instance {
    Instance::start(move |mut wire: Wire, _| {
        let counts = counts.clone();
        async move {
            while let Ok(Some(head)) = wire.try_head().await {
                let length =
                    field(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
                if !counts.request() {
                    let Some(body) = wire.try_exactly(length).await else { return };
                    if answer(&mut wire, &head, &body).await.is_none() {
                        return;
                    }
                    continue;
                }
                if wire.try_send(text).await.is_none() {
                    return;
                }
                match then {
                    Then::Reads => {
                        if wire.try_exactly(length).await.is_none() {
                            return;
                        }
                    }
                    Then::Closes => return,
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_answer_before_the_body_reaches_the_client() {
    for (text, status) in [
        ("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno", 413),
        ("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno", 413),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 200),
    ] {
        for then in [Then::Reads, Then::Closes] {
            for speaks in [Speaks::Http1, Speaks::Http2] {
                let counts = Counts::default();
                let instance = early(text, then, counts.clone()).await;
                let proxy = Proxy::new(calm(), &[instance.address]);
                counts.armed.store(true, Ordering::SeqCst);
                let got =
                    soon("an answer", ask_with(proxy.address, speaks, "POST", 1, vec![b'x'; SOME])).await;
                let expected = Got::Whole { status, reason: None, body: "no".to_owned() };
                assert_eq!(got, expected, "{text:?}, {then:?}, {speaks:?}");
                assert_eq!(counts.requests.load(Ordering::SeqCst), 1, "it is sent once");
                proxy.until_in_flight(instance.address, 0).await;
                for number in 2..5 {
                    let got = soon("an answer", ask(proxy.address, speaks, "POST", number)).await;
                    assert_eq!(got, answered(number), "after {text:?}, {then:?}, {speaks:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_instance_that_never_takes_the_body_is_given_up() {
    let instance = Instance::start(|wire: Wire, _| async move {
        let _held = wire;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Http1, impatient(), &[instance.address]);
    let asked = [Speaks::Http1, Speaks::Http2].map(async |speaks| {
        match soon("an end", ask_with(proxy.address, speaks, "POST", 1, vec![b'x'; LARGE])).await {
            Got::Whole { status: 504, reason, .. } => assert_eq!(reason.as_deref(), Some("upstream_timeout")),
            // A client that speaks HTTP/1.1 is cut off where nothing moves.
            got => assert_eq!((got, speaks), (Got::BrokenOff, Speaks::Http1)),
        }
    });
    join_all(asked).await;
    proxy.until_in_flight(instance.address, 0).await;
}
