//! Exchanges over real sockets, with an instance that says what the test wants.

use http::{HeaderMap, HeaderValue, Method, Version};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{headers::HopOptions, http1::Length};

const LIMIT: Duration = Duration::from_secs(5);

/// A connection and its other end.
async fn pair() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let connected = TcpStream::connect(listener.local_addr().expect("bound"));
    let (near, far) = tokio::join!(connected, listener.accept());
    (Connection::new(ServerSocket::Plain(near.expect("connected")), 8192), far.expect("accepted").0)
}

/// Asks, and reads the head of the answer.
async fn ask(
    connection: &mut Connection,
    method: &Method,
    limit: Duration,
) -> Result<(Answer, HeaderMap), ExchangeError> {
    let (host, options, mut headers) =
        (HeaderValue::from_static("a"), HopOptions::default(), HeaderMap::new());
    let length = Length::None;
    let head = Head { method, target: "/", host: &host, headers: &headers, options: &options, length };
    let upload = connection.upload(&head, RequestBody::none());
    let limits = ExchangeLimits { answer: limit, upload: limit };
    let (answer, rest) =
        connection.exchange(upload, Room { fields: &mut headers, bare: None }, limits, || {}).await?;
    assert!(rest.is_none(), "all was sent");
    Ok((answer, headers))
}

/// The rest of an answer's body.
async fn body(connection: &mut Connection) -> Result<String, BodyError> {
    let mut text = String::new();
    loop {
        match poll_fn(|context| connection.poll_body(context)).await? {
            Step::Data(data) => text.push_str(std::str::from_utf8(&data).expect("text")),
            Step::Trailers(_) => {}
            Step::End => return Ok(text),
        }
    }
}

/// Reads a request's head.
async fn asked(far: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        assert!(far.read_buf(&mut read).await.expect("bytes") > 0, "a request");
    }
}

/// What becomes of an exchange with an instance that says this and then goes on to read.
async fn answered(text: &str) -> (Result<String, String>, bool) {
    let (mut connection, mut far) = pair().await;
    let instance = async {
        asked(&mut far).await;
        far.write_all(text.as_bytes()).await.expect("the connection reads");
    };
    let (asked, ()) = tokio::join!(ask(&mut connection, &Method::GET, LIMIT), instance);
    let outcome = match asked {
        Ok(_) => {
            far.shutdown().await.expect("an open socket");
            body(&mut connection).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(format!("{error:?}")),
    };
    (outcome, connection.end_exchange())
}

#[tokio::test]
async fn a_connection_carries_another_request_only_after_a_clean_end() {
    for (text, expected, kept) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", true),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n", "", false),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n", "", true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", "ok", true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!", "ok", false),
        ("HTTP/1.1 204 No Content\r\n\r\nok", "", false),
        ("HTTP/1.1 200 OK\r\n\r\nok", "ok", false),
    ] {
        let (outcome, reusable) = answered(text).await;
        assert_eq!((outcome.as_deref(), reusable), (Ok(expected), kept), "{text:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ] {
        let (outcome, reusable) = answered(text).await;
        assert!(outcome.is_err() && !reusable, "{text:?} became {outcome:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_taken_for_one() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(9000));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(33);
    for text in ["SSH-2.0-OpenSSH\r\n\r\n", &long, &format!("{long}\r\n\r\n"), &interim] {
        let (outcome, reusable) = answered(text).await;
        let refused = outcome.as_ref().is_err_and(|error| error.starts_with("Protocol"));
        assert!(refused && !reusable, "{outcome:?}");
    }
}

#[tokio::test]
async fn interim_heads_are_passed_over() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(answered(&format!("{interim}{answer}")).await, (Ok("ok".to_owned()), true));
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte() {
    let (mut connection, mut far) = pair().await;
    far.set_nodelay(true).expect("a TCP socket");
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let instance = async {
        asked(&mut far).await;
        for byte in text.bytes() {
            far.write_all(&[byte]).await.expect("the connection reads");
            tokio::task::yield_now().await;
        }
    };
    let exchange = async {
        let (_, headers) = ask(&mut connection, &Method::GET, LIMIT).await.expect("an answer");
        assert_eq!(headers["x"], "y");
        body(&mut connection).await.expect("a body")
    };
    assert_eq!(tokio::join!(exchange, instance).0, "ok");
    assert!(connection.end_exchange());
}

#[tokio::test]
async fn what_happened_to_an_idle_connection_is_noticed_before_anything_is_sent() {
    for garbage in ["", "HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let (mut connection, mut far) = pair().await;
        assert!(connection.is_quiet());
        far.write_all(garbage.as_bytes()).await.expect("an open socket");
        if garbage.is_empty() {
            far.shutdown().await.expect("an open socket");
        }
        while connection.is_quiet() {
            tokio::task::yield_now().await;
        }
        let asked = ask(&mut connection, &Method::GET, LIMIT).await;
        assert!(matches!(asked, Err(ExchangeError::Unsent)), "{asked:?}");
        drop(connection);
        let mut read = Vec::new();
        let _ = far.read_to_end(&mut read).await;
        assert!(read.is_empty(), "nothing was sent");
    }
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_says_so() {
    for text in ["", "HTTP/1.1 200 O"] {
        let (mut connection, mut far) = pair().await;
        let instance = async {
            asked(&mut far).await;
            far.write_all(text.as_bytes()).await.expect("the connection reads");
            drop(far);
        };
        let (asked, ()) = tokio::join!(ask(&mut connection, &Method::GET, LIMIT), instance);
        assert!(matches!(asked, Err(ExchangeError::Closed)), "{asked:?}");
    }
}

#[tokio::test]
async fn an_answer_is_waited_for_as_long_as_was_said() {
    let (mut connection, _far) = pair().await;
    let asked = ask(&mut connection, &Method::GET, Duration::from_millis(20)).await;
    assert!(matches!(asked, Err(ExchangeError::Timeout)), "{asked:?}");
}

#[tokio::test]
async fn a_switch_gives_the_socket_and_what_came_with_it() {
    let (mut connection, mut far) = pair().await;
    let instance = async {
        asked(&mut far).await;
        far.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello").await.expect("the connection reads");
    };
    let (asked, ()) = tokio::join!(ask(&mut connection, &Method::GET, LIMIT), instance);
    let (answer, _) = asked.expect("an answer");
    assert_eq!((answer.status, answer.version), (StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_11));
    let (mut socket, received) = connection.into_socket().expect("both halves");
    assert_eq!(received, "hello");
    socket.write_all(b"bye").await.expect("an open socket");
    let mut read = [0; 3];
    far.read_exact(&mut read).await.expect("bytes");
    assert_eq!(&read, b"bye");
}

#[tokio::test]
async fn the_same_connection_is_used_again_and_again() {
    let (mut connection, mut far) = pair().await;
    for number in 0..50 {
        let text = "x".repeat(number * 100);
        let instance = async {
            asked(&mut far).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            far.write_all(answer.as_bytes()).await.expect("the connection reads");
        };
        let (asked, ()) = tokio::join!(ask(&mut connection, &Method::GET, LIMIT), instance);
        asked.expect("an answer");
        assert_eq!(body(&mut connection).await.expect("a body"), text);
        assert!(connection.end_exchange());
    }
}
