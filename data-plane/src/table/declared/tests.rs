//! What declared routing promises: it finds what a naive matcher finds, after each of many changes; and a change
//! costs no more than what it changes.

use std::{cmp::Reverse, collections::BTreeMap};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    name::ServiceKey,
    snapshot::{Change, Snapshot},
    v1::{
        self, Attachment, InstanceState, RouteBackend, RouteFilter, RouteRule, RuleMatch, RulePath,
        RuleRoute, RuleValue, declared_entry::Kind, route_filter,
    },
};

use super::*;
use crate::{
    balance::PolicyName,
    table::{Compiler, Found, SharedTable, Source, Table},
};

mod model;

pub(in crate::table) fn listener_entry(name: &str, port: u32, hostname: &str) -> DeclaredEntry {
    let (name, hostname) = (name.to_owned(), hostname.to_owned());
    let id = format!("listener/default/gw/{name}");
    let listener = ListenerEntry { port, hostname, name, ..ListenerEntry::default() };
    DeclaredEntry { id, kind: Some(Kind::Listener(listener)) }
}

pub(in crate::table) fn route_entry(name: &str, route: RuleRoute) -> DeclaredEntry {
    let route = RuleRoute { namespace: "default".to_owned(), name: name.to_owned(), ..route };
    DeclaredEntry { id: format!("httproute/default/{name}"), kind: Some(Kind::Route(route)) }
}

pub(in crate::table) fn prefix(path: &str) -> RuleMatch {
    RuleMatch { path_kind: RulePath::Prefix.into(), path: path.to_owned(), ..RuleMatch::default() }
}

/// A route at the proxy's own listener, with one rule.
pub(in crate::table) fn simple(
    name: &str,
    hostname: &str,
    matches: RuleMatch,
    service: &str,
) -> DeclaredEntry {
    let hostnames = if hostname.is_empty() { Vec::new() } else { vec![hostname.to_owned()] };
    let service = Some(v1::ServiceKey { namespace: String::new(), name: service.to_owned() });
    let backend = RouteBackend { service, weight: 1, ..RouteBackend::default() };
    let rule = RouteRule { matches: vec![matches], backends: vec![backend], ..RouteRule::default() };
    let attachments = vec![Attachment { listener: OWN_LISTENER.to_owned(), hostnames }];
    route_entry(name, RuleRoute { attachments, rules: vec![rule], ..RuleRoute::default() })
}

/// A CORS filter for one origin.
pub(super) fn cors_filter() -> RouteFilter {
    let cors = v1::Cors { allow_origins: vec!["https://a.ex".to_owned()], ..v1::Cors::default() };
    RouteFilter { kind: Some(route_filter::Kind::Cors(cors)) }
}

/// The same route with a CORS filter in all of its rules.
pub(super) fn with_cors(mut entry: DeclaredEntry) -> DeclaredEntry {
    if let Some(Kind::Route(route)) = &mut entry.kind {
        route.rules.iter_mut().for_each(|rule| rule.filters.push(cors_filter()));
    }
    entry
}

/// The fields of a preflight for a method.
pub(super) fn preflight_fields(method: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        (ORIGIN, HeaderValue::from_static("https://a.ex")),
        (ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static(method)),
    ])
}

/// A proxy's way from changes to tables.
pub(in crate::table) struct Scene {
    snapshot: Snapshot,
    shared: SharedTable,
    compiler: Compiler,
}

impl Scene {
    pub(in crate::table) fn new() -> Self {
        let shared = SharedTable::new();
        let policy = PolicyName::default().policy();
        let compiler = Compiler::new(shared.clone(), policy, Arc::default());
        Self { snapshot: Snapshot::empty("h"), shared, compiler }
    }

    pub(in crate::table) fn shared(&self) -> SharedTable {
        self.shared.clone()
    }

    pub(in crate::table) fn change(&mut self, change: Change) -> Arc<Table> {
        let revision = self.snapshot.revision() + 1;
        let (next, touched) = self.snapshot.change(change, revision, true).expect("it is sound");
        self.snapshot = next;
        self.compiler.serve(&Source { current: &self.snapshot, carried: None }, &touched);
        self.shared.load().expect("a table")
    }

    pub(in crate::table) fn declare(&mut self, declared: Vec<DeclaredEntry>) -> Arc<Table> {
        self.change(Change { declared, ..Change::default() })
    }
}

pub(in crate::table) fn instance(service: &str, id: &str, version: &str, tags: &[&str]) -> Endpoint {
    let wire = v1::InstanceSpec {
        service: service.to_owned(),
        id: id.to_owned(),
        address: "10.0.0.1:80".to_owned(),
        version: version.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..Default::default()
    };
    Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), InstanceState::Up, 1)
}

pub(in crate::table) fn service(name: &str) -> ServiceKey {
    ServiceKey::new("", name).expect("a good name")
}

/// The route that takes a request for a path at the proxy's own listener.
fn taken_by(table: &Table, host: &str, path: &str) -> Option<String> {
    let headers = HeaderMap::new();
    let request = RequestView { host, ..RequestView::plain(&Method::GET, path, &headers) };
    let (placed, _) = table.declared.search(&request, &mut ())?;
    Some(placed.candidate.route_id.to_string())
}

#[test]
fn only_routes_that_change_are_compiled() {
    let mut scene = Scene::new();
    let route = |number: usize| simple(&format!("r{number}"), "", prefix(&format!("/p{number}")), "s");
    scene.declare((0..100).map(route).collect());
    assert_eq!(scene.compiler.routes_compiled(), 100);

    let up = Change {
        services: vec![service("s")],
        instances: vec![instance("s", "i", "v1", &[])],
        ..Change::default()
    };
    scene.change(up);
    scene.change(Change {
        removed_instances: vec![instance("s", "i", "v1", &[]).key],
        removed_services: vec![service("s")],
        ..Change::default()
    });
    scene.declare(vec![listener_entry("other", 0, "a.example")]);
    scene.compiler.listen_on(8080);
    assert_eq!(scene.compiler.routes_compiled(), 100, "services and listeners touch no route");

    scene.declare(vec![route(7), simple("r8", "", prefix("/new"), "s")]);
    assert_eq!(scene.compiler.routes_compiled(), 101, "and what stays the same is none that changed");
}

#[test]
fn a_backend_is_looked_up_when_it_is_needed() {
    let mut scene = Scene::new();
    let backend = RouteBackend {
        service: Some(service("s").to_wire()),
        versions: vec!["v2".to_owned(), "v1".to_owned()],
        tags: vec!["eu".to_owned(), "us".to_owned()],
        ..RouteBackend::default()
    };
    let all = BackendRef { service: service("s"), subset: Subset::default() };
    let some = BackendRef::of(&backend).expect("a good reference");
    let rule = |backends| RouteRule { matches: vec![prefix("/")], backends, ..RouteRule::default() };
    let route = |name: &str, backends| {
        route_entry(name, RuleRoute { rules: vec![rule(backends)], ..RuleRoute::default() })
    };
    let ids = |table: &Table, backend: &BackendRef| {
        let found = table.backend(backend)?;
        Some(found.endpoints.members().iter().map(|state| state.key().id().to_owned()).collect::<Vec<_>>())
    };
    let table = scene.declare(vec![route("r", vec![backend.clone()]), route("q", vec![backend])]);
    assert_eq!(ids(&table, &some), None, "a service that is not known");

    let instances = vec![
        instance("s", "a", "v1", &["eu"]),
        instance("s", "b", "v1", &[]),
        instance("s", "c", "v3", &["eu"]),
        instance("s", "d", "v2", &["us", "x"]),
    ];
    let table = scene.change(Change { services: vec![service("s")], instances, ..Change::default() });
    assert_eq!(ids(&table, &some), Some(vec!["a".to_owned(), "d".to_owned()]));
    assert_eq!(ids(&table, &all).map(|ids| ids.len()), Some(4));

    let gone = Change { removed_instances: vec![instance("s", "a", "v1", &[]).key], ..Change::default() };
    let table = scene.change(gone);
    assert_eq!(ids(&table, &some), Some(vec!["d".to_owned()]), "it follows the instances");

    let table = scene.declare(vec![route("r", Vec::new())]);
    assert_eq!(ids(&table, &some), Some(vec!["d".to_owned()]), "one route is left that needs it");
    let table = scene.declare(vec![route("q", Vec::new())]);
    assert_eq!(ids(&table, &some), None, "nothing needs it");
    assert_eq!(ids(&table, &all).map(|ids| ids.len()), Some(3));
}

#[test]
fn automatic_routes_come_after_declared_ones_and_at_the_own_listener_alone() {
    let mut scene = Scene::new();
    let claim =
        waypost_proto::route::RouteMatch::Prefix { path: "/s".parse().expect("a prefix"), strip: true };
    let table = scene.change(Change {
        services: vec![service("s")],
        routes: vec![waypost_proto::route::Route::new(service("s"), claim, Vec::new())],
        declared: vec![
            listener_entry("other", 8443, ""),
            listener_entry("same", 8080, "a.example"),
            simple("r", "", prefix("/s/declared"), "s"),
        ],
        ..Change::default()
    });
    let found = |table: &Table, port, host, path| {
        let headers = HeaderMap::new();
        let request = RequestView { port, host, ..RequestView::plain(&Method::GET, path, &headers) };
        match table.find(&request) {
            Found::Rule { matched_prefix_len, .. } => format!("rule {matched_prefix_len}"),
            Found::Route(target) => format!("route {}", target.strip),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(found(&table, 0, "x", "/s/declared/1"), "rule 11");
    assert_eq!(found(&table, 0, "x", "/s/declaredly"), "route 2");
    assert_eq!(found(&table, 8443, "x", "/s/declaredly"), "None");
    assert_eq!(found(&table, 9999, "x", "/s"), "None", "no such listener");
    assert_eq!(found(&table, 8080, "x", "/s"), "None", "not yet known to be the own port");

    scene.compiler.listen_on(8080);
    let table = scene.shared.load().expect("a table");
    assert_eq!(found(&table, 8080, "x", "/s/declared"), "rule 11");
    assert_eq!(found(&table, 0, "a.example", "/s/declared"), "route 2", "another listener's host");
    assert_eq!(found(&table, 0, "A.example:8080", "/s/declared"), "route 2");
}

#[test]
fn a_preflight_goes_to_the_rule_that_will_take_the_request_if_that_can_answer_it() {
    let for_method = |path, method: &str| RuleMatch { method: method.to_owned(), ..prefix(path) };
    let mut scene = Scene::new();
    let table = scene.declare(vec![
        with_cors(simple("all", "", prefix("/"), "s")),
        with_cors(simple("read", "", for_method("/a", "GET"), "s")),
        with_cors(simple("write", "", for_method("/a", "PUT"), "s")),
        simple("plain", "", for_method("/a/plain", "GET"), "s"),
        simple("own", "", for_method("/a/own", "OPTIONS"), "s"),
        simple("any", "", prefix("/a/any"), "s"),
    ]);
    let taken_by = |method: &Method, path, headers: &HeaderMap| {
        let request = RequestView { host: "x", ..RequestView::plain(method, path, headers) };
        let (placed, _) = table.declared.search(&request, &mut ())?;
        Some(placed.candidate.route_id.rsplit('/').next()?.to_owned())
    };
    for (path, announced, taker) in [
        ("/", "GET", "all"),
        ("/a", "GET", "read"),
        ("/a/1", "PUT", "write"),
        ("/a", "DELETE", "all"),
        ("/a", "get", "all"),
        // No rule gets an OPTIONS that it did not ask for, if it cannot answer it.
        ("/a/plain", "GET", "read"),
        // What names or takes OPTIONS keeps it.
        ("/a/own", "GET", "own"),
        ("/a/any", "GET", "any"),
    ] {
        let taken = taken_by(&Method::OPTIONS, path, &preflight_fields(announced));
        assert_eq!(taken.as_deref(), Some(taker), "{announced} {path}");
    }
    for missing in [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD] {
        let mut fields = preflight_fields("GET");
        fields.remove(&missing);
        let taken = taken_by(&Method::OPTIONS, "/a", &fields);
        assert_eq!(taken.as_deref(), Some("all"), "no preflight without {missing}");
    }
    let taken = taken_by(&Method::GET, "/a", &preflight_fields("PUT"));
    assert_eq!(taken.as_deref(), Some("read"), "only OPTIONS is a preflight");
}

#[test]
fn what_cannot_be_compiled_leaves_the_rest_as_it_is() {
    let mut scene = Scene::new();
    scene.declare(vec![simple("a", "", prefix("/a"), "s"), simple("b", "", prefix("/b"), "s")]);
    for (kind, path) in [(RulePath::Regex, "("), (RulePath::GrpcMethod, "a/b"), (RulePath::GrpcMethod, "")] {
        let wrong = RuleMatch { path_kind: kind.into(), path: path.to_owned(), ..RuleMatch::default() };
        let wrong = simple("a", "", wrong, "s");
        let error = check(&wrong).expect_err("it is malformed");
        assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
        let table = scene.declare(vec![wrong]);
        assert_eq!(taken_by(&table, "", "/a"), None);
        assert_eq!(taken_by(&table, "", "/b").as_deref(), Some("httproute/default/b"));
    }
}
