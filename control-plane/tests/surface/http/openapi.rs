//! The OpenAPI document says what is served, and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::Plane;

/// The methods that a path takes, as it says itself to one that it does not take.
async fn allowed(plane: &Plane, path: &str) -> BTreeSet<String> {
    let mut stream = TcpStream::connect(plane.server.http).await.expect("it listens");
    let request = format!("PATCH {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{path}: {answer}");
    let allow = answer.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap_or_default();
    allow.split(',').map(str::to_owned).collect()
}

#[tokio::test]
async fn every_path_takes_the_methods_that_are_documented() {
    let plane = Plane::start().await;
    let (status, kind, text) = plane.get("/openapi.json").await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 25, "{}", paths.len());
    for (path, operations) in paths {
        let asked = path.replace(['{', '}'], "");
        let mut documented: BTreeSet<String> =
            operations.as_object().expect("operations").keys().map(|method| method.to_uppercase()).collect();
        if documented.contains("GET") {
            documented.insert("HEAD".to_owned());
        }
        assert_eq!(allowed(&plane, &asked).await, documented, "{path}");
    }
    let (_, _, index) = plane.get("/").await;
    let index: Value = serde_json::from_str(&index).expect("JSON");
    let listed: BTreeSet<&String> = index["paths"].as_object().expect("paths").keys().collect();
    assert_eq!(listed, paths.keys().collect(), "the index lists the same");
}
