//! From records to what proxies need: services, endpoints, and the routes that nobody declared.
//!
//! Each instance claims routes for its service: its prefix and its endpoint templates. A service claims what
//! any of its instances claims. Where two services claim the same route, the older claim wins, except that a
//! service without any instance loses against one that has some; a tie goes to the lesser name.
//!
//! The compiler keeps counts, so that a change costs work in proportion to itself: it touches the services
//! concerned and the other claimants of the routes concerned, and nothing else.
//!
//! Deliberately absent: declared resources (see `gateway`), which proxies prefer to these routes; and time.

mod claims;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use waypost_proto::{
    name::ServiceKey,
    route::{Route, RouteMatch},
    snapshot::Change,
    v1,
};

use self::claims::ServiceClaims;
use crate::store::{EmptyService, Record};

/// A claim that another service's claim on the same route beats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// Whose.
    pub service: ServiceKey,
    /// When it was first made.
    pub claimed_at: SystemTime,
}

/// Who has a route, and who would like to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// The route in force.
    pub route: Arc<Route>,
    /// When the claim was first made.
    pub claimed_at: SystemTime,
    /// The claims that lost, the next in line first.
    pub shadowed: Vec<Shadowed>,
}

impl Election {
    /// The conflict with a claim that lost, for people.
    pub fn conflict(&self, loser: &ServiceKey) -> v1::Conflict {
        v1::Conflict {
            route: route_text(&self.route.matches),
            winner: Some(self.route.service.to_wire()),
            loser: Some(loser.to_wire()),
        }
    }
}

/// What is claimed, as people write it: `/prefix` or `METHOD /path/{}`.
fn route_text(matches: &RouteMatch) -> String {
    match matches {
        RouteMatch::Prefix { path, .. } => path.to_string(),
        RouteMatch::Template(template) => template.to_string(),
    }
}

/// A route whose election came out differently.
#[derive(Clone, Debug)]
pub struct Reelection {
    /// The route's id.
    pub route: Arc<str>,
    /// How it was.
    pub before: Option<Arc<Election>>,
    /// How it is; `None` if nobody claims the route any more.
    pub after: Option<Arc<Election>>,
}

/// What one step changes.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// For proxies; empty if nothing matters to them.
    pub change: Change,
    /// For people.
    pub elections: Vec<Reelection>,
}

/// Keeps up with the records.
#[derive(Debug, Default)]
pub struct Compiler {
    services: HashMap<ServiceKey, ServiceClaims>,
    claimants: HashMap<Arc<str>, BTreeSet<ServiceKey>>,
    elected: HashMap<Arc<str>, Arc<Election>>,
}

impl Compiler {
    /// An instance is new (`before` is `None`) or changed.
    pub fn put(&mut self, before: Option<&Record>, after: &Record) -> Compiled {
        let mut compiled = Compiled::default();
        let service = after.key().service();
        if !self.services.contains_key(service) {
            compiled.change.services.push(service.clone());
        }
        let endpoint = after.endpoint();
        if before.is_none_or(|before| before.endpoint() != endpoint) {
            compiled.change.instances.push(endpoint);
        }
        let claims = self.services.entry(service.clone()).or_default();
        let touched = claims.put(before, after);
        self.elect(service, touched, &mut compiled);
        compiled
    }

    /// An instance is gone; `emptied` is what stays of its service if it was the last one.
    pub fn remove(&mut self, before: &Record, emptied: Option<Arc<EmptyService>>) -> Compiled {
        let mut compiled = Compiled::default();
        let service = before.key().service();
        compiled.change.removed_instances.push(before.key().clone());
        if let Some(claims) = self.services.get_mut(service) {
            let touched = claims.remove(before, emptied);
            self.elect(service, touched, &mut compiled);
        }
        compiled
    }

    /// A service without instances is there.
    pub fn keep(&mut self, empty: Arc<EmptyService>) -> Compiled {
        let mut compiled = Compiled::default();
        let service = empty.key.clone();
        if !self.services.contains_key(&service) {
            compiled.change.services.push(service.clone());
        }
        let touched = self.services.entry(service.clone()).or_default().keep(empty);
        self.elect(&service, touched, &mut compiled);
        compiled
    }

    /// A service without instances is forgotten.
    pub fn forget(&mut self, service: &ServiceKey) -> Compiled {
        let mut compiled = Compiled::default();
        if let Some(claims) = self.services.remove(service) {
            self.elect(service, claims.routes().collect(), &mut compiled);
            compiled.change.removed_services.push(service.clone());
        }
        compiled
    }

    /// The elections in force, in no order.
    pub fn elections(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Election>)> {
        self.elected.iter()
    }

    /// Decides again who has the routes whose claim by `service` has changed.
    fn elect(&mut self, service: &ServiceKey, routes: BTreeSet<Arc<str>>, compiled: &mut Compiled) {
        for route in routes {
            let claims = self.services.get(service).is_some_and(|claims| claims.claims(&route));
            let claimants = self.claimants.entry(route.clone()).or_default();
            if claims {
                claimants.insert(service.clone());
            } else {
                claimants.remove(service);
                if claimants.is_empty() {
                    self.claimants.remove(&route);
                }
            }
            let before = self.elected.get(&route).cloned();
            let after = self.winner(&route).map(Arc::new);
            if before == after {
                continue;
            }
            match &after {
                Some(election) => {
                    if before.as_ref().is_none_or(|before| before.route != election.route) {
                        compiled.change.routes.push(Route::clone(&election.route));
                    }
                    self.elected.insert(route.clone(), election.clone());
                }
                None => {
                    compiled.change.removed_routes.push(route.clone());
                    self.elected.remove(&route);
                }
            }
            compiled.elections.push(Reelection { route, before, after });
        }
    }

    fn winner(&self, route: &str) -> Option<Election> {
        let standing = |service: &ServiceKey| {
            let claims = self.services.get(service)?;
            Some((!claims.has_instances(), claims.claimed_at(route)?, service.clone()))
        };
        let mut ranked: Vec<_> = self.claimants.get(route)?.iter().filter_map(standing).collect();
        ranked.sort();
        let mut ranked = ranked.into_iter();
        let (_, claimed_at, service) = ranked.next()?;
        let route = Arc::new(self.services.get(&service)?.route(&service, route)?);
        let shadowed = ranked.map(|(_, claimed_at, service)| Shadowed { service, claimed_at }).collect();
        Some(Election { route, claimed_at, shadowed })
    }
}

#[cfg(test)]
mod tests;
