//! The same over HTTP.

use super::*;

async fn json(plane: &Plane, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, text) = plane.send(method, path, "", body).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test]
async fn resources_live_at_their_paths() {
    let plane = Plane::start().await;
    let (status, answer) = json(&plane, "PUT", "/v1/resources?actor=ada", &shop()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["resources"][1]["outcome"], "APPLY_OUTCOME_CREATED");
    let (_, listed) = json(&plane, "GET", "/v1/resources", "").await;
    assert_eq!(listed["resources"].as_array().map(Vec::len), Some(2));
    for path in ["/v1/resources/httproutes", "/v1/resources?kind=HTTPRoute", "/v1/resources?name=shop"] {
        let (_, listed) = json(&plane, "GET", path, "").await;
        assert_eq!(listed["resources"].as_array().map(Vec::len), Some(1), "{path}");
        assert_eq!(listed["resources"][0]["actor"], "ada");
    }
    let shop = "/v1/resources/HTTPRoute/default/shop";
    let changed = route("shop", "/store");
    let (_, answer) = json(&plane, "POST", "/v1/resources?dry_run", &changed).await;
    assert_eq!(answer["resources"][0]["outcome"], "APPLY_OUTCOME_CONFIGURED");
    let (_, answer) = json(&plane, "POST", "/v1/resources?wait=10s", &changed).await;
    assert_eq!(answer["resources"][0]["generation"], "2");
    let (_, one) = json(&plane, "GET", shop, "").await;
    assert!(one["manifest"].as_str().is_some_and(|manifest| manifest.contains("/store")), "{one}");
    assert!(one["actor"].as_str().is_some_and(|actor| actor.starts_with("127.0.0.1:")), "{one}");
    let (_, answer) = json(&plane, "POST", &format!("{shop}/rollback?generation=1"), "").await;
    assert_eq!(answer["resources"][0]["generation"], "3");
    let (_, past) = json(&plane, "GET", &format!("{shop}/history"), "").await;
    assert_eq!(past["generations"].as_array().map(Vec::len), Some(3));
    let (status, refused) = json(&plane, "DELETE", "/v1/resources/Gateway/default/edge", "").await;
    assert_eq!((status, &refused["code"]), (409, &"failed_precondition".into()));
    assert_eq!(json(&plane, "DELETE", shop, "").await.0, 200);
    assert_eq!(json(&plane, "GET", shop, "").await.0, 404);
    assert_eq!(json(&plane, "DELETE", shop, "").await.0, 404);
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_place() {
    let plane = Plane::start().await;
    let wrong = GATEWAY.replace("8443", "84430");
    let (status, problem) = json(&plane, "PUT", "/v1/resources", &wrong).await;
    assert_eq!((status, &problem["code"]), (400, &"invalid_argument".into()));
    let field = problem["violations"][0]["field"].as_str().expect("a field");
    assert!(field.starts_with("body:8:") && field.ends_with("spec.listeners[0].port"), "{field}");
    for (method, path, field) in [
        ("PUT", "/v1/resources?dryrun=true", "dryrun"),
        ("PUT", "/v1/resources?dry_run=yes", "dry_run"),
        ("PUT", "/v1/resources?wait=soon", "wait"),
        ("PUT", "/v1/resources?wait=2h", "wait"),
        ("PUT", "/v1/resources", "documents"),
        ("GET", "/v1/resources/pods", "kind"),
        ("GET", "/v1/resources/HTTPRoute/default/A", "name"),
        ("POST", "/v1/resources/HTTPRoute/default/a/rollback?generation=x", "generation"),
    ] {
        let (status, problem) = json(&plane, method, path, "").await;
        assert_eq!((status, &problem["violations"][0]["field"]), (400, &field.into()), "{path}");
    }
    let (status, kind, _) = plane.http("POST", "/v1/resources/HTTPRoute/default/a").await;
    assert_eq!((status, kind.as_str()), (405, "application/problem+json"));
    assert_eq!(plane.status().await.revision, 0);
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let plane = Plane::start().await;
    for foreign in ["origin: http://evil.example\r\n", "sec-fetch-site: cross-site\r\n"] {
        let (status, kind, _) = plane.send("POST", "/v1/resources", foreign, GATEWAY).await;
        assert_eq!((status, kind.as_str()), (403, "application/problem+json"), "{foreign}");
    }
    assert_eq!(plane.status().await.revision, 0);
    let (status, ..) = plane.send("POST", "/v1/resources", "origin: http://test\r\n", GATEWAY).await;
    assert_eq!(status, 200);
}
