//! CORS: which origins may read answers, and what preflights are told.

use waypost_tests::{
    gateway::{Ask, Scene, http_route},
    http::Answer,
};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Extended "HTTPRouteCORS" "a preflight from an allowed origin is answered and not forwarded" preflight),
    case!(Extended "HTTPRouteCORS" "an origin that is not allowed is told nothing" other_origin),
    case!(Extended "HTTPRouteCORS" "answers for allowed origins say so, and which headers are exposed" actual),
    case!(Extended "HTTPRouteCORS" "`https://*.example.com` allows origins below that domain" wildcard_host),
    case!(Extended "HTTPRouteCORS"
        "with allowCredentials, the origin is named instead of `*`" credentials),
    case!(Extended "HTTPRouteCORS"
        "exposeHeaders `*` is answered as `*`, and with allowCredentials by the names of the answer's headers" expose_all),
    case!(Extended "HTTPRouteCORS"
        "a preflight is answered by the rule for the method that it announces" by_method),
    case!(Extended "HTTPRouteCORS" "OPTIONS that is no preflight is forwarded" options),
];

async fn cors(scene: &Scene, cors: &str) {
    let filter = format!("{{type: CORS, cors: {{{cors}}}}}");
    scene
        .apply(&http_route(
            "shop",
            &format!("rules: [{{filters: [{filter}], backendRefs: [{{name: one}}]}}]"),
        ))
        .await;
}

async fn ask_first(scene: &Scene, origin: &str, method: &str, headers: &str) -> Answer {
    ask_first_at(scene, "/", origin, method, headers).await
}

async fn ask_first_at(scene: &Scene, path: &str, origin: &str, method: &str, headers: &str) -> Answer {
    let ask = Ask::get("a.example", path).method("OPTIONS").headers(&[
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", headers),
    ]);
    scene.send(&ask).await
}

fn listed(answer: &Answer, name: &str) -> Vec<String> {
    answer
        .header(name)
        .split(',')
        .map(|part| part.trim().to_ascii_lowercase())
        .filter(|it| !it.is_empty())
        .collect()
}

const SHOP: &str = "allowOrigins: ['https://www.shop.example'], allowMethods: [GET, PUT], \
                    allowHeaders: [x-one, x-two], exposeHeaders: [x-seen], maxAge: 600";

async fn preflight(scene: &Scene) {
    cors(scene, SHOP).await;
    let answer = ask_first(scene, "https://www.shop.example", "PUT", "x-one").await;
    assert!(answer.status.is_success(), "{}", answer.status);
    assert_eq!(answer.header("x-instance"), "");
    assert_eq!(answer.header("access-control-allow-origin"), "https://www.shop.example");
    assert_eq!(listed(&answer, "access-control-allow-methods"), ["get", "put"]);
    assert_eq!(listed(&answer, "access-control-allow-headers"), ["x-one", "x-two"]);
    assert_eq!(answer.header("access-control-max-age"), "600");
}

async fn other_origin(scene: &Scene) {
    cors(scene, SHOP).await;
    let answer = ask_first(scene, "https://evil.example", "PUT", "x-one").await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    assert_eq!(answer.header("x-instance"), "", "not forwarded");
    let answer = scene.get("a.example", "/", &[("origin", "https://evil.example")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

async fn actual(scene: &Scene) {
    cors(scene, SHOP).await;
    let answer = scene.get("a.example", "/", &[("origin", "https://www.shop.example")]).await;
    assert_eq!(answer.who(), "one");
    assert_eq!(answer.header("access-control-allow-origin"), "https://www.shop.example");
    assert_eq!(listed(&answer, "access-control-expose-headers"), ["x-seen"]);
    assert!(listed(&answer, "vary").contains(&"origin".to_owned()), "{:?}", answer.headers);
}

async fn wildcard_host(scene: &Scene) {
    cors(scene, "allowOrigins: ['https://*.shop.example']").await;
    for (origin, allowed) in [
        ("https://www.shop.example", true),
        ("https://a.b.shop.example", true),
        ("https://shop.example", false),
        ("http://www.shop.example", false),
        ("https://www.shop.example.evil.net", false),
    ] {
        let answer = scene.get("a.example", "/", &[("origin", origin)]).await;
        let wanted = if allowed { origin } else { "" };
        assert_eq!(answer.header("access-control-allow-origin"), wanted, "{origin}");
    }
}

async fn credentials(scene: &Scene) {
    cors(scene, "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], allowCredentials: true")
        .await;
    let answer = ask_first(scene, "https://b.example", "DELETE", "x-any").await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://b.example");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert_eq!(listed(&answer, "access-control-allow-headers"), ["x-any"]);
    assert!(listed(&answer, "access-control-allow-methods").contains(&"delete".to_owned()));
    cors(scene, "allowOrigins: ['*']").await;
    let answer = scene.get("a.example", "/", &[("origin", "https://b.example")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-allow-credentials"), "");
}

async fn expose_all(scene: &Scene) {
    let ask = || scene.get("a.example", "/", &[("origin", "https://b.example")]);
    cors(scene, "allowOrigins: ['*'], exposeHeaders: ['*']").await;
    assert_eq!(ask().await.header("access-control-expose-headers"), "*");
    cors(scene, "allowOrigins: ['*'], exposeHeaders: ['*'], allowCredentials: true").await;
    let answer = ask().await;
    let exposed = listed(&answer, "access-control-expose-headers");
    assert!(exposed.contains(&"x-instance".to_owned()), "{exposed:?}");
    assert!(!exposed.contains(&"*".to_owned()), "{exposed:?}");
}

async fn options(scene: &Scene) {
    cors(scene, SHOP).await;
    let ask = Ask::get("a.example", "/").method("OPTIONS");
    assert_eq!(scene.send(&ask).await.who(), "one");
}

async fn by_method(scene: &Scene) {
    let rule = |method: &str, origin: &str| {
        let cors = format!("allowOrigins: ['{origin}'], allowMethods: [{method}]");
        format!(
            "- {{matches: [{{method: {method}, path: {{value: /a}}}}], filters: [{{type: CORS, cors: {{{cors}}}}}], \
             backendRefs: [{{name: one}}]}}\n"
        )
    };
    let rules = rule("GET", "https://readers.example") + &rule("PUT", "https://writers.example");
    // What takes every OPTIONS, and would tell all origins yes, is no reason to ask it.
    let rest = "- {filters: [{type: CORS, cors: {allowOrigins: ['*']}}], backendRefs: [{name: two}]}\n";
    scene.apply(&http_route("shop", &format!("rules:\n{rules}{rest}"))).await;
    for (origin, method, allowed) in [
        ("https://readers.example", "GET", "https://readers.example"),
        ("https://readers.example", "PUT", ""),
        ("https://writers.example", "PUT", "https://writers.example"),
        ("https://writers.example", "GET", ""),
        ("https://others.example", "DELETE", "*"),
    ] {
        let answer = ask_first_at(scene, "/a", origin, method, "x-one").await;
        assert!(answer.status.is_success(), "{method}: {}", answer.status);
        assert_eq!(answer.header("x-instance"), "", "{method}: not forwarded");
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{origin} {method}");
    }
    let ask = Ask::get("a.example", "/a").method("OPTIONS");
    assert_eq!(scene.send(&ask).await.who(), "two", "that was no preflight");
}
