//! From declared resources to what proxies hold, and to what people are told of it. `GATEWAY.md` is the page to this.
//!
//! ```text
//!   Gateway, Secret, ConfigMap ──▶ listeners, certificates, authorities ──┐
//!   HTTPRoute, GRPCRoute, ReferenceGrant ──▶ routes with attachments ─────┼─▶ DeclaredEntry ──▶ snapshot
//!   BackendTLSPolicy, ConfigMap ──▶ how to speak TLS to a service ────────┤
//!   BackendTrafficPolicy ──▶ how to share a service's requests ───────────┘
//!   ExternalService ──▶ a service and its instances ────────────────────────▶ snapshot
//! ```
//!
//! It is a plain function of the resources: replicas that hold the same come to the same, byte for byte, whatever the
//! order in which it came about. Each resource notes what it has looked at, so that a change compiles again only what
//! has looked at what changed. Services are named, not looked up: an instance that comes or goes compiles nothing.
//!
//! Deliberately absent: I/O, a clock, and what makes a document good or bad (`waypost_proto::resource`).

mod attach;
mod backend;
mod condition;
mod external;
mod filter;
mod listener;
mod needs;
mod outcome;
mod policy;
mod route;
mod rule;
mod set;
pub mod status;
mod tls;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use imbl::OrdMap;
use waypost_proto::{
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    resource::{Kind, ResourceKey, Spec},
    v1::{DeclaredEntry, RuleRoute, declared_entry},
};

pub use self::{condition::CONTROLLER, set::Declared};
use self::{
    needs::{Looking, Need},
    outcome::{Body, Outcome},
    set::Set,
};

/// What one step changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Entries that are new or changed.
    pub declared: Vec<Arc<DeclaredEntry>>,
    /// Entries that are gone, by id.
    pub removed: Vec<Arc<str>>,
    /// External services that came, left or changed, with the instances that they had.
    pub externals: Vec<(ServiceKey, Arc<[Endpoint]>)>,
}

/// What all resources come to. A clone is cheap and shares everything.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub(crate) entries: OrdMap<Arc<str>, Arc<DeclaredEntry>>,
    pub(crate) outcomes: OrdMap<ResourceKey, Arc<Outcome>>,
    pub(crate) externals: OrdMap<ServiceKey, Arc<[Endpoint]>>,
    compiled: u64,
}

impl Shown {
    /// How many resources were compiled so far, the same one counted again each time.
    pub fn compiled(&self) -> u64 {
        self.compiled
    }

    /// The entry of an id.
    pub fn entry(&self, id: &str) -> Option<&Arc<DeclaredEntry>> {
        self.entries.get(id)
    }

    /// The routes of a namespace, or of all where none is named; sorted by namespace and name.
    pub fn routes(&self, namespace: &str) -> impl Iterator<Item = &RuleRoute> {
        let mut routes: Vec<&RuleRoute> = self.entries.values().filter_map(|entry| route_of(entry)).collect();
        routes.retain(|route| namespace.is_empty() || route.namespace == namespace);
        routes.sort_by_key(|route| (&route.namespace, &route.name, route.grpc));
        routes.into_iter()
    }

    /// The instances of an external service; `None` if there is none of this name.
    pub fn external(&self, service: &ServiceKey) -> Option<&Arc<[Endpoint]>> {
        self.externals.get(service)
    }

    /// An instance of an external service.
    pub(crate) fn external_instance(&self, key: &InstanceKey) -> Option<&Endpoint> {
        self.externals.get(key.service())?.iter().find(|endpoint| endpoint.key == *key)
    }
}

/// What a resource came to.
#[derive(Debug)]
struct Unit {
    entries: Vec<Arc<DeclaredEntry>>,
    external: Option<(ServiceKey, Arc<[Endpoint]>)>,
    needs: BTreeSet<Need>,
}

/// What one resource compiles to. Entries of the same id are the same, whoever makes them.
#[derive(Debug)]
struct Made {
    entries: Vec<DeclaredEntry>,
    external: Option<(ServiceKey, Arc<[Endpoint]>)>,
    /// `None` where the Gateway API gives this kind no status.
    body: Option<Body>,
}

/// Keeps up with the resources.
#[derive(Debug, Default)]
pub struct Compiler {
    set: Set,
    units: HashMap<ResourceKey, Unit>,
    /// Who has looked at what.
    dependents: HashMap<Need, BTreeSet<ResourceKey>>,
    /// Who makes an entry: a certificate may be that of several Gateways.
    makers: HashMap<Arc<str>, BTreeMap<ResourceKey, Arc<DeclaredEntry>>>,
    shown: Shown,
}

impl Compiler {
    /// What all resources come to.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Resources are new, changed, or gone (`None`), by a commit of this revision.
    pub fn apply(&mut self, changes: Vec<(ResourceKey, Option<Arc<Declared>>)>, revision: u64) -> Step {
        let mut touched = BTreeSet::new();
        let mut due = BTreeSet::new();
        for (key, after) in changes {
            touched.extend(self.set.replace(&key, after));
            due.insert(key);
        }
        self.add_dependents(&touched, &mut due);
        let (mut routes, first): (BTreeSet<_>, BTreeSet<_>) =
            due.into_iter().partition(|key| matches!(key.kind(), Kind::HttpRoute | Kind::GrpcRoute));
        let mut work = Work::new(revision);
        let mut moved = BTreeSet::new();
        for key in first {
            if self.compile(&key, &mut work) {
                moved.insert(Need::Outcome(key));
            }
        }
        self.add_dependents(&moved, &mut routes);
        for key in &routes {
            self.compile(key, &mut work);
        }
        self.finish(work)
    }

    fn add_dependents(&self, touched: &BTreeSet<Need>, due: &mut BTreeSet<ResourceKey>) {
        due.extend(touched.iter().filter_map(|need| self.dependents.get(need)).flatten().cloned());
    }

    /// Compiles one resource again; whether what others look at of it has changed.
    fn compile(&mut self, key: &ResourceKey, work: &mut Work) -> bool {
        let (made, needs) = {
            let mut looking = Looking::new(&self.set, &self.shown.outcomes);
            let made = looking.itself(key).map(|declared| made(&mut looking, declared));
            (made, looking.into_needs())
        };
        let before = self.forget(key, work);
        let Some(made) = made else { return self.shown.outcomes.remove(key).is_some() };
        self.shown.compiled += 1;
        let entries: Vec<Arc<DeclaredEntry>> = made.entries.into_iter().map(Arc::new).collect();
        for entry in &entries {
            let id: Arc<str> = Arc::from(entry.id.as_str());
            self.makers.entry(id.clone()).or_default().insert(key.clone(), entry.clone());
            work.entries.insert(id);
        }
        for need in &needs {
            self.dependents.entry(need.clone()).or_default().insert(key.clone());
        }
        work.externals.extend(made.external.iter().map(|(service, _)| service.clone()));
        let unit = Unit { entries, external: made.external, needs };
        let same =
            before.is_some_and(|before| before.entries == unit.entries && before.external == unit.external);
        self.units.insert(key.clone(), unit);
        made.body.is_some_and(|body| self.keep(key, body, same, work.revision))
    }

    /// Takes a resource out of all indexes.
    fn forget(&mut self, key: &ResourceKey, work: &mut Work) -> Option<Unit> {
        let unit = self.units.remove(key)?;
        for need in &unit.needs {
            if let Some(dependents) = self.dependents.get_mut(need) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.dependents.remove(need);
                }
            }
        }
        for entry in &unit.entries {
            if let Some(makers) = self.makers.get_mut(entry.id.as_str()) {
                makers.remove(key);
            }
            work.entries.insert(Arc::from(entry.id.as_str()));
        }
        work.externals.extend(unit.external.iter().map(|(service, _)| service.clone()));
        Some(unit)
    }

    /// Keeps what became of a resource; whether that is something else than before. `same`: proxies get what they had.
    fn keep(&mut self, key: &ResourceKey, body: Body, same: bool, revision: u64) -> bool {
        let Some(declared) = self.set.get(key) else { return false };
        let before = self.shown.outcomes.get(key);
        let observed = declared.observed();
        let moved = before.is_none_or(|before| before.body != body);
        let revision = before.filter(|_| same && !moved).map_or(revision, |before| before.revision);
        self.shown.outcomes.insert(key.clone(), Arc::new(Outcome { observed, revision, body }));
        moved
    }

    /// Takes over what was worked out, and says what is different from before.
    fn finish(&mut self, work: Work) -> Step {
        let mut step = Step::default();
        for id in work.entries {
            let makers = self.makers.get(&id);
            let now = makers.and_then(|makers| makers.values().next()).cloned();
            match now {
                Some(entry) if self.shown.entries.get(&id) == Some(&entry) => {}
                Some(entry) => {
                    self.shown.entries.insert(id, entry.clone());
                    step.declared.push(entry);
                }
                None => {
                    self.makers.remove(&id);
                    if self.shown.entries.remove(&id).is_some() {
                        step.removed.push(id);
                    }
                }
            }
        }
        for service in work.externals {
            let key = external::key_of(&service);
            let now = key.and_then(|key| self.units.get(&key)).and_then(|unit| unit.external.clone());
            let before = match now {
                Some((_, now)) if self.shown.externals.get(&service) == Some(&now) => continue,
                Some((_, now)) => self.shown.externals.insert(service.clone(), now),
                None => self.shown.externals.remove(&service),
            };
            step.externals.push((service, before.unwrap_or_default()));
        }
        step
    }
}

fn route_of(entry: &DeclaredEntry) -> Option<&RuleRoute> {
    match entry.kind.as_ref()? {
        declared_entry::Kind::Route(route) => Some(route),
        _ => None,
    }
}

/// Compiles one resource.
fn made(looking: &mut Looking<'_>, declared: &Declared) -> Made {
    match declared.manifest.spec() {
        Spec::Gateway(spec) => listener::made(looking, declared, spec),
        Spec::HttpRoute(spec) => route::http(looking, declared, spec),
        Spec::GrpcRoute(spec) => route::grpc(looking, declared, spec),
        Spec::BackendTlsPolicy(spec) => tls::policy(looking, declared, spec),
        Spec::BackendTrafficPolicy(spec) => traffic::policy(looking, declared, spec),
        Spec::ExternalService(spec) => external::made(declared, spec),
        // These work by being referred to.
        Spec::ReferenceGrant(_) | Spec::Secret(_) | Spec::ConfigMap(_) => {
            Made { entries: Vec::new(), external: None, body: None }
        }
    }
}

/// What a step has to look at in the end.
struct Work {
    revision: u64,
    entries: BTreeSet<Arc<str>>,
    externals: BTreeSet<ServiceKey>,
}

impl Work {
    fn new(revision: u64) -> Self {
        Self { revision, entries: BTreeSet::new(), externals: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests;
