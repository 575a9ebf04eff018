//! Reading: what is accepted as it is meant, where faults are, and that nothing else happens.

use proptest::prelude::*;

use super::{
    Kind, Manifest, Spec, parse,
    route::PathMatchType,
    samples::{ALL_KINDS, document, good, http_route, read, refused, resource},
};
use crate::v1;

#[test]
fn every_kind_is_read_with_its_fields() {
    let manifests = good(ALL_KINDS);
    let mut kinds: Vec<Kind> = manifests.iter().map(|manifest| manifest.key().kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, Kind::ALL);
    for manifest in &manifests {
        assert_eq!(manifest.spec().kind(), manifest.key().kind());
    }
    let Spec::Gateway(gateway) = manifests[0].spec() else { panic!("a Gateway comes first") };
    assert!(gateway.listeners[0].allows_namespace("infra", "shop"));
    assert!(!gateway.listeners[0].allows_namespace("infra", "infra"));
    assert_eq!(gateway.listeners[1].minimum_tls_version(), Some("1.3"));
    assert!(gateway.frontend_validation(&gateway.listeners[1]).is_some());
    assert!(gateway.frontend_validation(&gateway.listeners[0]).is_none());
    let Spec::HttpRoute(route) = manifests[1].spec() else { panic!("an HTTPRoute comes second") };
    assert_eq!(route.rules[0].filters.len(), 6);
    assert_eq!(route.rules[0].backend_refs[0].weight, 90);
    let Spec::Secret(secret) = manifests[5].spec() else { panic!("a Secret comes sixth") };
    assert_eq!(secret.data["tls.crt"], super::samples::CERTIFICATE.as_bytes());
    assert_eq!(secret.data["tls.key"], super::samples::PRIVATE_KEY.as_bytes());
    assert_eq!(manifests[5].key().to_string(), "Secret infra/edge-tls");
}

#[test]
fn canonical_json_reads_back_as_the_same_manifest() {
    for manifest in good(ALL_KINDS) {
        let again = Manifest::from_json(manifest.json()).expect("canonical JSON is good");
        assert_eq!(again, manifest);
        assert_eq!(again.json(), manifest.json());
        // It is a document, too.
        assert_eq!(good(manifest.json()), [manifest]);
    }
}

#[test]
fn what_is_left_out_has_the_defaults_of_the_specification() {
    let manifest = good(&http_route("{rules: [{backendRefs: [{name: a}], matches: []}, {}]}")).remove(0);
    let Spec::HttpRoute(route) = manifest.spec() else { panic!("an HTTPRoute") };
    for rule in &route.rules {
        assert_eq!(rule.matches.len(), 1);
        assert_eq!(rule.matches[0].path.r#type, PathMatchType::PathPrefix);
        assert_eq!(rule.matches[0].path.value, "/");
    }
    assert_eq!(route.rules[0].backend_refs[0].weight, 1);
    assert_eq!(manifest.key().namespace(), "default");
    let written = http_route(
        "{parentRefs: null, rules: [{matches: [{path: {value: /}}], backendRefs: [{name: a, kind: Service, weight: 1}]}, {}]}",
    );
    assert_eq!(good(&written), [manifest], "what is filled in is the same as what is written");
}

#[test]
fn what_a_cluster_prints_can_be_declared() {
    let text = r#"
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: gateway.networking.k8s.io/v1beta1
  kind: HTTPRoute
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"gateway.networking.k8s.io/v1"}
    creationTimestamp: "2024-01-01T00:00:00Z"
    generation: 2
    managedFields: [{manager: kubectl, fieldsV1: {"f:spec": {".": {}}}}]
    name: shop
    namespace: shop
    resourceVersion: "17"
    uid: 0a0b
  spec: {rules: [{backendRefs: [{group: "", kind: Service, name: a, port: 80, weight: 1}]}]}
  status: {parents: [{conditions: []}]}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: a, creationTimestamp: null}
  data: null
"#;
    let manifests = good(text);
    assert_eq!(manifests.len(), 2);
    assert!(manifests[0].annotations().is_empty());
    assert!(
        manifests[0]
            .json()
            .starts_with(r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","#)
    );
}

#[test]
fn json_is_read_also_where_yaml_has_no_such_escapes() {
    let text =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":"\ud83d\ude00 \/"}}"#;
    let Spec::ConfigMap(map) = good(text)[0].spec().clone() else { panic!("a ConfigMap") };
    assert_eq!(map.data["a"], "😀 /");
    let long = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a","labels":{{"{}":"b"}}}}}}"#,
        "k".repeat(2000)
    );
    assert_eq!(good(&long).len(), 1);
}

#[test]
fn anchors_aliases_and_merges_are_honoured() {
    let text = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  rules:
    - backendRefs: [&one {name: a, weight: 3}]
    - backendRefs: [*one, {<<: *one, name: b}]
"#;
    let Spec::HttpRoute(route) = good(text)[0].spec().clone() else { panic!("an HTTPRoute") };
    let found: Vec<(&str, u32)> =
        route.rules[1].backend_refs.iter().map(|to| (to.name.as_str(), to.weight)).collect();
    assert_eq!(found, [("a", 3), ("b", 3)]);
}

#[test]
fn one_answer_names_all_that_is_wrong_with_its_place() {
    let text = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: shop
spec:
  hostnamse: [a.example.com]
  rules:
    - matchs: []
      backendRefs:
        - name: cart
          port: 70000
          weight: many
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gatway
metadata: {name: edge}
";
    let expected = "\
a.yaml:6:3: HTTPRoute default/shop: spec.hostnamse: there is no field \"hostnamse\" here; did you mean \"hostnames\"?
a.yaml:8:7: HTTPRoute default/shop: spec.rules[0].matchs: there is no field \"matchs\" here; did you mean \"matches\"?
a.yaml:11:11: HTTPRoute default/shop: spec.rules[0].backendRefs[0].port: \"70000\" must be a whole number from 0 to 65535
a.yaml:12:11: HTTPRoute default/shop: spec.rules[0].backendRefs[0].weight: \"many\" must be a whole number from 0 to 4294967295
a.yaml:15:1: kind: \"Gatway\" is no kind that can be declared: BackendTLSPolicy, BackendTrafficPolicy, ConfigMap, ExternalService, GRPCRoute, Gateway, HTTPRoute, ReferenceGrant, Secret; did you mean \"Gateway\"?";
    assert_eq!(refused(text), expected);
}

#[test]
fn a_resource_is_declared_once() {
    let route = http_route("{rules: [{}]}");
    let said = refused(&format!("{route}{route}"));
    assert!(
        said.contains(
            "a.yaml:8:1: HTTPRoute default/shop: the resource is there twice; it stands at a.yaml:2 already"
        ),
        "{said}"
    );
}

#[test]
fn a_finding_of_the_set_gets_its_place_from_the_document() {
    let parsed = read(&http_route("{rules: [{}]}")).expect("a good document").remove(0);
    let mut finding = super::Finding::error(super::FieldPath::spec().item("rules", 0).key("absent"), "");
    parsed.place(&mut finding);
    assert_eq!((finding.source.as_str(), finding.line, finding.column), ("a.yaml", 6, 16));
}

#[test]
fn what_a_secret_holds_is_shown_nowhere() {
    let text =
        resource("v1", "Secret", "a", "x").replace("spec: x", "data: {a: hunter2!}\nstringData: {b: 1337}");
    let said = refused(&text);
    assert!(!said.contains("hunter2") && !said.contains("1337"), "{said}");
    assert!(said.contains("data.a: is not base64") && said.contains("stringData.b: must be text"), "{said}");
    let secret = good(ALL_KINDS).remove(5);
    let shown = format!("{secret:?} {:?}", secret.spec());
    assert!(!shown.contains("PRIVATE") && shown.contains("tls.key"), "{shown}");
}

#[test]
fn bombs_are_refused_and_cost_nothing() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", ")));
    }
    assert!(refused(&laughs).contains("too many values"));
    assert!(refused(&"[".repeat(100_000)).contains("a.yaml:1:"));
    assert!(refused(&format!("{{a: {}", "{a: ".repeat(65))).contains("deep"));
    let deep: String = (0..80).map(|depth| format!("{}- \n", " ".repeat(depth))).collect();
    assert!(!refused(&deep).is_empty());
    let mut chain = String::from("a0: &a0 [[[[[[[[[[x]]]]]]]]]]\n");
    for level in 1..12 {
        chain.push_str(&format!("a{level}: &a{level} [[[[[[[[[[*a{}]]]]]]]]]]\n", level - 1));
    }
    assert!(refused(&chain).contains("deep"));
    assert!(refused(&format!("a: {}", "x".repeat(1 << 20))).contains("more than 1048576 bytes"));
    let flat = format!("[{}]", "a,".repeat(500_000));
    assert!(refused(&flat).contains("too many values"));
    assert!(refused("a: &a [*a]").contains("a.yaml:1:"));
    let many = http_route("{}").repeat(3000);
    assert!(read(&many).expect_err("one resource many times").len() <= 200);
}

#[test]
fn yaml_that_is_ambiguous_or_strange_is_refused() {
    for (text, part) in [
        ("a: 1\na: 2", "a.yaml:2:1: a: the key is there twice; it stands in line 1 already"),
        ("a: !custom b", "this tag is not understood"),
        ("? [a]\n: b", "a key must be text"),
        ("a: b: c", "a.yaml:1:"),
        ("\t- a", "a.yaml:1:"),
        ("just text", "must be an object with apiVersion, kind and metadata"),
        ("{}", "kind: is required, as text"),
        ("<<: 1", "only keys with their values can be merged"),
        ("{\"a\":1,\"a\":2}", "the key is there twice"),
    ] {
        let said = refused(text);
        assert!(said.contains(part), "{text:?}: {said}");
    }
    assert!(read("").expect("nothing").is_empty());
    assert!(read("---\n# only this\n---\n").expect("nothing").is_empty());
}

/// Texts that are close to manifests: pieces of them, cut and put together.
fn texts() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> = ALL_KINDS.lines().collect();
    let pieces = prop::collection::vec(
        prop_oneof![
            4 => prop::sample::select(lines).prop_map(str::to_owned),
            1 => ".{0,12}",
            1 => prop::sample::select(vec!["- ", "---", "&a [", "*a", "<<: *a", "{", "]", "? ", "!!str ", "|", ">-", "'", "\"", "%YAML"])
                .prop_map(str::to_owned),
        ],
        0..40,
    );
    prop_oneof![
        2 => pieces.prop_map(|pieces| pieces.join("\n")),
        1 => any::<String>(),
        1 => (0..ALL_KINDS.len(), 0..ALL_KINDS.len(), ".{0,4}").prop_filter_map("within a letter", |(from, to, new)| {
            let (from, to) = (from.min(to), from.max(to));
            let (head, tail) = (ALL_KINDS.get(..from)?, ALL_KINDS.get(to..)?);
            Some(format!("{head}{new}{tail}"))
        }),
    ]
}

/// Canonical manifests with values taken out, doubled, exchanged and replaced: much of it can still be declared.
fn mutated() -> impl Strategy<Value = String> {
    let manifests: Vec<serde_json::Value> = good(ALL_KINDS)
        .iter()
        .map(|manifest| serde_json::from_str(manifest.json()).expect("canonical JSON"))
        .collect();
    let pool = prop::sample::select(vec![
        serde_json::json!(null),
        serde_json::json!(true),
        serde_json::json!(0),
        serde_json::json!(1),
        serde_json::json!(8080),
        serde_json::json!(1.5),
        serde_json::json!(""),
        serde_json::json!("a"),
        serde_json::json!("/"),
        serde_json::json!("1s"),
        serde_json::json!("ä\u{0}\n\u{2028}: - #"),
        serde_json::json!([]),
        serde_json::json!({}),
    ]);
    let change = (any::<prop::sample::Index>(), 0..4, pool);
    (prop::sample::select(manifests), prop::collection::vec(change, 0..4)).prop_map(|(mut root, changes)| {
        for (place, how, new) in changes {
            let mut places = Vec::new();
            pointers(&root, &mut String::new(), &mut places);
            mutate(&mut root, &places[place.index(places.len())], how, new);
        }
        root.to_string()
    })
}

/// Where all values are (RFC 6901).
fn pointers(value: &serde_json::Value, at: &mut String, found: &mut Vec<String>) {
    found.push(at.clone());
    let inner: Vec<(String, &serde_json::Value)> = match value {
        serde_json::Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
        }
        serde_json::Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        _ => Vec::new(),
    };
    for (key, value) in inner {
        let length = at.len();
        at.push('/');
        at.push_str(&key);
        pointers(value, at, found);
        at.truncate(length);
    }
}

fn mutate(root: &mut serde_json::Value, at: &str, how: i32, new: serde_json::Value) {
    let Some(value) = root.pointer_mut(at) else { return };
    match (how, value) {
        (0, value) => *value = new,
        (1, serde_json::Value::Object(fields)) => {
            if let Some(first) = fields.keys().next().cloned() {
                fields.remove(&first);
            }
        }
        (1, serde_json::Value::Array(items)) => drop(items.pop()),
        (2, serde_json::Value::Array(items)) => items.extend_from_within(..),
        (_, serde_json::Value::Array(items)) => items.reverse(),
        (_, value) => *value = new,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in texts()) {
        match parse(&[document(&text)]) {
            Ok(parsed) => for resource in parsed {
                let again = Manifest::from_json(resource.manifest.json());
                prop_assert_eq!(again.as_ref(), Ok(&*resource.manifest));
            },
            Err(findings) => {
                prop_assert!(!findings.is_empty());
                for finding in findings {
                    prop_assert!(!finding.reason.is_empty());
                    let _: v1::ResourceFinding = finding.to_wire();
                    let _ = finding.to_violation();
                }
            }
        }
        let _ = Manifest::from_json(&text);
    }

    #[test]
    fn what_can_be_declared_reads_back_as_it_was(text in mutated()) {
        if let Ok(parsed) = read(&text) {
            for resource in parsed {
                let again = Manifest::from_json(resource.manifest.json());
                prop_assert_eq!(again.as_ref(), Ok(&*resource.manifest));
                prop_assert_eq!(good(resource.manifest.json()), [Manifest::clone(&resource.manifest)]);
            }
        }
        // What was stored is read like what people write.
        let stored = Manifest::from_json(&text).ok();
        let written = read(&text).ok().and_then(|read| read.first().map(|one| Manifest::clone(&one.manifest)));
        prop_assert_eq!(stored, written);
    }
}
