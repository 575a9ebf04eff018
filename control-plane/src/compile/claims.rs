//! What one service claims, kept as counts over its instances.
//!
//! Deliberately absent: other services; who gets a route is decided above.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use waypost_proto::{
    name::ServiceKey,
    route::{Route, RouteMatch},
};

use crate::store::{Claim, EmptyService, Record};

/// How many times each value is there; few values, so a sorted list.
#[derive(Debug)]
struct Counted<T>(Vec<(T, u32)>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord + Clone> Counted<T> {
    /// Whether the value is new.
    fn add(&mut self, value: &T) -> bool {
        match self.0.binary_search_by(|(held, _)| held.cmp(value)) {
            Ok(at) => {
                self.0[at].1 += 1;
                false
            }
            Err(at) => {
                self.0.insert(at, (value.clone(), 1));
                true
            }
        }
    }

    /// Whether the value is gone.
    fn remove(&mut self, value: &T) -> bool {
        let Ok(at) = self.0.binary_search_by(|(held, _)| held.cmp(value)) else { return false };
        self.0[at].1 -= 1;
        let gone = self.0[at].1 == 0;
        if gone {
            self.0.remove(at);
        }
        gone
    }

    fn values(&self) -> impl ExactSizeIterator<Item = &T> {
        self.0.iter().map(|(value, _)| value)
    }
}

/// A service's claim on one route.
#[derive(Debug)]
struct RouteClaim {
    matches: RouteMatch,
    /// How many claimants want a prefix to stay on the request's path.
    unstripped: u32,
    /// The versions of the instances that claim it.
    versions: Counted<Arc<str>>,
    /// When they say it was first claimed.
    dates: Counted<SystemTime>,
}

/// What one service claims.
#[derive(Debug, Default)]
pub(super) struct ServiceClaims {
    instances: u32,
    versions: Counted<Arc<str>>,
    claims: BTreeMap<Arc<str>, Box<RouteClaim>>,
    /// What it claims while it has no instance.
    empty: Option<Arc<EmptyService>>,
}

impl ServiceClaims {
    /// An instance is new or changed. Answers the routes whose claim may be another one now.
    pub(super) fn put(&mut self, before: Option<&Record>, after: &Record) -> BTreeSet<Arc<str>> {
        let same = |before: &Record| {
            before.spec.version == after.spec.version
                && (Arc::ptr_eq(&before.claims, &after.claims) || before.claims == after.claims)
        };
        let mut touched = BTreeSet::new();
        if before.is_some_and(same) {
            return touched;
        }
        let was_empty = self.empty.take();
        touched
            .extend(was_empty.iter().flat_map(|empty| empty.claims.iter()).map(|claim| claim.route.clone()));
        self.add(after, &mut touched);
        if let Some(before) = before {
            self.subtract(before, &mut touched);
        }
        touched
    }

    /// An instance is gone.
    pub(super) fn remove(
        &mut self,
        before: &Record,
        emptied: Option<Arc<EmptyService>>,
    ) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::new();
        self.subtract(before, &mut touched);
        if let Some(empty) = emptied {
            touched.extend(self.keep(empty));
        }
        touched
    }

    /// The service is there without instances.
    pub(super) fn keep(&mut self, empty: Arc<EmptyService>) -> BTreeSet<Arc<str>> {
        let before = self.empty.replace(empty);
        let kept = before.iter().chain(&self.empty).flat_map(|empty| empty.claims.iter());
        kept.map(|claim| claim.route.clone()).collect()
    }

    pub(super) fn has_instances(&self) -> bool {
        self.instances > 0
    }

    /// The routes that it claims.
    pub(super) fn routes(&self) -> impl Iterator<Item = Arc<str>> {
        let kept = self.empty.iter().flat_map(|empty| empty.claims.iter()).map(|claim| &claim.route);
        self.claims.keys().chain(kept).cloned()
    }

    pub(super) fn claims(&self, route: &str) -> bool {
        self.claims.contains_key(route) || self.kept(route).is_some()
    }

    /// When it first claimed a route.
    pub(super) fn claimed_at(&self, route: &str) -> Option<SystemTime> {
        match self.claims.get(route) {
            Some(claim) => claim.dates.values().next().copied(),
            None => self.kept(route).map(|claim| claim.claimed_at),
        }
    }

    /// The route, as it is if this service gets it. It names versions only where some do not claim it. A
    /// prefix stays on the path as soon as one instance asks for that.
    pub(super) fn route(&self, service: &ServiceKey, route: &str) -> Option<Route> {
        let Some(claim) = self.claims.get(route) else {
            return self
                .kept(route)
                .map(|kept| Route::new(service.clone(), kept.matches.clone(), Vec::new()));
        };
        let matches = match &claim.matches {
            RouteMatch::Prefix { path, .. } => {
                RouteMatch::Prefix { path: path.clone(), strip: claim.unstripped == 0 }
            }
            template @ RouteMatch::Template(_) => template.clone(),
        };
        let by_all = claim.versions.values().len() == self.versions.values().len();
        let versions = if by_all { Vec::new() } else { claim.versions.values().cloned().collect() };
        Some(Route::new(service.clone(), matches, versions))
    }

    fn kept(&self, route: &str) -> Option<&Claim> {
        self.empty.as_ref()?.claims.iter().find(|claim| *claim.route == *route)
    }

    fn add(&mut self, record: &Record, touched: &mut BTreeSet<Arc<str>>) {
        self.instances += 1;
        if self.versions.add(&record.spec.version) {
            touched.extend(self.claims.keys().cloned());
        }
        for claim in record.claims.iter() {
            let held = self.claims.entry(claim.route.clone()).or_insert_with(|| {
                Box::new(RouteClaim {
                    matches: claim.matches.clone(),
                    unstripped: 0,
                    versions: Counted::default(),
                    dates: Counted::default(),
                })
            });
            held.unstripped += unstripped(claim);
            held.versions.add(&record.spec.version);
            held.dates.add(&claim.claimed_at);
            touched.insert(claim.route.clone());
        }
    }

    fn subtract(&mut self, record: &Record, touched: &mut BTreeSet<Arc<str>>) {
        self.instances -= 1;
        if self.versions.remove(&record.spec.version) {
            touched.extend(self.claims.keys().cloned());
        }
        for claim in record.claims.iter() {
            touched.insert(claim.route.clone());
            let Some(held) = self.claims.get_mut(&claim.route) else { continue };
            held.unstripped -= unstripped(claim);
            held.versions.remove(&record.spec.version);
            held.dates.remove(&claim.claimed_at);
            if held.dates.values().len() == 0 {
                self.claims.remove(&claim.route);
            }
        }
    }
}

fn unstripped(claim: &Claim) -> u32 {
    u32::from(matches!(claim.matches, RouteMatch::Prefix { strip: false, .. }))
}
