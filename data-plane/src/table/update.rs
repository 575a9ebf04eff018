//! From a snapshot to the next table: only what was touched is compiled again.
//!
//! The flags of the drain barrier are set here too, in the one order that loses no request: the flag of an
//! endpoint that takes traffic again is cleared before the table that lists it is served by, and the flag of
//! one that drains is set after the table that no longer lists it is.
//!
//! Deliberately absent: what a message means (see [`crate::subscription`]).

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use imbl::{HashMap, HashSet, Vector};
use tokio::sync::Notify;
use waypost_proto::{
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    route::Route,
    snapshot::{Snapshot, Touched},
    v1::{DeclaredEntry, InFlight, InstanceState, Position},
};

use super::{
    EndpointState, Member, ServiceTable, SharedTable, Table,
    declared::{Declared, Subset, Updated},
    edge::EdgeCompiler,
    endpoints::now,
    routes::Routes,
    traffic,
};
use crate::balance::{Own, Policy};

/// What a table is compiled from: what the control plane says, and, while it may not know all yet, what was
/// known before.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What the control plane says.
    pub current: &'a Snapshot,
    /// What is kept until the control plane is settled; the current word on the same entry wins.
    pub carried: Option<&'a Snapshot>,
}

impl<'a> Source<'a> {
    /// An instance.
    pub fn instance(&self, key: &InstanceKey) -> Option<&'a Arc<Endpoint>> {
        self.current.instance(key).or_else(|| self.carried?.instance(key))
    }

    /// A route, by its id.
    pub fn route(&self, id: &str) -> Option<&'a Arc<Route>> {
        self.current.route(id).or_else(|| self.carried?.route(id))
    }

    /// An entry of declared routing, by its id.
    pub fn declared(&self, id: &str) -> Option<&'a Arc<DeclaredEntry>> {
        self.current.declared_entry(id).or_else(|| self.carried?.declared_entry(id))
    }

    /// Whether an instance is there only because it was known before.
    fn carries(&self, key: &InstanceKey) -> bool {
        self.current.instance(key).is_none()
            && self.carried.is_some_and(|carried| carried.instance(key).is_some())
    }

    /// Whether there is a service.
    pub fn has_service(&self, key: &ServiceKey) -> bool {
        self.current.has_service(key) || self.carried.is_some_and(|carried| carried.has_service(key))
    }

    /// The names of all entries.
    pub fn everything(&self) -> Touched {
        let mut all = Touched::default();
        for snapshot in [Some(self.current), self.carried].into_iter().flatten() {
            all.services.extend(snapshot.services().cloned());
            all.instances.extend(snapshot.instances().map(|endpoint| endpoint.key.clone()));
            all.routes.extend(snapshot.routes().map(|route| Arc::clone(&route.id)));
            all.declared.extend(snapshot.declared().map(|entry| Arc::from(entry.id.as_str())));
        }
        all
    }

    /// The names of the entries that are not the same in `other`.
    pub fn difference(&self, other: &Source<'_>) -> Touched {
        let mut touched = self.everything();
        touched.extend(&other.everything());
        touched.services.retain(|key| self.has_service(key) != other.has_service(key));
        touched.instances.retain(|key| {
            self.instance(key) != other.instance(key) || self.carries(key) != other.carries(key)
        });
        touched.routes.retain(|id| self.route(id) != other.route(id));
        touched.declared.retain(|id| self.declared(id) != other.declared(id));
        touched
    }
}

/// An instance's name and epoch.
type Lease = (InstanceKey, u64);

/// Compiles tables, puts them into service, and knows what is in flight to endpoints that drain.
pub struct Compiler {
    shared: SharedTable,
    own: Own,
    reporter: Arc<Notify>,
    table: Arc<Table>,
    edge: EdgeCompiler,
    /// No longer listed, with requests in flight.
    lingering: BTreeMap<Lease, Arc<EndpointState>>,
    draining: BTreeMap<Lease, Arc<EndpointState>>,
    /// Listed by the table that is served by, and not by the next one.
    replaced: Vec<Arc<EndpointState>>,
    routes_compiled: u64,
}

impl Compiler {
    /// A compiler that puts its tables into `shared`. `reporter` is woken when a request to an endpoint that
    /// drains has ended.
    pub fn new(shared: SharedTable, policy: Policy, reporter: Arc<Notify>) -> Self {
        let table = Table {
            position: Position::default(),
            settled: false,
            carried: HashSet::new(),
            slots: Vector::new(),
            slot_of: HashMap::new(),
            free: Vector::new(),
            routes: Routes::default(),
            declared: Declared::default(),
            edge: EdgeCompiler::default().edge(),
        };
        Self {
            shared,
            own: Own { policy, zone: "".into() },
            reporter,
            table: Arc::new(table),
            edge: EdgeCompiler::default(),
            lingering: BTreeMap::new(),
            draining: BTreeMap::new(),
            replaced: Vec::new(),
            routes_compiled: 0,
        }
    }

    /// Says which zone the proxy is in, for services that prefer their own; empty is none.
    pub fn in_zone(mut self, zone: &str) -> Self {
        self.own.zone = zone.into();
        self
    }

    /// Says which port is the proxy's own, and puts a table that knows into service where there is one. Declared
    /// listeners with this port, or 0, are the proxy's own.
    pub fn listen_on(&mut self, port: u16) {
        if self.table.declared.own_port() == port {
            return;
        }
        self.edge.listen_on(port);
        let mut next = Table::clone(&self.table);
        next.declared.listen_on(port);
        next.edge = self.edge.edge();
        self.table = Arc::new(next);
        if self.shared.load().is_some() {
            self.shared.store(Arc::clone(&self.table));
        }
    }

    /// How many declared routes have been compiled, each as often as it was.
    pub fn routes_compiled(&self) -> u64 {
        self.routes_compiled
    }

    /// What is woken when a request to an endpoint that drains has ended.
    pub fn reporter(&self) -> &Arc<Notify> {
        &self.reporter
    }

    /// What is served by.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Compiles what was touched and serves by the result. The flags of endpoints that drain are set when
    /// this returns.
    pub fn serve(&mut self, source: &Source<'_>, touched: &Touched) {
        self.lingering.retain(|_, state| state.in_flight() > 0);
        let mut next = Table::clone(&self.table);
        let touched = &self.update_edge(&mut next, source, touched);
        next.position = source.current.position();
        next.settled = source.current.settled();
        for key in &touched.instances {
            if source.carries(key) {
                next.carried.insert(key.clone());
            } else {
                next.carried.remove(key);
            }
        }
        self.update_instances(&mut next, source, touched);
        self.update_routes(&mut next, source, touched);
        self.update_declared(&mut next, source, touched);
        next.treat(touched.declared.iter(), &self.own);
        for key in &touched.services {
            if source.has_service(key) {
                next.slot(key, &self.own);
            } else if let Some(service) = next.remove(key) {
                self.replaced.extend(service.members().iter().map(|member| Arc::clone(&member.state)));
            }
        }
        self.table = Arc::new(next);
        let members: Vec<Member> = touched.instances.iter().filter_map(|key| self.member(key)).collect();
        let (closing, opening): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.endpoint.state == InstanceState::Draining);
        for Member { state, .. } in opening {
            state.set_draining(false);
            self.draining.remove(&lease(&state));
        }
        self.shared.store(Arc::clone(&self.table));
        for state in self.replaced.drain(..) {
            state.retire();
            if state.in_flight() > 0 {
                self.lingering.insert(lease(&state), state);
            }
        }
        for Member { state, .. } in closing {
            state.set_draining(true);
            self.draining.insert(lease(&state), state);
        }
    }

    /// What is in flight to each endpoint that drains; those with nothing in flight are left out.
    pub fn in_flight(&mut self) -> Vec<InFlight> {
        let table = &self.table;
        self.draining.retain(|(key, epoch), state| {
            let listed = table.service(key.service()).and_then(|service| service.member(key.id()));
            listed.is_some_and(|member| member.endpoint.epoch == *epoch) || state.in_flight() > 0
        });
        let counts = self.draining.iter().map(|((key, epoch), state)| InFlight {
            key: Some(key.to_wire()),
            epoch: *epoch,
            count: state.in_flight(),
        });
        counts.filter(|entry| entry.count > 0).collect()
    }

    fn member(&self, key: &InstanceKey) -> Option<Member> {
        self.table.service(key.service())?.member(key.id()).cloned()
    }

    /// Where connections come in and how they go out. Gives what was touched, with the instances that are spoken to in
    /// another way from now on.
    fn update_edge<'a>(
        &mut self,
        next: &mut Table,
        source: &Source<'_>,
        touched: &'a Touched,
    ) -> Cow<'a, Touched> {
        let changed = self.edge.update(touched.declared.iter().map(|id| (id, source.declared(id))));
        let Some(services) = changed else { return Cow::Borrowed(touched) };
        next.edge = self.edge.edge();
        if services.is_empty() {
            return Cow::Borrowed(touched);
        }
        let mut touched = touched.clone();
        for service in services.iter().filter_map(|key| next.service(key)) {
            touched.instances.extend(service.members().iter().map(|member| member.endpoint.key.clone()));
        }
        Cow::Owned(touched)
    }

    fn update_instances(&mut self, next: &mut Table, source: &Source<'_>, touched: &Touched) {
        let keys: Vec<&InstanceKey> = touched.instances.iter().collect();
        for of_one_service in keys.chunk_by(|a, b| a.service() == b.service()) {
            let key = of_one_service[0].service();
            if !source.has_service(key) && next.service(key).is_none() {
                continue;
            }
            let slot = next.slot(key, &self.own);
            let Some(service) = next.service_at(slot) else { continue };
            for key in of_one_service {
                let replaced = match source.instance(key) {
                    Some(endpoint) => {
                        let before = service.member(key.id()).map(|member| &member.state);
                        let state = self.state(before, endpoint);
                        let replaced =
                            service.put(Member { endpoint: Arc::clone(endpoint), state: state.clone() });
                        replaced.filter(|member| member.state.id() != state.id())
                    }
                    None => service.remove(key.id()),
                };
                self.replaced.extend(replaced.map(|member| member.state));
            }
            service.refresh();
        }
    }

    /// The state of an endpoint: the one that it has or had under this epoch, or the one that comes next.
    fn state(&self, listed: Option<&Arc<EndpointState>>, endpoint: &Arc<Endpoint>) -> Arc<EndpointState> {
        let key = &endpoint.key;
        let tls = self.edge.backend(key.service());
        let lingering = || self.lingering.range((key.clone(), 0)..=(key.clone(), u64::MAX));
        let same_epoch = |state: &&Arc<EndpointState>| state.epoch() == endpoint.epoch;
        let again =
            listed.filter(same_epoch).or_else(|| lingering().map(|(_, state)| state).find(same_epoch));
        let state = match again.or(listed).or_else(|| lingering().next_back().map(|(_, state)| state)) {
            Some(state) => state.declared_anew(endpoint, tls),
            None => EndpointState::with_tls(Arc::clone(endpoint), tls.cloned(), Arc::clone(&self.reporter)),
        };
        if endpoint.takes_traffic() {
            // While the control plane may not know all yet, what it gets to know is not new.
            state.note_use(self.table.settled.then(now));
        }
        state
    }

    fn update_routes(&self, next: &mut Table, source: &Source<'_>, touched: &Touched) {
        for id in &touched.routes {
            if let Some((route, slot)) = next.routes.remove(id)
                && let Some(service) = next.service_at(slot).filter(|_| !route.versions.is_empty())
            {
                service.release(&versions_of(&route));
            }
            if let Some(route) = source.route(id) {
                let slot = next.slot(&route.service, &self.own);
                next.routes.put(route, slot);
                if let Some(service) = next.service_at(slot).filter(|_| !route.versions.is_empty()) {
                    service.need(&versions_of(route));
                }
            }
        }
    }

    fn update_declared(&mut self, next: &mut Table, source: &Source<'_>, touched: &Touched) {
        if touched.declared.is_empty() {
            return;
        }
        let updated = next.declare(touched.declared.iter().map(|id| (id, source.declared(id))));
        self.routes_compiled += updated.compiled;
        for (id, error) in updated.refused {
            // The subscription refuses such entries; this one was stored by a version that knew it.
            tracing::error!(id = &*id, error = &error as &dyn std::error::Error, "declared routing left out");
        }
    }
}

/// What makes a table from the one before. Tables that share with this one stay as they are.
impl Table {
    /// Takes declared entries, each with what it is now, and lets services keep the subsets that these need.
    pub(super) fn declare<'a>(
        &mut self,
        touched: impl Iterator<Item = (&'a Arc<str>, Option<&'a Arc<DeclaredEntry>>)>,
    ) -> Updated {
        let updated = self.declared.update(touched);
        for backend in &updated.needed {
            if let Some(service) = self.service_mut(&backend.service) {
                service.need(&backend.subset);
            }
        }
        for backend in &updated.released {
            if let Some(service) = self.service_mut(&backend.service) {
                service.release(&backend.subset);
            }
        }
        updated
    }

    /// Has services be treated as the entries that were touched say.
    fn treat<'a>(&mut self, touched: impl Iterator<Item = &'a Arc<str>>, own: &Own) {
        for (id, key) in touched.filter_map(|id| Some((id, traffic::service_of(id)?))) {
            let traffic = traffic::compiled(self.declared.entry(id), own);
            if let Some(service) = self.service_mut(&key) {
                service.treat(traffic, &own.policy);
            }
        }
    }

    /// The slot of a service, which is put there where it is new.
    pub(super) fn slot(&mut self, key: &ServiceKey, own: &Own) -> u32 {
        if let Some(slot) = self.slot_of.get(key) {
            return *slot;
        }
        let traffic = traffic::compiled(self.declared.entry(&traffic::id_of(key)), own);
        let mut service = ServiceTable::new(key.clone(), &own.policy, traffic);
        self.declared.subsets_of(key).for_each(|subset| service.need(subset));
        let service = Some(Arc::new(service));
        let slot = match self.free.pop_back() {
            Some(slot) => {
                self.slots.set(slot as usize, service);
                slot
            }
            None => {
                self.slots.push_back(service);
                u32::try_from(self.slots.len() - 1).expect("there are fewer services than 2^32")
            }
        };
        self.slot_of.insert(key.clone(), slot);
        slot
    }

    /// Takes a service out, and gives it back.
    pub(super) fn remove(&mut self, key: &ServiceKey) -> Option<Arc<ServiceTable>> {
        let slot = self.slot_of.remove(key)?;
        self.free.push_back(slot);
        self.slots.set(slot as usize, None)
    }

    /// A service, to be changed: a copy where another table has it too.
    pub(super) fn service_mut(&mut self, key: &ServiceKey) -> Option<&mut ServiceTable> {
        let slot = *self.slot_of.get(key)?;
        self.service_at(slot)
    }

    fn service_at(&mut self, slot: u32) -> Option<&mut ServiceTable> {
        self.slots.get_mut(slot as usize)?.as_mut().map(Arc::make_mut)
    }
}

fn versions_of(route: &Route) -> Subset {
    Subset { versions: route.versions.as_slice().into(), ..Subset::default() }
}

fn lease(state: &EndpointState) -> Lease {
    (state.key().clone(), state.epoch())
}
