//! From entries to what requests are matched by: only what changed is compiled again.
//!
//! A route that is new or changed is compiled and put at its hostnames. Where a listener changes, the routes that
//! name it are put elsewhere as they are. Services and instances touch no route.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{HashMap, OrdMap};
use waypost_proto::{
    name::ServiceKey,
    v1::{DeclaredEntry, ListenerEntry, ListenerProtocol, RuleRoute, declared_entry::Kind},
};

use super::{
    BackendRef, CompiledRoute, Declared, DeclaredError, Listener, OWN_LISTENER, Site, Subset,
    backends::{Subsets, subsets_of},
    candidate::{Candidate, Placed},
    hosts::{Hostname, Keep},
    paths::Paths,
};

/// Whether an entry can be compiled.
///
/// # Errors
/// It asks for what this version does not know.
pub(crate) fn check(entry: &DeclaredEntry) -> Result<(), DeclaredError> {
    match &entry.kind {
        Some(Kind::Listener(listener)) => port(listener).map(drop),
        Some(Kind::Route(route)) => CompiledRoute::of(&Arc::from(entry.id.as_str()), route).map(drop),
        _ => Ok(()),
    }
}

/// What an update of entries came to.
#[derive(Debug, Default)]
pub(in crate::table) struct Updated {
    /// How many routes were compiled.
    pub(in crate::table) compiled: u64,
    /// Subsets that services have to keep from now on.
    pub(in crate::table) needed: Vec<BackendRef>,
    /// Subsets that nothing needs any more.
    pub(in crate::table) released: Vec<BackendRef>,
    /// Entries that were left out.
    pub(in crate::table) refused: Vec<(Arc<str>, DeclaredError)>,
}

fn port(listener: &ListenerEntry) -> Result<u16, DeclaredError> {
    u16::try_from(listener.port).map_err(|_| DeclaredError::Port(listener.port))
}

impl CompiledRoute {
    fn of(id: &Arc<str>, route: &RuleRoute) -> Result<Self, DeclaredError> {
        let attachments = route.attachments.iter().map(|attachment| {
            let mut names: Vec<Hostname> =
                attachment.hostnames.iter().map(|name| Hostname::of(name)).collect();
            names.sort_unstable();
            names.dedup();
            if names.is_empty() {
                names.push(Hostname::Any);
            }
            (Arc::from(attachment.listener.as_str()), names)
        });
        Ok(Self {
            candidates: Candidate::all(id, route)?,
            attachments: attachments.collect(),
            subsets: route.rules.iter().flat_map(subsets_of).collect(),
        })
    }
}

impl Default for Declared {
    fn default() -> Self {
        let mut declared = Self {
            entries: HashMap::new(),
            listeners: HashMap::new(),
            routes: HashMap::new(),
            attached: HashMap::new(),
            sites: OrdMap::new(),
            subsets: Subsets::default(),
            own_port: 0,
        };
        declared.put_listener(&Arc::from(OWN_LISTENER), own_listener(), 0);
        declared
    }
}

/// What the proxy's own listener is where no entry says so.
fn own_listener() -> ListenerEntry {
    ListenerEntry {
        namespace: "default".to_owned(),
        gateway: "waypost".to_owned(),
        name: "http".to_owned(),
        protocol: ListenerProtocol::Http.into(),
        ..ListenerEntry::default()
    }
}

impl Declared {
    /// Takes entries: each with what it is now.
    pub(in crate::table) fn update<'a>(
        &mut self,
        touched: impl Iterator<Item = (&'a Arc<str>, Option<&'a Arc<DeclaredEntry>>)>,
    ) -> Updated {
        let mut updated = Updated::default();
        let (mut listeners, mut routes) = (Vec::new(), Vec::new());
        for (id, entry) in touched {
            let before = self.entries.get(id).cloned();
            if before.as_ref() == entry {
                continue;
            }
            let is = |test: fn(&Kind) -> bool| {
                [before.as_ref(), entry]
                    .into_iter()
                    .flatten()
                    .any(|entry| entry.kind.as_ref().is_some_and(test))
            };
            if is(|kind| matches!(kind, Kind::Listener(_))) || &**id == OWN_LISTENER {
                listeners.push((id, entry));
            }
            if is(|kind| matches!(kind, Kind::Route(_))) {
                routes.push((id, entry));
            }
            match entry {
                Some(entry) => self.entries.insert(Arc::clone(id), Arc::clone(entry)),
                None => self.entries.remove(id),
            };
        }
        // Routes that go, change, or name a listener that does leave their places; those that stay get new ones.
        let mut moved: BTreeSet<Arc<str>> = routes.iter().map(|(id, _)| Arc::clone(id)).collect();
        for (id, _) in &listeners {
            moved.extend(self.attached.get(*id).into_iter().flatten().cloned());
        }
        moved.iter().for_each(|id| self.place(id, Site::remove));
        for (id, entry) in listeners {
            self.take_listener(id, entry.map(|entry| &**entry), &mut updated);
        }
        for (id, entry) in routes {
            self.take_route(id, entry.map(|entry| &**entry), &mut updated);
        }
        moved.iter().for_each(|id| self.place(id, Site::put));
        updated
    }

    /// Says which port is the proxy's own: listeners that name it are the proxy's own.
    pub(in crate::table) fn listen_on(&mut self, own_port: u16) {
        let old = std::mem::replace(&mut self.own_port, own_port);
        let of_either = |listener: &&Arc<Listener>| {
            [old, own_port].into_iter().any(|port| port != 0 && listener.entry.port == u32::from(port))
        };
        let moved: Vec<Arc<Listener>> = self.listeners.values().filter(of_either).cloned().collect();
        let routes: BTreeSet<Arc<str>> =
            moved.iter().filter_map(|listener| self.attached.get(&listener.id)).flatten().cloned().collect();
        routes.iter().for_each(|id| self.place(id, Site::remove));
        for listener in moved {
            self.remove_listener(&listener.id);
            let port = port(&listener.entry).unwrap_or_default();
            self.put_listener(&listener.id, listener.entry.clone(), port);
        }
        routes.iter().for_each(|id| self.place(id, Site::put));
    }

    /// The subsets that a service has to keep.
    pub(in crate::table) fn subsets_of(&self, service: &ServiceKey) -> impl Iterator<Item = &Subset> {
        self.subsets.of(service)
    }

    fn take_listener(&mut self, id: &Arc<str>, entry: Option<&DeclaredEntry>, updated: &mut Updated) {
        self.remove_listener(id);
        match entry.and_then(|entry| entry.kind.as_ref()) {
            Some(Kind::Listener(listener)) => match port(listener) {
                Ok(port) => self.put_listener(id, listener.clone(), port),
                Err(error) => updated.refused.push((Arc::clone(id), error)),
            },
            _ if &**id == OWN_LISTENER => self.put_listener(id, own_listener(), 0),
            _ => {}
        }
    }

    fn put_listener(&mut self, id: &Arc<str>, entry: ListenerEntry, port: u16) {
        let (port, hostname) = (self.port(port), Hostname::of(&entry.hostname));
        let listener = Arc::new(Listener { id: Arc::clone(id), port, hostname, entry });
        let sites = self.sites.entry(port).or_default();
        sites.change(&listener.hostname, Arc::default, |site| {
            Arc::make_mut(site).listeners.push(Arc::clone(&listener));
            Keep::Yes
        });
        self.listeners.insert(Arc::clone(id), listener);
    }

    fn remove_listener(&mut self, id: &Arc<str>) {
        let Some(listener) = self.listeners.remove(id) else { return };
        let Some(sites) = self.sites.get_mut(&listener.port) else { return };
        sites.change(&listener.hostname, Arc::default, |site| {
            let site = Arc::make_mut(site);
            site.listeners.retain(|other| other.id != *id);
            Keep::unless(site.listeners.is_empty())
        });
        if sites.is_empty() {
            self.sites.remove(&listener.port);
        }
    }

    fn take_route(&mut self, id: &Arc<str>, entry: Option<&DeclaredEntry>, updated: &mut Updated) {
        let before = self.routes.remove(id);
        for (listener, _) in before.iter().flat_map(|route| &route.attachments) {
            let is_empty = self.attached.get_mut(listener).is_some_and(|routes| {
                routes.remove(id);
                routes.is_empty()
            });
            if is_empty {
                self.attached.remove(listener);
            }
        }
        if let Some(Kind::Route(route)) = entry.and_then(|entry| entry.kind.as_ref()) {
            updated.compiled += 1;
            match CompiledRoute::of(id, route) {
                Ok(route) => {
                    for (listener, _) in &route.attachments {
                        self.attached.entry(Arc::clone(listener)).or_default().insert(Arc::clone(id));
                    }
                    for backend in route.subsets.iter().filter(|backend| self.subsets.add(backend)) {
                        updated.needed.push(backend.clone());
                    }
                    self.routes.insert(Arc::clone(id), Arc::new(route));
                }
                Err(error) => updated.refused.push((Arc::clone(id), error)),
            }
        }
        // After what comes, so that a subset which both need is kept as it is.
        for backend in before.iter().flat_map(|route| &route.subsets) {
            if self.subsets.release(backend) {
                updated.released.push(backend.clone());
            }
        }
    }

    /// Does something at each place of a route, where its listeners are.
    fn place(&mut self, id: &Arc<str>, what: fn(&mut Site, &Hostname, Placed)) {
        let Some(route) = self.routes.get(id).cloned() else { return };
        for (listener, names) in &route.attachments {
            let Some(listener) = self.listeners.get(listener) else { continue };
            let Some(sites) = self.sites.get_mut(&listener.port) else { continue };
            sites.change(&listener.hostname, Arc::default, |site| {
                let site = Arc::make_mut(site);
                for (name, candidate) in
                    names.iter().flat_map(|name| route.candidates.iter().map(move |one| (name, one)))
                {
                    what(site, name, Placed::at(listener, candidate));
                }
                Keep::Yes
            });
        }
    }
}

impl Site {
    fn put(&mut self, name: &Hostname, placed: Placed) {
        self.hosts.change(name, Paths::default, |paths| {
            paths.put(placed);
            Keep::Yes
        });
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is used in the place of `put`")]
    fn remove(&mut self, name: &Hostname, placed: Placed) {
        self.hosts.change(name, Paths::default, |paths| paths.remove(&placed));
    }
}
