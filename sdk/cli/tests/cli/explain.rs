//! `waypost explain`: the proxy is found through the control plane, asked, and understood.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use crate::{
    fake::Known,
    support::{Ran, run},
};

/// An admin port that answers everything alike, and tells what it was asked.
async fn admin(status: &'static str, body: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (sender, asked) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut part = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut part).await.unwrap_or(0);
                assert!(read > 0, "the request is cut");
                request.extend_from_slice(&part[..read]);
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
            let _ = sender.send(line).await;
        }
    });
    (address, asked)
}

async fn explain(admins: Vec<String>, args: &[&str]) -> Ran {
    let address = Known { admins, ..Known::default() }.serve().await.to_string();
    run(&[&["explain"], args, &["--control-plane", &address]].concat()).await
}

const AUTOMATIC: &str = r#"{"request":{"method":"GET","host":"a","path":"/x","query":null,"port":0},
    "listeners":[],"hostnames":[],"considered":[],"more":0,
    "outcome":{"kind":"automatic","route":"x","service":"users","path":"/","endpoints":[]}}"#;

#[tokio::test]
async fn the_request_reaches_a_proxy_as_it_was_given() {
    let (address, mut asked) = admin("200 OK", AUTOMATIC).await;
    let ran = explain(vec![address], &["get", "http://a/x?b=c&d", "-H", "X-One: 1, 2"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("automatic route x") && ran.stdout.contains("users"), "{}", ran.stdout);
    assert_eq!(
        asked.recv().await.as_deref(),
        Some("GET /explain?method=GET&url=http%3A%2F%2Fa%2Fx%3Fb%3Dc%26d&header=X-One%3A+1%2C+2 HTTP/1.1")
    );
}

#[tokio::test]
async fn one_that_does_not_answer_is_followed_by_the_next() {
    let (address, _asked) = admin("200 OK", AUTOMATIC).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("one").to_string();
    let ran = explain(vec![gone.clone(), address.clone()], &["GET", "/x", "-o", "json"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((ran.code, &document["outcome"]["service"]), (0, &"users".into()));
    let ran = explain(vec![gone.clone()], &["GET", "/x"]).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains(&gone) && ran.stderr.contains("--proxy"), "{}", ran.stderr);
    // A proxy that is named needs no control plane.
    let ran = run(&["explain", "GET", "/x", "--proxy", &address, "--control-plane", &gone]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[tokio::test]
async fn no_proxy_is_4_and_a_refusal_says_why() {
    let ran = explain(Vec::new(), &["GET", "/x"]).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("waypost-proxy --control-plane"), "{}", ran.stderr);
    let (address, _asked) = admin("400 Bad Request", r#"{"detail":"the path has a backslash"}"#).await;
    let ran = explain(vec![address], &["GET", "/x"]).await;
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("the path has a backslash"), "{}", ran.stderr);
}
