//! What services of Tapper's say of themselves, and what becomes of it.

use super::*;

fn registration(service: serde_json::Value) -> Registration {
    let mut service = service;
    for (name, value) in [("name", "payments"), ("version", "1.0.0")] {
        if service.get(name).is_none() {
            service[name] = value.into();
        }
    }
    let instance = serde_json::json!({ "url": "http://127.0.0.1:9001" });
    serde_json::from_value(serde_json::json!({ "service": service, "instance": instance }))
        .expect("a registration")
}

fn routes(paths: &[&str]) -> serde_json::Value {
    paths.iter().map(|path| serde_json::json!({ "path": path, "methods": ["GET"] })).collect()
}

#[test]
fn routes_without_a_prefix_are_claimed_as_they_are() {
    let paths = [
        "/users/{user_id:int}",
        "/files/{rest:path}",
        "/v{version}/users",
        "/users/",
        "/{from}-{to}/days",
        // What cannot be said must not cost the others.
        "/files/{rest:path}/raw",
        "/f{rest:path}",
        "/two words",
        "/gr\u{fc}n",
        "/twice//",
        "/all*",
    ];
    let sent = registration(serde_json::json!({ "routes": routes(&paths) }));
    let spec = sent.to_spec().expect("a good one");
    assert_eq!(spec.prefix.as_deref(), Some(""), "its name is no path");
    assert_eq!(
        spec.endpoints,
        [
            "GET /users/{user_id:int}",
            "GET /files/{rest:path}",
            "GET /{any}/users",
            "GET /users/",
            "GET /{any}/days"
        ]
    );
}

#[test]
fn what_is_no_path_is_not_left_out_but_refused() {
    let spec =
        registration(serde_json::json!({ "routes": routes(&["users"]) })).to_spec().expect("an address");
    assert_eq!(spec.endpoints, ["GET users"], "whoever checks it says what is wrong");
}

#[test]
fn a_prefix_is_removed_unless_a_tag_says_otherwise() {
    let sent = |tags: &[&str]| {
        let paths = routes(&["/payments/charge", "/payments-old"]);
        registration(serde_json::json!({ "prefix": "/payments", "routes": paths, "tags": tags }))
    };
    let spec = sent(&["two words", "finance"]).to_spec().expect("a good one");
    assert_eq!((spec.prefix.as_deref(), spec.strip_prefix), (Some("/payments"), Some(true)));
    assert_eq!(spec.endpoints, ["GET /payments-old"], "it is not below the prefix");
    assert_eq!(spec.tags, ["finance"]);
    assert_eq!(sent(&[KEEP_PREFIX]).to_spec().expect("a good one").strip_prefix, Some(false));
}

#[test]
fn a_service_without_routes_is_reached_by_its_name() {
    let spec = registration(serde_json::json!({})).to_spec().expect("a good one");
    assert_eq!((spec.prefix, spec.endpoints.len()), (None, 0));
}

#[test]
fn what_was_sent_is_given_back_word_for_word_however_long() {
    let paths: Vec<String> = (0..500).map(|at| format!("/ä/{{number_{at}:int}}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let sent = registration(serde_json::json!({ "routes": routes(&paths), "tags": ["two words"] }));
    let metadata = sent.to_metadata();
    assert!(metadata.len() > 1 && metadata.values().all(|value| value.len() <= LONGEST_VALUE));
    let back = Registration::from_metadata(&metadata).expect("it is whole");
    assert_eq!(back.service.routes, sent.service.routes);
    assert_eq!(back.service.tags, ["two words"]);
}

#[test]
fn instances_of_other_clients_are_shown_as_far_as_a_gateway_can_use_them() {
    let spec = v1::InstanceSpec {
        service: "users".into(),
        address: "127.0.0.1:9001".into(),
        prefix: Some("/users".into()),
        strip_prefix: Some(false),
        endpoints: vec!["* /people/{}".into()],
        protocol: Protocol::Http1.into(),
        ..Default::default()
    };
    let key = v1::InstanceKey { namespace: "default".into(), service: "users".into(), id: "a".into() };
    let instance = v1::Instance { key: Some(key), spec: Some(spec.clone()), ..Default::default() };
    let shown = services(vec![instance.clone()]).pop().expect("one");
    let paths: Vec<&str> = shown.routes.iter().map(|route| route.path.as_str()).collect();
    assert_eq!(paths, ["/people/{p2}", "/users", "/users/{rest:path}"]);
    assert_eq!(shown.instances[0].url, "http://127.0.0.1:9001");
    let grpc = v1::InstanceSpec { protocol: Protocol::Grpc.into(), ..spec };
    assert!(services(vec![v1::Instance { spec: Some(grpc), ..instance }]).is_empty());
}

#[test]
fn only_what_can_be_reached_is_an_address() {
    for (url, expected) in [
        ("http://users", "users:80"),
        ("http://127.0.0.1:9001/", "127.0.0.1:9001"),
        ("http://[::1]:9001", "[::1]:9001"),
    ] {
        assert_eq!(address(url).as_deref(), Ok(expected));
    }
    for url in
        ["", "users:80", "https://users", "http://users/api", "http://a@b", "http://users?x", "http://:80"]
    {
        assert_eq!(address(url), Err(URL_RULE), "{url}");
    }
}
