//! Timeouts and retries.

use std::time::{Duration, Instant};

use waypost_tests::{
    gateway::{Ask, Scene, http_route},
    wait::{eventually, holds},
};

use crate::case::{Case, case};

const SOON: Duration = Duration::from_secs(20);

pub(super) const CASES: &[Case] = &[
    case!(Extended "HTTPRouteRequestTimeout"
        "`timeouts.request` is how long the gateway may take to answer; then it answers 504" request),
    case!(Extended "HTTPRouteRequestTimeout" "a timeout of zero disables it" disabled),
    case!(Extended "HTTPRouteBackendTimeout"
        "`timeouts.backendRequest` limits each request to a backend; then 504" backend),
    case!(Extended "HTTPRouteBackendTimeout" "an answer in time is not touched" in_time),
    case!(Extended "HTTPRouteRetry" "answers with one of `codes` are tried again, `attempts` times at most" codes),
    case!(Extended "HTTPRouteRetry" "other status codes are not tried again" other_codes),
    case!(Extended "HTTPRouteRetryBackoff" "`backoff` is the shortest pause before a try" backoff),
    case!(Extended "HTTPRouteRetryConnectionError"
        "an instance that cannot be connected to is left for another one" connection_error),
    case!(Extended "HTTPRouteRetryBackendTimeout"
        "a try that exceeds backendRequest is followed by another one, within the request's time" after_timeout),
];

async fn rule(scene: &Scene, rule: &str) {
    scene.apply(&http_route("shop", &format!("rules: [{{backendRefs: [{{name: one}}], {rule}}}]"))).await;
}

async fn request(scene: &Scene) {
    rule(scene, "timeouts: {request: 3s}").await;
    let begin = Instant::now();
    assert_eq!(scene.who("a.example", "/slow?ms=10000").await, "504 upstream_timeout");
    let took = begin.elapsed();
    assert!((Duration::from_millis(2990)..Duration::from_secs(9)).contains(&took), "{took:?}");
    assert_eq!(scene.who("a.example", "/slow?ms=1").await, "one");
}

async fn disabled(scene: &Scene) {
    rule(scene, "timeouts: {request: 0s, backendRequest: 0s}").await;
    assert_eq!(scene.who("a.example", "/slow?ms=300").await, "one");
}

async fn backend(scene: &Scene) {
    rule(scene, "timeouts: {backendRequest: 200ms}").await;
    let begin = Instant::now();
    assert_eq!(scene.who("a.example", "/slow?ms=10000").await, "504 upstream_timeout");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

async fn in_time(scene: &Scene) {
    rule(scene, "timeouts: {request: 5s, backendRequest: 2s}").await;
    let answer = scene.get("a.example", "/stream?chunks=3&ms=20", &[]).await;
    assert_eq!(answer.text(), "chunk 0\nchunk 1\nchunk 2\n");
}

/// A request to a service that fails so often with a code before it answers.
fn flaky(key: &str, failures: u32, code: u32) -> Ask {
    Ask::get("a.example", &format!("/flaky?key={key}&failures={failures}&code={code}"))
        .header("x-remember", key)
}

async fn codes(scene: &Scene) {
    rule(scene, "retry: {codes: [500, 503], attempts: 2}").await;
    assert_eq!(scene.send(&flaky("codes-1", 2, 503)).await.status, 200);
    assert_eq!(scene.service("one").remembered("codes-1").len(), 3);
    assert_eq!(scene.send(&flaky("codes-2", 9, 500)).await.status, 500, "the last answer is passed on");
    assert_eq!(scene.service("one").remembered("codes-2").len(), 3);
}

async fn other_codes(scene: &Scene) {
    rule(scene, "retry: {codes: [503], attempts: 2}").await;
    assert_eq!(scene.send(&flaky("other", 1, 500)).await.status, 500);
    assert_eq!(scene.service("one").remembered("other").len(), 1);
}

async fn backoff(scene: &Scene) {
    rule(scene, "retry: {codes: [503], attempts: 2, backoff: 150ms}").await;
    let begin = Instant::now();
    assert_eq!(scene.send(&flaky("backoff", 2, 503)).await.status, 200);
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
}

async fn connection_error(scene: &Scene) {
    let gone = scene.register("pair", "gone", |it| it).await;
    let there = scene.register("pair", "there", |it| it).await;
    gone.service.stop();
    scene.apply(&http_route("shop", "rules: [{backendRefs: [{name: pair}], retry: {attempts: 2}}]")).await;
    for _ in 0..10 {
        assert_eq!(scene.who("a.example", "/").await, "there");
    }
    drop((gone, there));
}

async fn after_timeout(scene: &Scene) {
    // Two instances, of which one is slow to the same request.
    let slow = scene.register("uneven", "slow", |it| it).await;
    scene
        .apply(&http_route(
            "shop",
            "rules: [{backendRefs: [{name: uneven}], timeouts: {request: 20s, backendRequest: 100ms}, \
             retry: {attempts: 2, codes: [504]}}]",
        ))
        .await;
    let ask = Ask::get("a.example", "/slow?ms=5000").header("x-remember", "after-timeout");
    assert_eq!(scene.send(&ask).await.who(), "504 upstream_timeout");
    eventually("the last try arrives", SOON, async || {
        let tries = slow.service.remembered("after-timeout").len();
        holds(tries == 3, || format!("{tries} tries"))
    })
    .await;
}
