//! `waypost explain`: the proxy is found through the control plane, asked, and understood.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use crate::{
    fake::Known,
    support::{Ran, nobody, run},
};

/// An admin port that answers everything alike, and tells what it was asked: the first line, and the body if there is one.
async fn admin(status: &'static str, body: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (sender, asked) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut part = [0; 1024];
            while !is_whole(&request) {
                let read = stream.read(&mut part).await.unwrap_or(0);
                assert!(read > 0, "the request is cut");
                request.extend_from_slice(&part[..read]);
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let request = String::from_utf8_lossy(&request);
            let (head, body) = request.split_once("\r\n\r\n").unwrap_or_default();
            let line = head.lines().next().unwrap_or_default();
            let _ = sender.send(format!("{line} {body}").trim_end().to_owned()).await;
        }
    });
    (address, asked)
}

fn is_whole(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request);
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    body.len() == length.parse::<usize>().expect("a number")
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
    let gone = nobody();
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

#[tokio::test]
async fn an_older_revision_is_asked_of_the_proxy_that_remembers_it() {
    let (young, mut asked) = admin("404 Not Found", r#"{"detail":"revision 3 is not kept here"}"#).await;
    let older = AUTOMATIC.replacen('{', r#"{"revision":2,"current":false,"#, 1).leak();
    let (old, _asked) = admin("200 OK", older).await;
    let ran = explain(vec![young.clone(), old], &["GET", "/x", "--revision", "3"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("2, not the current one, with the routing of 3"), "{}", ran.stdout);
    let first = asked.recv().await.expect("it was asked first");
    assert_eq!(first, "GET /explain?method=GET&url=%2Fx&revision=3 HTTP/1.1");
    let ran = explain(vec![young], &["GET", "/x", "--revision", "3"]).await;
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("revision 3 is not kept here"), "{}", ran.stderr);
    let ran = run(&["explain", "GET", "/x", "--revision", "3", "-f", "a.yaml"]).await;
    assert!(ran.code == 2 && ran.stderr.contains("cannot be used with"), "{}", ran.stderr);
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: odd}
spec: {rules: [{backendRefs: [{name: users}]}]}
";

/// The file of a test, in a folder of its own.
fn written(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("manifest.yaml");
    std::fs::write(&file, text).expect("it is written");
    let name = file.to_str().expect("text").to_owned();
    (folder, name)
}

#[tokio::test]
async fn manifests_are_explained_as_if_they_were_applied() {
    let previewed = r#"{"revision":7,"current":false,
        "preview":{"revision":8,"changed":["httproute/default/odd"],"removed":[]},"#;
    let (address, mut asked) = admin("200 OK", AUTOMATIC.replacen('{', previewed, 1).leak()).await;
    let (_folder, file) = written(ROUTE);
    let ran = explain(vec![address], &["-f", &file, "GET", "/x"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("7 as if the manifests were applied: 1 changed, 0 removed"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("the control plane is at 8"), "{}", ran.stdout);
    assert!(ran.stderr.contains("is odd; call it even"), "{}", ran.stderr);
    let asked = asked.recv().await.expect("it was asked");
    let (line, body) = asked.split_once(" HTTP/1.1 ").expect("a body");
    assert_eq!(line, "POST /explain?method=GET&url=%2Fx");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["declared"][0]["id"], "httproute/default/odd");
}

#[tokio::test]
async fn manifests_that_would_be_refused_are_shown_as_apply_shows_them() {
    let (_folder, file) = written(&ROUTE.replace("rules:", "rulez:"));
    let refused = explain(Vec::new(), &["-f", &file, "GET", "/x"]).await;
    let address = Known::default().serve().await.to_string();
    let applied = run(&["apply", "-f", &file, "--control-plane", &address]).await;
    assert_eq!((refused.code, &refused.stderr), (2, &applied.stderr));
    assert!(
        refused.stderr.contains("manifest.yaml:5") && refused.stderr.contains("rulez"),
        "{}",
        refused.stderr
    );
    let (address, _asked) = admin("405 Method Not Allowed", r#"{"detail":"GET reads it"}"#).await;
    let (_folder, file) = written(ROUTE);
    let ran = explain(vec![address], &["-f", &file, "GET", "/x"]).await;
    assert!(ran.code == 1 && ran.stderr.contains("its version is too old"), "{}", ran.stderr);
}
