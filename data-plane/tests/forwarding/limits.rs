//! What clients may not do: too much, too slowly, or in a way that two readers understand differently.

use std::time::Duration;

use waypost_proxy::serve::ServeConfig;

use crate::{
    policy::LONG,
    support::{Instance, Proxy, field, hasty, soon, until},
};

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let instance = Instance::mirror().await;
    let mut config = ServeConfig::default();
    config.limits.header_bytes = 8192;
    config.limits.headers = 20;
    let proxy = Proxy::new(config, &[instance.address]);
    let long = format!("x-long: {}\r\n", "a".repeat(10_000));
    let many: String = (0..30).map(|n| format!("x-{n}: 1\r\n")).collect();
    for fields in [long, many] {
        let mut client = proxy.client().await;
        client.send(&format!("GET /api/ HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).await;
        assert_eq!(client.response().await.status, 431);
    }
    assert_eq!(instance.accepted(), 0);
    until("both are counted", || proxy.metrics.render().contains("headers_too_large\"} 2")).await;
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_answered_and_ended() {
    let proxy = Proxy::new(hasty(), &[]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost").await;
    let response = client.response().await;
    assert_eq!((response.status, response.reason().as_deref()), (408, Some("client_timeout")));
    assert_eq!(response.field("connection").as_deref(), Some("close"));
}

#[tokio::test]
async fn bytes_that_drip_do_not_stretch_the_time_for_a_head() {
    let proxy = Proxy::new(hasty(), &[]);
    let mut client = proxy.client().await;
    let dripped = async {
        loop {
            if client.socket.try_write(b"x").is_err() {
                break;
            }
            let answered = tokio::time::timeout(Duration::from_millis(20), client.socket.readable()).await;
            if answered.is_ok() {
                break;
            }
        }
    };
    soon("an end", dripped).await;
    assert_eq!(client.response().await.status, 408);
}

#[tokio::test]
async fn idle_connections_are_closed_in_silence() {
    let instance = Instance::mirror().await;
    let mut config = hasty();
    config.timeouts.stream_idle = LONG; // the instance takes its time on a busy machine
    let proxy = Proxy::new(config, &[instance.address]);
    let unused = proxy.client().await;
    let mut used = proxy.client().await;
    used.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    used.response().await;
    for mut client in [unused, used] {
        assert_eq!(soon("an end", client.rest()).await.expect("a clean end"), b"");
    }
}

#[tokio::test]
async fn an_idle_connection_to_an_instance_is_closed_before_the_instance_would() {
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    let instance = Instance::start(move |mut wire, _| {
        let ended = ended.clone();
        async move {
            while wire.request().await.is_some() {
                wire.send("HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok").await;
            }
            let _ = ended.send(());
        }
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    assert_eq!(proxy.get("/api/").await.text(), "ok");
    soon("the end of the idle connection", end.recv()).await.expect("sent");
}

/// Requests that two readers could take apart differently.
const AMBIGUOUS: [&str; 15] = [
    "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 4\r\n\r\nabcd",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 0x3\r\n\r\nabc",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\nabc",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /api/ HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /api/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "GET /api/ HTTP/1.1\r\nhost: a\r\nx-folded: 1\r\n 2\r\n\r\n",
    "GET /api/ HTTP/1.1\r\nhost: a\r\nx-null: \0\r\n\r\n",
    "GET /api/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "GET /api/ HTTP/1.1\r\n\r\n",
    "GET /api/ HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n",
];

#[tokio::test]
async fn an_ambiguous_request_is_refused() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    for request in AMBIGUOUS {
        let mut client = proxy.client().await;
        client.send(request).await;
        let response = client.response().await;
        assert_eq!(response.status, 400, "{request:?} got {}", response.head);
    }
    assert_eq!(instance.accepted(), 0);
}

#[tokio::test]
async fn a_bad_chunk_ends_the_request_at_the_instance_too() {
    for chunk in ["zz\r\nabc\r\n", "3\r\nabcdef\r\n", "-1\r\n", "3 3\r\nabc\r\n", "fffffffffffffffff\r\n"] {
        let instance = Instance::start(|mut wire, _| async move {
            let head = wire.head().await;
            assert!(field(&head, "transfer-encoding").is_some());
            let seen = wire.rest().await;
            assert!(
                !seen.is_ok_and(|seen| seen.ends_with(b"0\r\n\r\n")),
                "the body was made to look complete"
            );
        })
        .await;
        let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
        let mut client = proxy.client().await;
        client
            .send(&format!("POST /api/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"))
            .await;
        let ended = soon("an end", client.rest()).await;
        if let Ok(text) = ended {
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{chunk:?} got {text}");
        }
        proxy.until_in_flight(instance.address, 0).await;
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_dropped_and_ends_the_connection() {
    // RFC 9112, section 6.3: the coding counts, the length must not be passed on, and nothing that follows on
    // this connection is believed to be a request.
    for fields in
        ["content-length: 6\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 6"]
    {
        let instance = Instance::mirror().await;
        let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
        let mut client = proxy.client().await;
        let smuggled = "GET /api/smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        client.send(&format!("POST /api/ HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}")).await;
        let all = String::from_utf8(client.rest().await.expect("a clean end")).expect("text");
        assert_eq!(all.matches("HTTP/1.1 200").count(), 1, "{all}");
        assert!(!all.contains("content-length: 6") && !all.contains("smuggled"), "{all}");
    }
}

#[tokio::test]
async fn an_instance_cannot_split_its_answer() {
    let instance = Instance::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n",
    )
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let response = proxy.get("/api/").await;
    assert_eq!((response.field("content-length"), response.text().as_str()), (None, "abcdef"));

    let lengths = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 6\r\n\r\nabcdef";
    let instance = Instance::answering(lengths).await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    assert_eq!(proxy.get("/api/").await.status, 502);
}
