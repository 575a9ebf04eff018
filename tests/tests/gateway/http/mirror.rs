//! RequestMirror: copies of requests, whose answers nobody waits for.

use std::time::Duration;

use waypost_tests::{
    gateway::{Ask, Scene, http_route},
    service::Remembered,
    wait::{eventually, holds},
};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Extended "HTTPRouteRequestMirror"
        "a request is also sent to the mirror, whose answer is ignored" mirrored),
    case!(Extended "HTTPRouteRequestMirror"
        "a mirror that is slow, fails or is not there changes nothing for the client" failing),
    case!(Extended "HTTPRouteRequestMultipleMirrors" "a rule may have several mirrors" several),
    case!(Extended "HTTPRouteRequestPercentageMirror"
        "`percent` and `fraction` say how many requests are mirrored" share),
    case!(Extended "HTTPRouteRequestMirror" "a mirror gets the request's body" body),
];

async fn mirrors(scene: &Scene, mirrors: &[&str]) {
    let filters: Vec<String> = mirrors
        .iter()
        .map(|mirror| format!("{{type: RequestMirror, requestMirror: {{{mirror}}}}}"))
        .collect();
    let rule = format!("{{filters: [{}], backendRefs: [{{name: one}}]}}", filters.join(", "));
    scene.apply(&http_route("shop", &format!("rules: [{rule}]"))).await;
}

/// Waits until a service has got this many requests with a word in `x-remember`.
async fn arrive(scene: &Scene, service: &str, word: &str, count: usize) -> Vec<Remembered> {
    eventually(&format!("{service} gets {count} copies"), Duration::from_secs(5), async || {
        let got = scene.service(service).remembered(word);
        holds(got.len() == count, || format!("{got:?}")).map(|()| got)
    })
    .await
}

async fn mirrored(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: two}"]).await;
    let answer = scene.get("a.example", "/x?y=1", &[("x-remember", "copy"), ("x-a", "b")]).await;
    assert_eq!(answer.who(), "one");
    let got = arrive(scene, "two", "copy", 1).await;
    assert_eq!(got[0].path, "/x?y=1");
    assert_eq!(got[0].headers["x-a"], "b");
    assert!(got[0].host.starts_with("a.example"), "{}", got[0].host);
    assert_eq!(scene.service("one").remembered("copy").len(), 1);
}

async fn failing(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: nowhere}"]).await;
    assert_eq!(scene.who("a.example", "/").await, "one");
    mirrors(scene, &["backendRef: {name: two}"]).await;
    let dead = scene.register("dead", "dead", |it| it).await;
    dead.service.stop();
    mirrors(scene, &["backendRef: {name: dead}"]).await;
    for _ in 0..5 {
        assert_eq!(scene.who("a.example", "/").await, "one");
    }
    drop(dead);
}

async fn several(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: two}", "backendRef: {name: three}"]).await;
    let answer = scene.get("a.example", "/several", &[("x-remember", "several")]).await;
    assert_eq!(answer.who(), "one");
    arrive(scene, "two", "several", 1).await;
    arrive(scene, "three", "several", 1).await;
}

async fn share(scene: &Scene) {
    mirrors(
        scene,
        &[
            "backendRef: {name: two}, percent: 0",
            "backendRef: {name: three}, fraction: {numerator: 1, denominator: 4}",
        ],
    )
    .await;
    let ask = Ask::get("a.example", "/").header("x-remember", "share");
    let mut connection = scene.connect(&ask).await;
    for _ in 0..200 {
        assert_eq!(connection.send(&ask).await.expect("an answer").who(), "one");
    }
    // Half of 50 is more than six standard deviations away, and so is twice that.
    eventually("a quarter is copied", Duration::from_secs(5), async || {
        let copies = scene.service("three").remembered("share").len();
        holds((12..=90).contains(&copies), || copies.to_string())
    })
    .await;
    assert_eq!(scene.service("two").remembered("share").len(), 0);
}

async fn body(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: two}"]).await;
    let body = vec![b'a'; 10_000];
    let ask = Ask::get("a.example", "/echo").method("POST").header("x-remember", "body").body(&body);
    let answer = scene.send(&ask).await;
    assert_eq!(answer.who(), "one");
    assert_eq!(answer.body.len(), body.len());
    let got = arrive(scene, "two", "body", 1).await;
    let length = got[0].headers.get("content-length").map(http::HeaderValue::as_bytes);
    assert!(length.is_none_or(|length| length == b"10000"), "{length:?}");
}
