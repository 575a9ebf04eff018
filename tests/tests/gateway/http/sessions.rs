//! Session persistence (GEP-1619).

use waypost_tests::{
    gateway::{Ask, Scene, http_route},
    http::Answer,
    service::RegisteredService,
};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Extended "HTTPRouteSessionPersistence" "a cookie of the gateway's keeps a client with an instance" cookie),
    case!(Extended "HTTPRouteSessionPersistence"
        "a Permanent cookie says how long it lasts, a Session cookie does not" lifetime),
    case!(Extended "HTTPRouteSessionPersistence" "with type Header, a header does instead of a cookie" header),
    case!(Extended "HTTPRouteSessionPersistence" "a session whose instance is gone goes on with another one" gone),
    case!(Extended "HTTPRouteSessionPersistence" "what clients make up is no session" forged),
];

/// Three instances behind a rule with this persistence.
async fn sticky(scene: &Scene, session: &str) -> Vec<RegisteredService> {
    let mut instances = Vec::new();
    for instance in ["s1", "s2", "s3"] {
        instances.push(scene.register("sticky", instance, |it| it).await);
    }
    let rule = format!("{{backendRefs: [{{name: sticky}}], sessionPersistence: {{{session}}}}}");
    scene.apply(&http_route("shop", &format!("rules: [{rule}]"))).await;
    instances
}

/// What a browser would send back.
fn kept(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
}

/// Asks 20 times with this header, and gives who answered.
async fn who_answers(scene: &Scene, name: &str, value: &str) -> Vec<String> {
    let ask = Ask::get("a.example", "/").header(name, value);
    let mut connection = scene.connect(&ask).await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(connection.send(&ask).await.expect("an answer").who());
    }
    seen.sort();
    seen.dedup();
    seen
}

async fn cookie(scene: &Scene) {
    let instances = sticky(scene, "sessionName: shop-session").await;
    for _ in 0..3 {
        let first = scene.get("a.example", "/", &[]).await;
        let cookie = kept(&first);
        assert!(cookie.starts_with("shop-session="), "{:?}", first.headers);
        assert_eq!(who_answers(scene, "cookie", &format!("other=1; {cookie}")).await, [first.who()]);
    }
    drop(instances);
}

async fn lifetime(scene: &Scene) {
    let instances = sticky(scene, "sessionName: s").await;
    let answer = scene.get("a.example", "/", &[]).await;
    let cookie = answer.header("set-cookie").to_ascii_lowercase();
    assert!(!cookie.contains("max-age") && !cookie.contains("expires"), "{cookie}");
    let session = "sessionName: s, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}";
    let rule = format!("{{backendRefs: [{{name: sticky}}], sessionPersistence: {{{session}}}}}");
    scene.apply(&http_route("shop", &format!("rules: [{rule}]"))).await;
    let answer = scene.get("a.example", "/", &[]).await;
    let cookie = answer.header("set-cookie").to_ascii_lowercase();
    assert!(cookie.contains("max-age=3600") || cookie.contains("expires="), "{cookie}");
    drop(instances);
}

async fn header(scene: &Scene) {
    let instances = sticky(scene, "sessionName: x-session, type: Header").await;
    let first = scene.get("a.example", "/", &[]).await;
    let token = first.header("x-session").to_owned();
    assert!(!token.is_empty(), "{:?}", first.headers);
    assert_eq!(first.header("set-cookie"), "");
    assert_eq!(who_answers(scene, "x-session", &token).await, [first.who()]);
    drop(instances);
}

async fn gone(scene: &Scene) {
    let mut instances = sticky(scene, "sessionName: s").await;
    let first = scene.get("a.example", "/", &[]).await;
    let position = instances.iter().position(|it| it.service.instance == first.who()).expect("one of them");
    instances.remove(position).retire(std::time::Duration::from_secs(5)).await;
    scene.cluster.converged().await;
    let next = scene.get("a.example", "/", &[("cookie", &kept(&first))]).await;
    assert_eq!(next.status, 200);
    assert_ne!(next.who(), first.who());
    assert_eq!(who_answers(scene, "cookie", &kept(&next)).await, [next.who()]);
    drop(instances);
}

async fn forged(scene: &Scene) {
    let instances = sticky(scene, "sessionName: s").await;
    for value in ["s=", "s=AAAA", "s=s1", "s=\"; s=x", &format!("s={}", "A".repeat(4000))] {
        let answer = scene.get("a.example", "/", &[("cookie", value)]).await;
        assert_eq!(answer.status, 200, "{value}");
        assert!(kept(&answer).starts_with("s="), "{value}: {:?}", answer.headers);
    }
    drop(instances);
}
