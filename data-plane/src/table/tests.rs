//! What a table promises: it finds what a naive matcher finds, and a table that was updated step by step is
//! the one that would be compiled afresh.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use proptest::{collection::vec, prelude::*, sample::select};
use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    name::{InstanceKey, ServiceKey},
    route::{Route, RouteMatch, Segment},
    snapshot::{Change, Snapshot, Touched},
    v1::{self, InstanceState},
};

use super::{declared::Subset, *};
use crate::balance::PolicyName;

fn service(number: u8) -> ServiceKey {
    ServiceKey::new("", &format!("s{number}")).expect("a good name")
}

fn endpoint(number: u8, id: u8, epoch: u64, version: u8, state: InstanceState) -> Endpoint {
    let wire = v1::InstanceSpec {
        service: format!("s{number}"),
        id: format!("i{id}"),
        address: format!("10.0.0.{id}:80"),
        version: format!("v{version}"),
        ..Default::default()
    };
    Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), state, epoch)
}

fn prefix(number: u8, path: &str, strip: bool) -> Route {
    let path = path.parse().expect("a good prefix");
    Route::new(service(number), RouteMatch::Prefix { path, strip }, Vec::new())
}

fn template(number: u8, text: &str) -> Route {
    Route::new(service(number), RouteMatch::Template(text.parse().expect("a good template")), Vec::new())
}

fn table_of(routes: Vec<Route>) -> Arc<Table> {
    let services = routes.iter().map(|route| route.service.clone()).collect();
    let change = Change { services, routes, ..Change::default() };
    let (snapshot, _) = Snapshot::empty("h").change(change, 1, true).expect("it is sound");
    Table::of(&snapshot, &PolicyName::default().policy())
}

fn find<'a>(table: &'a Table, method: &Method, path: &str) -> Found<'a> {
    table.find(&RequestView::plain(method, path, &http::HeaderMap::new()))
}

/// What is found, as text: the route and the path that is forwarded, `405` with the methods, `404`, or `400` for a
/// path that is refused.
fn found(table: &Table, method: &str, path: &str) -> String {
    let Ok(path) = path::normalised(path) else { return "400".to_owned() };
    let path = &*path;
    match find(table, &method.parse().expect("a method"), path) {
        Found::Route(target) => {
            let cut = &path[target.strip..];
            let slash = if cut.starts_with('/') { "" } else { "/" };
            format!("{} {slash}{cut}", target.route_id)
        }
        Found::MethodNotAllowed { allow } => format!("405 {}", allow.join(", ")),
        Found::None => "404".to_owned(),
        Found::Rule { rule, .. } => panic!("nothing was declared: {rule:?}"),
    }
}

/// The examples of `TABLE.md`, which says the same in words.
#[test]
fn the_documented_examples_hold() {
    let page = include_str!("../../TABLE.md");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let section = |title: &str| {
        let after = page.split_once(title).expect(title).1;
        let rows: Vec<Vec<String>> = after
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(cells)
            .collect();
        assert!(!rows.is_empty(), "no rows after {title}");
        rows
    };
    let routes = section("<!-- routes -->").into_iter().map(|row| {
        if row[0].contains(' ') {
            template(0, &row[0])
        } else {
            prefix(0, &row[0], row[1].contains("stripped"))
        }
    });
    let table = table_of(routes.collect());
    for row in section("<!-- requests -->") {
        let (method, path) = row[0].split_once(' ').expect("a method and a path");
        assert_eq!(found(&table, method, path), row[1], "{}", row[0]);
    }
}

#[test]
fn a_route_of_versions_sees_their_endpoints_alone() {
    let versioned = |versions: &[&str], path: &str| Route {
        versions: versions.iter().map(|version| Arc::from(*version)).collect(),
        ..prefix(1, path, true)
    };
    let change = Change {
        services: vec![service(1)],
        instances: (1..=6).map(|id| endpoint(1, id, 1, id % 3, InstanceState::Up)).collect(),
        routes: vec![versioned(&["v1"], "/one"), versioned(&["v1", "v2"], "/both"), prefix(1, "/all", true)],
        ..Change::default()
    };
    let (snapshot, _) = Snapshot::empty("h").change(change, 1, true).expect("it is sound");
    let table = Table::of(&snapshot, &PolicyName::default().policy());
    for (path, expected) in [("/one", 2), ("/both/x", 4), ("/all", 6)] {
        let Found::Route(target) = find(&table, &Method::GET, path) else { panic!("{path} has a route") };
        assert_eq!(target.endpoints.members().len(), expected, "{path}");
    }
}

const METHODS: [&str; 4] = ["GET", "HEAD", "POST", "DELETE"];

fn route() -> impl Strategy<Value = Route> {
    let segment = || select(vec!["a", "b", "{x}"]);
    let path = |segments: Vec<&str>| format!("/{}", segments.join("/"));
    let prefixes = (vec(select(vec!["a", "b"]), 0..4), any::<bool>())
        .prop_map(move |(segments, strip)| prefix(0, &path(segments), strip));
    let templates =
        (select(vec!["GET", "HEAD", "POST", "*"]), vec(segment(), 0..4), select(vec!["", "/", "/{r:path}"]))
            .prop_map(move |(method, segments, end)| {
                let text = format!("{method} {}{end}", path(segments)).replace("//", "/");
                template(0, &text)
            });
    prop_oneof![prefixes, templates]
}

fn path() -> impl Strategy<Value = String> {
    let segment = select(vec!["a", "b", "c", ""]);
    (vec(segment, 0..5), any::<bool>())
        .prop_map(|(segments, slash)| format!("/{}{}", segments.join("/"), if slash { "/" } else { "" }))
}

/// Whether a template matches a path, and how closely: one number for each segment, and one for the end.
fn closeness(route: &Route, path: &str) -> Option<Vec<u8>> {
    let inner = path.strip_prefix('/')?;
    let given: Vec<&str> = if inner.is_empty() { Vec::new() } else { inner.split('/').collect() };
    let (wanted, end): (Vec<Segment>, _) = match &route.matches {
        RouteMatch::Prefix { path, .. } => {
            (path.segments().map(|text| Segment::Literal(text.into())).collect(), Some(0))
        }
        RouteMatch::Template(template) => match template.segments().split_last() {
            Some((Segment::Rest, before)) => (before.to_vec(), Some(1)),
            _ => (template.segments().to_vec(), None),
        },
    };
    let fits = |(wanted, given): (&Segment, &&str)| match wanted {
        Segment::Literal(text) => **text == **given,
        _ => !given.is_empty(),
    };
    let slash = matches!(&route.matches, RouteMatch::Template(template) if template.trailing_slash());
    let length = match end {
        Some(_) => given.len() >= wanted.len(),
        None if slash => given.len() == wanted.len() + 1 && given.last() == Some(&""),
        None => given.len() == wanted.len(),
    };
    let close = |segment: &Segment| if matches!(segment, Segment::Literal(_)) { 4 } else { 3 };
    (length && wanted.iter().zip(&given).all(fits))
        .then(|| wanted.iter().map(close).chain([end.unwrap_or(2)]).collect())
}

fn method_of(route: &Route) -> Option<&str> {
    match &route.matches {
        RouteMatch::Prefix { .. } => None,
        RouteMatch::Template(template) => template.method(),
    }
}

/// Looks at all routes.
fn naive(routes: &BTreeMap<Arc<str>, Route>, method: &str, path: &str) -> String {
    let matching: Vec<(Vec<u8>, &Route)> =
        routes.values().filter_map(|route| Some((closeness(route, path)?, route))).collect();
    let by_method = |route: &Route| match method_of(route) {
        Some(wanted) if wanted == method => Some(2),
        Some("GET") if method == "HEAD" => Some(1),
        Some(_) => None,
        None => Some(0),
    };
    let best = matching
        .iter()
        .filter_map(|(close, route)| Some((close, by_method(route)?, route)))
        .max_by_key(|(close, method, _)| (*close, *method));
    if let Some((_, _, route)) = best {
        let strip = matches!(&route.matches, RouteMatch::Prefix { strip: true, .. });
        let cut = match &route.matches {
            RouteMatch::Prefix { path: prefix, .. } if strip => {
                path.strip_prefix(prefix.as_str().trim_end_matches('/')).expect("it matches")
            }
            _ => path,
        };
        return format!("{} {}{cut}", route.id, if cut.starts_with('/') { "" } else { "/" });
    }
    let mut allow: Vec<&str> = matching.iter().filter_map(|(_, route)| method_of(route)).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.sort_unstable();
    allow.dedup();
    if allow.is_empty() { "404".to_owned() } else { format!("405 {}", allow.join(", ")) }
}

#[derive(Clone, Debug)]
enum Step {
    PutRoute(Route, u8),
    RemoveRoute(usize),
    Put { service: u8, id: u8, epoch: u64, version: u8, state: InstanceState },
    Remove { service: u8, id: u8 },
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    use InstanceState::{Down, Draining, Suspect, Up};
    let state = select(vec![Up, Up, Down, Draining, Suspect]);
    prop_oneof![
        3 => (route(), 0..4_u8).prop_map(|(route, service)| Step::PutRoute(route, service)),
        2 => any::<usize>().prop_map(Step::RemoveRoute),
        4 => (0..4_u8, 0..5_u8, 1..3_u64, 0..3_u8, state)
            .prop_map(|(service, id, epoch, version, state)| Step::Put { service, id, epoch, version, state }),
        2 => (0..4_u8, 0..5_u8).prop_map(|(service, id)| Step::Remove { service, id }),
        1 => (0..4_u8).prop_map(Step::Forget),
    ]
}

fn change_of(snapshot: &Snapshot, step: &Step) -> Change {
    match step {
        Step::PutRoute(route, number) => {
            let versions = if number % 2 == 1 { vec!["v1".into()] } else { Vec::new() };
            let route = Route { service: service(*number), versions, ..route.clone() };
            Change { services: vec![service(*number)], routes: vec![route], ..Change::default() }
        }
        Step::RemoveRoute(at) => {
            let mut ids: Vec<Arc<str>> = snapshot.routes().map(|route| route.id.clone()).collect();
            ids.sort();
            let removed_routes = ids.get(at % ids.len().max(1)).cloned().into_iter().collect();
            Change { removed_routes, ..Change::default() }
        }
        Step::Put { service: number, id, epoch, version, state } => Change {
            services: vec![service(*number)],
            instances: vec![endpoint(*number, *id, *epoch, *version, *state)],
            ..Change::default()
        },
        Step::Remove { service, id } => {
            let key = endpoint(*service, *id, 0, 0, InstanceState::Up).key;
            Change { removed_instances: vec![key], ..Change::default() }
        }
        Step::Forget(number) => {
            let of = |key: &ServiceKey| *key == service(*number);
            Change {
                removed_services: vec![service(*number)],
                removed_instances: snapshot
                    .instances()
                    .map(|endpoint| endpoint.key.clone())
                    .filter(|key| of(key.service()))
                    .collect(),
                removed_routes: snapshot
                    .routes()
                    .filter(|route| of(&route.service))
                    .map(|route| route.id.clone())
                    .collect(),
                ..Change::default()
            }
        }
    }
}

/// All that a table says, in an order that does not depend on how it came about.
fn contents(table: &Table) -> BTreeMap<String, Vec<String>> {
    let traffic = |set: &EndpointSet| {
        set.members().iter().map(|state| format!("{} {}", state.key(), state.epoch())).collect::<Vec<_>>()
    };
    let services = table.services().map(|service| {
        let members = service.members().iter().map(|member| format!("{:?}", member.endpoint));
        let one = Subset { versions: ["v1".into()].into(), ..Subset::default() };
        let versions = service.endpoints_of(&one).map(|set| format!("v1 {:?}", traffic(set)));
        (service.key().to_string(), members.chain(traffic(service.endpoints())).chain(versions).collect())
    });
    let routes = table.routes().map(|route| (route.id.to_string(), vec![format!("{route:?}")]));
    services.chain(routes).collect()
}

proptest! {
    #[test]
    fn it_finds_what_a_naive_matcher_finds(
        routes in vec(route(), 0..24), paths in vec(path(), 1..24), method in select(METHODS.to_vec()),
    ) {
        let by_id: BTreeMap<Arc<str>, Route> = routes.into_iter().map(|route| (route.id.clone(), route)).collect();
        let table = table_of(by_id.values().cloned().collect());
        for path in paths {
            prop_assert_eq!(found(&table, method, &path), naive(&by_id, method, &path), "{} {}", method, path);
        }
    }

    #[test]
    fn step_by_step_leads_to_the_same_table_as_afresh(steps in vec(step(), 1..40), paths in vec(path(), 1..8)) {
        let policy = PolicyName::default().policy();
        let shared = SharedTable::new();
        let mut compiler = Compiler::new(shared.clone(), policy.clone(), Arc::default());
        let mut snapshot = Snapshot::empty("h");
        for (revision, step) in (1..).zip(&steps) {
            // Steps that would leave a reference dangling are none.
            let Ok((next, touched)) = snapshot.change(change_of(&snapshot, step), revision, true) else { continue };
            snapshot = next;
            compiler.serve(&Source { current: &snapshot, carried: None }, &touched);
            let table = shared.load().expect("a table");
            prop_assert_eq!(contents(&table), contents(&Table::of(&snapshot, &policy)));
            let routes = snapshot.routes().map(|route| (route.id.clone(), Route::clone(route))).collect();
            for path in &paths {
                prop_assert_eq!(found(&table, "GET", path), naive(&routes, "GET", path), "{}", path);
            }
            for service in table.services() {
                for Member { endpoint, state } in service.members() {
                    prop_assert_eq!(state.is_draining(), endpoint.state == InstanceState::Draining);
                    prop_assert_eq!(state.epoch(), endpoint.epoch);
                }
            }
        }
    }
}

/// One service with one instance, taken through states.
struct Scene {
    snapshot: Snapshot,
    shared: SharedTable,
    compiler: Compiler,
}

impl Scene {
    fn new() -> Self {
        let shared = SharedTable::new();
        let compiler = Compiler::new(shared.clone(), PolicyName::default().policy(), Arc::default());
        Self { snapshot: Snapshot::empty("h"), shared, compiler }
    }

    fn put(&mut self, epoch: u64, state: InstanceState) {
        let change = Change {
            services: vec![service(1)],
            instances: vec![endpoint(1, 1, epoch, 1, state)],
            ..Change::default()
        };
        self.change(change);
    }

    fn change(&mut self, change: Change) {
        let (next, touched): (Snapshot, Touched) =
            self.snapshot.change(change, 1, true).expect("it is sound");
        self.snapshot = next;
        self.compiler.serve(&Source { current: &self.snapshot, carried: None }, &touched);
    }

    fn key(&self) -> InstanceKey {
        endpoint(1, 1, 0, 1, InstanceState::Up).key
    }

    fn begin(&self) -> Option<InFlight> {
        let table = self.shared.load().expect("a table");
        table
            .service(&service(1))
            .expect("the service")
            .endpoints()
            .pick(&[], &mut fastrand::Rng::with_seed(1))
    }

    fn told(&mut self) -> Vec<(u64, u64)> {
        self.compiler.in_flight().iter().map(|entry| (entry.epoch, entry.count)).collect()
    }
}

#[test]
fn what_is_in_flight_is_known_through_swaps_and_returns() {
    let mut scene = Scene::new();
    scene.put(1, InstanceState::Up);
    let (first, second) = (scene.begin().expect("it is up"), scene.begin().expect("it is up"));
    scene.put(1, InstanceState::Draining);
    assert_eq!(scene.told(), [(1, 2)]);
    assert!(scene.begin().is_none(), "it drains");
    scene.put(1, InstanceState::Up);
    assert!(scene.told().is_empty(), "it does not drain any more");
    let third = scene.begin().expect("it is up again");
    scene.put(1, InstanceState::Draining);
    assert_eq!(scene.told(), [(1, 3)]);
    let removed_instances = vec![scene.key()];
    scene.change(Change { removed_instances, ..Change::default() });
    assert_eq!(scene.told(), [(1, 3)], "it is gone and its requests are not");
    scene.put(1, InstanceState::Draining);
    drop((first, second));
    assert_eq!(scene.told(), [(1, 1)], "the same epoch is the same process");
    scene.put(2, InstanceState::Up);
    assert_eq!(scene.told(), [(1, 1)], "another epoch is another process");
    drop(third);
    assert!(scene.told().is_empty());
}

#[test]
fn an_update_shares_what_did_not_change() {
    let mut scene = Scene::new();
    let services: Vec<ServiceKey> = (0..100).map(service).collect();
    let instances = (0..100).map(|number| endpoint(number, 1, 1, 1, InstanceState::Up)).collect();
    let routes = (0..100).map(|number| prefix(number, &format!("/s{number}"), true)).collect();
    scene.change(Change { services: services.clone(), instances, routes, ..Change::default() });
    let before = scene.shared.load().expect("a table");
    scene.put(2, InstanceState::Up);
    let after = scene.shared.load().expect("a table");
    for key in &services {
        let [old, new] = [&before, &after].map(|table| table.service(key).expect("it is there"));
        assert_eq!(Arc::ptr_eq(old, new), *key != service(1), "{key}");
    }
    let Found::Route(old) = find(&before, &Method::GET, "/s7") else { panic!("it has a route") };
    let Found::Route(new) = find(&after, &Method::GET, "/s7") else { panic!("it has a route") };
    assert!(Arc::ptr_eq(old.route_id, new.route_id) && Arc::ptr_eq(old.endpoints, new.endpoints));
}

#[test]
fn a_request_that_holds_an_old_table_cannot_begin_at_what_drains() {
    let mut scene = Scene::new();
    scene.put(1, InstanceState::Up);
    let old = scene.shared.load().expect("a table");
    scene.put(1, InstanceState::Draining);
    let set = old.service(&service(1)).expect("the service").endpoints();
    assert_eq!(set.members().len(), 1);
    assert!(set.pick(&[], &mut fastrand::Rng::with_seed(1)).is_none());
    let removed_instances = vec![scene.key()];
    scene.change(Change { removed_instances, ..Change::default() });
    assert!(set.pick(&[], &mut fastrand::Rng::with_seed(1)).is_none(), "removal does not open it again");
}

#[test]
fn a_new_lease_of_the_same_process_drains_what_began_under_the_old_one() {
    for removed_between in [false, true] {
        let mut scene = Scene::new();
        scene.put(1, InstanceState::Up);
        let old = scene.shared.load().expect("a table");
        let begun = scene.begin().expect("it is up");
        if removed_between {
            let removed_instances = vec![scene.key()];
            scene.change(Change { removed_instances, ..Change::default() });
        }
        scene.put(2, InstanceState::Up);
        let set = old.service(&service(1)).expect("the service").endpoints();
        assert!(
            set.pick(&[], &mut fastrand::Rng::with_seed(1)).is_none(),
            "the old table leads to the new one"
        );
        let anew = scene.begin().expect("the new lease is up");
        scene.put(2, InstanceState::Draining);
        assert_eq!(scene.told(), [(2, 2)], "both are in flight to the process that drains");
        drop(anew);
        assert_eq!(scene.told(), [(2, 1)]);
        drop(begun);
        assert!(scene.told().is_empty());
    }
}

#[test]
fn an_update_of_one_service_among_a_hundred_thousand_makes_that_one_anew() {
    const SERVICES: usize = 100_000;
    let key = |number: usize| ServiceKey::new("", &format!("s{number}")).expect("a good name");
    let instance = |number: usize, epoch: u64| {
        let [_, high, middle, low] = u32::try_from(number).expect("few").to_be_bytes();
        let wire = v1::InstanceSpec {
            service: format!("s{number}"),
            id: "i".to_owned(),
            address: format!("10.{high}.{middle}.{low}:80"),
            ..Default::default()
        };
        Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), InstanceState::Up, epoch)
    };
    let route = |number: usize| {
        let path = format!("/s{number}").parse().expect("a good prefix");
        Route::new(key(number), RouteMatch::Prefix { path, strip: true }, Vec::new())
    };
    let all = Change {
        services: (0..SERVICES).map(key).collect(),
        instances: (0..SERVICES).map(|number| instance(number, 1)).collect(),
        routes: (0..SERVICES).map(route).collect(),
        ..Change::default()
    };
    let (snapshot, touched) = Snapshot::empty("h").change(all, 1, true).expect("it is sound");
    let shared = SharedTable::new();
    let mut compiler = Compiler::new(shared.clone(), PolicyName::default().policy(), Arc::default());
    compiler.serve(&Source { current: &snapshot, carried: None }, &touched);
    let before = shared.load().expect("a table");

    let one = Change { instances: vec![instance(7, 2)], ..Change::default() };
    let (snapshot, touched) = snapshot.change(one, 2, true).expect("it is sound");
    compiler.serve(&Source { current: &snapshot, carried: None }, &touched);
    let after = shared.load().expect("a table");
    let anew = before.services().zip(after.services()).filter(|(old, new)| !Arc::ptr_eq(old, new));
    let anew: Vec<_> = anew.map(|(_, new)| new.key().to_string()).collect();
    assert_eq!((before.services().count(), anew), (SERVICES, vec![key(7).to_string()]));
    assert!(before.routes().zip(after.routes()).all(|(old, new)| Arc::ptr_eq(old, new)));
}
