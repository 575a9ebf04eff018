//! Bodies: streamed both ways with back-pressure, with trailers, and never made to look complete when they are not.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, sync::oneshot};
use waypost_proxy::serve::ServeConfig;

use crate::support::{Instance, Proxy, Wire, field, hasty, soon};

/// Wraps a one-shot script into one for an instance, for the first connection.
fn once<F: Future<Output = ()> + Send + 'static>(
    script: impl FnOnce(Wire) -> F + Send + 'static,
) -> impl Fn(Wire, usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static {
    let script = std::sync::Mutex::new(Some(script));
    move |wire, _| match script.lock().expect("not poisoned").take() {
        Some(script) => Box::pin(script(wire)),
        None => Box::pin(async {}),
    }
}

#[tokio::test]
async fn a_body_flows_while_it_is_being_sent() {
    let (seen, mut first) = oneshot::channel();
    let instance = Instance::start(once(|mut wire: Wire| async move {
        let head = wire.head().await;
        assert_eq!(field(&head, "transfer-encoding").as_deref(), Some("chunked"));
        let _ = seen.send(wire.exactly(8).await);
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
        assert_eq!(wire.chunks().await.0, b"two");
        wire.send("3\r\ntwo\r\n0\r\n\r\n").await;
    }))
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
    assert_eq!(soon("the first chunk", &mut first).await.expect("sent"), b"3\r\none\r\n");
    // The answer begins while the request has not ended: bytes go both ways at once.
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(client.exactly(8).await, b"3\r\none\r\n");
    client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(client.chunks().await.0, b"two");
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn large_bodies_arrive_whole_both_ways() {
    let instance = Instance::start(|mut wire, _| async move {
        while let Some((_, body)) = wire.request().await {
            wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await;
            wire.send_bytes(&body).await;
        }
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client
            .send(&format!("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len()))
            .await;
        client.send_bytes(&body).await;
        assert!(client.response().await.body == body);
    }
    assert_eq!(instance.accepted(), 1);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let instance = Instance::start(once(|mut wire: Wire| async move {
        let head = wire.head().await;
        assert_eq!(field(&head, "te").as_deref(), Some("trailers"));
        assert_eq!(field(&head, "trailer").as_deref(), Some("x-sum"));
        let (body, trailers) = wire.chunks().await;
        assert_eq!((body.as_slice(), trailers.as_str()), (&b"abc"[..], "x-sum: 1\r\n"));
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\ndef\r\n0\r\nx-sum: 2\r\n\r\n")
            .await;
        wire.request().await;
    }))
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client
        .send(
            "POST /api/ HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n\
             transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        )
        .await;
    client.head().await;
    let (body, trailers) = client.chunks().await;
    assert_eq!((body.as_slice(), trailers.as_str()), (&b"def"[..], "x-sum: 2\r\n"));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_instance_back() {
    const CHUNK: usize = 64 * 1024;
    let (report, reported) = tokio::sync::watch::channel(0_usize);
    let instance = Instance::start(once(move |mut wire: Wire| async move {
        wire.request().await;
        wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", CHUNK * 1024)).await;
        for _ in 0..1024 {
            wire.socket.write_all(&[7; CHUNK]).await.expect("the proxy reads in the end");
            report.send_modify(|sent| *sent += CHUNK);
        }
    }))
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.head().await;
    let stalled_at = until_still(&reported).await;
    assert!(stalled_at < CHUNK * 512, "{stalled_at} bytes were taken while nobody read");
    assert_eq!(client.exactly(CHUNK * 1024).await.len(), CHUNK * 1024);
}

#[tokio::test]
async fn an_instance_that_does_not_read_holds_the_client_back() {
    const CHUNK: usize = 64 * 1024;
    let (go, gone) = oneshot::channel::<()>();
    let instance = Instance::start(once(move |mut wire: Wire| async move {
        let head = wire.head().await;
        gone.await.expect("the test goes on");
        let length = field(&head, "content-length").expect("a length").parse().expect("a number");
        assert_eq!(wire.exactly(length).await.len(), CHUNK * 1024);
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    }))
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send(&format!("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", CHUNK * 1024)).await;
    let (report, reported) = tokio::sync::watch::channel(0_usize);
    let sender = tokio::spawn(async move {
        for _ in 0..1024 {
            client.socket.write_all(&[7; CHUNK]).await.expect("the proxy reads in the end");
            report.send_modify(|sent| *sent += CHUNK);
        }
        client
    });
    let stalled_at = until_still(&reported).await;
    assert!(stalled_at < CHUNK * 512, "{stalled_at} bytes were taken while nobody read");
    go.send(()).expect("the instance waits");
    let mut client = soon("the upload", sender).await.expect("no panic");
    assert_eq!(client.response().await.text(), "ok");
}

/// Waits until a counter that has begun to move stands still, and returns it.
async fn until_still(counter: &tokio::sync::watch::Receiver<usize>) -> usize {
    let mut counter = counter.clone();
    let settled = async {
        counter.wait_for(|count| *count > 0).await.expect("it counts");
        while let Ok(changed) = tokio::time::timeout(Duration::from_millis(300), counter.changed()).await {
            if changed.is_err() {
                break;
            }
        }
        *counter.borrow()
    };
    soon("a standstill", settled).await
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_a_clean_end_for_http_1_0() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    ] {
        let instance = Instance::start(move |mut wire, _| async move {
            wire.request().await;
            wire.send(answer).await;
        })
        .await;
        let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
        let mut client = proxy.client().await;
        client.send("GET /api/ HTTP/1.0\r\nhost: a\r\n\r\n").await;
        let rest = client.rest().await;
        let text = rest.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let cut = match &text {
            // A reset, or a message that is visibly not whole.
            Err(_) => true,
            Ok(text) => {
                let framed = text.contains("content-length: 10") || text.contains("transfer-encoding");
                framed && !text.ends_with("0\r\n\r\n")
            }
        };
        assert!(cut, "{answer:?} became {text:?}");
        proxy.until_in_flight(instance.address, 0).await;
    }
}

#[tokio::test]
async fn a_client_that_stalls_in_its_body_is_given_up() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(hasty(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").await;
    let ended = soon("an end", client.rest()).await;
    if let Ok(text) = ended {
        assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&text));
    }
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_at_the_instance() {
    let (asked, mut request) = oneshot::channel();
    let (seen, mut ended) = oneshot::channel();
    let instance = Instance::start(once(|mut wire: Wire| async move {
        wire.request().await;
        let _ = asked.send(());
        let _ = wire.rest().await;
        let _ = seen.send(());
    }))
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    soon("the request at the instance", &mut request).await.expect("sent");
    drop(client);
    soon("the end at the instance", &mut ended).await.expect("sent");
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn a_connection_is_kept_when_both_bodies_have_ended_whichever_was_first() {
    let instance = Instance::start(|mut wire, _| async move {
        loop {
            let Ok(Some(head)) = wire.try_head().await else { return };
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
            let length = field(&head, "content-length").expect("a length").parse().expect("a number");
            wire.exactly(length).await;
            wire.send("3\r\ntwo\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await;
        client.head().await;
        assert_eq!(client.exactly(8).await, b"3\r\none\r\n");
        client.send("def").await;
        assert_eq!(client.chunks().await.0, b"two");
        proxy.until_in_flight(instance.address, 0).await;
    }
    assert_eq!(instance.accepted(), 1);
}

#[tokio::test]
async fn an_answer_before_which_others_come_is_found() {
    let instance = Instance::answering(
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n\
         HTTP/1.1 200 Fine\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    for _ in 0..2 {
        client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = client.response().await;
        assert!(response.head.starts_with("HTTP/1.1 200 Fine\r\n"), "{}", response.head);
        assert_eq!((response.field("link"), response.text().as_str()), (None, "ok"));
    }
    assert_eq!(instance.accepted(), 1);
}

#[tokio::test]
async fn an_answer_of_the_proxys_own_reaches_a_client_that_still_sends() {
    let proxy = Proxy::new(ServeConfig::default(), &[]);
    let mut client = proxy.client().await;
    let length = 4 << 20;
    client.send(&format!("POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")).await;
    client.send_bytes(&[7; 300_000]).await;
    assert_eq!(client.response().await.status, 404);
}

#[tokio::test]
async fn a_client_that_expects_a_100_gets_it_when_the_instance_has_said_so() {
    let (told, telling) = oneshot::channel::<()>();
    let instance = Instance::start(once(|mut wire: Wire| async move {
        let head = wire.head().await;
        assert_eq!(field(&head, "expect").as_deref(), Some("100-continue"));
        telling.await.expect("the test goes on");
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(wire.exactly(3).await, b"abc");
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    }))
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    let silence = tokio::time::timeout(Duration::from_millis(200), client.socket.readable()).await;
    assert!(silence.is_err(), "nothing is said before the instance has");
    told.send(()).expect("the instance waits");
    assert!(client.head().await.starts_with("HTTP/1.1 100"));
    client.send("abc").await;
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test]
async fn a_client_that_expects_a_100_is_spared_the_body_where_it_is_refused() {
    let instance = Instance::start(|mut wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").await;
        let _ = wire.rest().await;
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    for (path, status) in [("/api/", 401), ("/nowhere", 404)] {
        let mut client = proxy.client().await;
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
        client.send(&request).await;
        assert_eq!(client.response().await.status, status, "without a 100 before");
    }
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn an_instance_that_says_yes_without_a_100_gets_the_body() {
    let instance = Instance::start(|mut wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n").await;
        let body = wire.exactly(3).await;
        wire.send(&String::from_utf8_lossy(&body)).await;
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    client.send("abc").await;
    assert_eq!(client.exactly(3).await, b"abc");
}

#[tokio::test]
async fn an_instance_that_knows_nothing_of_expectations_gets_the_body_anyway() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100"));
    client.send("abc").await;
    assert!(client.response().await.text().ends_with("abc"));
}
