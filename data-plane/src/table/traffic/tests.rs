//! A service is treated as its entry says, from when the entry comes until it leaves.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::select};
use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    name::ServiceKey,
    snapshot::{Change, Snapshot},
    v1::{
        self, BalancerKind, CircuitBreaker, DeclaredEntry, InstanceState, LoadBalancer, RouteBackend,
        RouteRule, RuleRoute, TrafficEntry, declared_entry::Kind,
    },
};

use crate::{
    balance::PolicyName,
    table::{Compiler, EndpointSet, ServiceTable, SharedTable, Source, Table, declared::BackendRef},
};

fn service() -> ServiceKey {
    ServiceKey::new("", "users").expect("a good name")
}

fn instance(version: &str) -> Endpoint {
    let wire = v1::InstanceSpec {
        service: "users".into(),
        address: format!("10.0.0.{}:80", version.len()),
        version: version.into(),
        ..Default::default()
    };
    Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), InstanceState::Up, 1)
}

fn balanced(kind: BalancerKind) -> TrafficEntry {
    let load_balancer = Some(LoadBalancer { kind: kind.into(), ..LoadBalancer::default() });
    TrafficEntry { service: Some(service().to_wire()), load_balancer, ..TrafficEntry::default() }
}

fn declared(entry: TrafficEntry) -> DeclaredEntry {
    DeclaredEntry { id: "traffic/default/users".to_owned(), kind: Some(Kind::Traffic(entry)) }
}

fn backend(versions: &[&str]) -> RouteBackend {
    let versions = versions.iter().map(|version| (*version).to_owned()).collect();
    RouteBackend { service: Some(service().to_wire()), weight: 1, versions, ..RouteBackend::default() }
}

/// A service with two versions, one of which a route selects.
struct Scene {
    snapshot: Snapshot,
    shared: SharedTable,
    compiler: Compiler,
}

impl Scene {
    fn new() -> Self {
        let shared = SharedTable::new();
        let compiler = Compiler::new(shared.clone(), PolicyName::LeastRequest.policy(), Arc::default());
        Self { snapshot: Snapshot::empty("h"), shared, compiler }
    }

    fn change(&mut self, change: Change) {
        self.change_settled(change, true);
    }

    fn change_settled(&mut self, change: Change, settled: bool) {
        let revision = self.snapshot.revision() + 1;
        let (next, touched) = self.snapshot.change(change, revision, settled).expect("it is sound");
        self.snapshot = next;
        self.compiler.serve(&Source { current: &self.snapshot, carried: None }, &touched);
    }

    fn register(&mut self) {
        let rule = RouteRule { backends: vec![backend(&["v1"])], ..RouteRule::default() };
        let route = RuleRoute { rules: vec![rule], ..RuleRoute::default() };
        let id = "httproute/default/some".to_owned();
        self.change(Change {
            services: vec![service()],
            instances: vec![instance("v1"), instance("v22")],
            declared: vec![DeclaredEntry { id, kind: Some(Kind::Route(route)) }],
            ..Change::default()
        });
    }

    fn forget(&mut self) {
        let removed_instances = self.snapshot.instances().map(|endpoint| endpoint.key.clone()).collect();
        let removed_services = vec![service()];
        self.change(Change { removed_instances, removed_services, ..Change::default() });
    }

    fn declare(&mut self, entry: TrafficEntry) {
        self.change(Change { declared: vec![declared(entry)], ..Change::default() });
    }

    fn undeclare(&mut self) {
        let removed_declared = vec!["traffic/default/users".into()];
        self.change(Change { removed_declared, ..Change::default() });
    }

    fn table(&self) -> Arc<Table> {
        self.shared.load().expect("a table")
    }

    fn service(&self) -> Arc<ServiceTable> {
        Arc::clone(self.table().service(&service()).expect("it is registered"))
    }

    /// The policies of all sets and of the subset's.
    fn policies(&self) -> [&'static str; 2] {
        let table = self.table();
        let subset = BackendRef::of(&backend(&["v1"])).expect("a good reference");
        let subset = table.backend(&subset).expect("a route selects it").endpoints;
        assert_eq!(subset.members().len(), 1);
        [self.service().endpoints().balancer().name(), subset.balancer().name()]
    }
}

#[test]
fn an_entry_decides_for_all_sets_and_leaves_with_no_trace() {
    let mut scene = Scene::new();
    scene.register();
    assert_eq!(scene.policies(), ["least-request"; 2]);
    assert!(scene.service().traffic().is_none());
    scene.declare(balanced(BalancerKind::Random));
    assert_eq!(scene.policies(), ["random"; 2]);
    scene.declare(balanced(BalancerKind::RoundRobin));
    assert_eq!(scene.policies(), ["round-robin"; 2]);
    scene.undeclare();
    assert_eq!(scene.policies(), ["least-request"; 2]);
    assert!(scene.service().traffic().is_none());
}

#[test]
fn an_entry_may_be_there_before_its_service_and_after() {
    let mut scene = Scene::new();
    scene.declare(balanced(BalancerKind::Random));
    scene.register();
    assert_eq!(scene.policies(), ["random"; 2]);
    scene.forget();
    scene.declare(balanced(BalancerKind::RoundRobin));
    scene.register();
    assert_eq!(scene.policies(), ["round-robin"; 2]);
}

#[test]
fn what_is_absent_or_unknown_is_the_proxy_s_own() {
    let mut scene = Scene::new();
    scene.register();
    let unknown = LoadBalancer { kind: 99, ..LoadBalancer::default() };
    for load_balancer in [None, Some(LoadBalancer::default()), Some(unknown)] {
        scene.declare(TrafficEntry { load_balancer, ..TrafficEntry::default() });
        assert_eq!(scene.policies(), ["least-request"; 2]);
        assert!(scene.service().traffic().is_some());
    }
}

#[test]
fn what_does_not_concern_the_balancer_leaves_its_sets_alone() {
    let mut scene = Scene::new();
    scene.register();
    scene.declare(balanced(BalancerKind::RoundRobin));
    let before: Arc<EndpointSet> = Arc::clone(scene.service().endpoints());
    let breaker = CircuitBreaker { max_requests: 7, ..CircuitBreaker::default() };
    scene.declare(TrafficEntry { circuit_breaker: Some(breaker), ..balanced(BalancerKind::RoundRobin) });
    let after = scene.service();
    assert!(Arc::ptr_eq(&before, after.endpoints()));
    assert_eq!(after.traffic().and_then(|traffic| traffic.entry.circuit_breaker), Some(breaker));
}

#[test]
fn only_what_comes_to_a_known_table_is_new() {
    let mut scene = Scene::new();
    let age = |scene: &Scene, id: &str| {
        let service = scene.service();
        service.member(id).expect("it is there").state.new_since()
    };
    let put = |scene: &mut Scene, endpoint: Endpoint, settled: bool| {
        let change = Change { services: vec![service()], instances: vec![endpoint], ..Change::default() };
        scene.change_settled(change, settled);
    };
    let at = |version: &str, epoch: u64, state: InstanceState| Endpoint { epoch, state, ..instance(version) };
    put(&mut scene, at("a", 1, InstanceState::Up), false);
    put(&mut scene, at("bb", 1, InstanceState::Up), false);
    put(&mut scene, at("ccc", 1, InstanceState::Up), true);
    for id in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"] {
        assert_eq!(
            age(&scene, id),
            None,
            "{id} was there when the proxy, or its control plane, came to know"
        );
    }
    put(&mut scene, at("dddd", 1, InstanceState::Down), true);
    assert_eq!(age(&scene, "10.0.0.4:80"), None, "it takes no traffic yet");
    put(&mut scene, at("dddd", 1, InstanceState::Up), true);
    let since = age(&scene, "10.0.0.4:80");
    assert!(since.is_some());
    put(&mut scene, at("dddd", 2, InstanceState::Up), false);
    assert_eq!(age(&scene, "10.0.0.4:80"), since, "a new lease is no new instance");
    put(&mut scene, at("a", 2, InstanceState::Up), true);
    assert_eq!(age(&scene, "10.0.0.1:80"), None, "nor is one that was there for long");
}

#[derive(Clone, Debug)]
enum Step {
    Register,
    Forget,
    Declare(BalancerKind),
    Undeclare,
}

proptest! {
    #[test]
    fn step_by_step_leads_to_the_same_policies_as_afresh(
        steps in vec(prop_oneof![
            Just(Step::Register), Just(Step::Forget), Just(Step::Undeclare),
            select(vec![BalancerKind::Random, BalancerKind::RoundRobin, BalancerKind::Unspecified])
                .prop_map(Step::Declare),
        ], 1..12),
    ) {
        let mut scene = Scene::new();
        for step in steps {
            match step {
                Step::Register => scene.register(),
                Step::Forget => scene.forget(),
                Step::Declare(kind) => scene.declare(balanced(kind)),
                Step::Undeclare => scene.undeclare(),
            }
            let afresh = Table::of(&scene.snapshot, &PolicyName::LeastRequest.policy());
            let told = |table: &Table| table.service(&service()).map(|service| {
                let entry = service.traffic().map(|traffic| traffic.entry.clone());
                (service.endpoints().balancer().name(), entry)
            });
            prop_assert_eq!(told(&scene.table()), told(&afresh));
        }
    }
}
