//! Which resources have to be looked at after a change, so that a change of one route does not cost a look at all.
//!
//! A route bears on nothing but routes that have a hostname in common with it. What else there is may bear on anything.

use std::collections::BTreeSet;

use super::{Member, Resources, route::Route};
use crate::resource::{Kind, ResourceKey, hostname};

/// With more routes than these, looking at all is quicker than choosing.
const MANY: usize = 64;

/// What is looked at.
pub(super) enum Focus<'a> {
    /// Everything.
    All,
    /// Routes with some hostname of these lists.
    Hostnames(Vec<&'a [String]>),
}

impl<'a> Focus<'a> {
    /// What a change may bear on.
    pub(super) fn on(after: &Resources<'a>, changed: &BTreeSet<ResourceKey>) -> Self {
        let is_route = |key: &ResourceKey| matches!(key.kind(), Kind::HttpRoute | Kind::GrpcRoute);
        if changed.len() > MANY || !changed.iter().all(is_route) {
            return Self::All;
        }
        let there = changed.iter().filter_map(|key| after.get(key.kind(), key.namespace(), key.name()));
        Self::Hostnames(there.filter_map(Route::of).map(|route| route.hostnames).collect())
    }

    /// Whether a resource is looked at.
    pub(super) fn has(&self, member: &Member<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Hostnames(lists) => Route::of(*member)
                .is_some_and(|route| lists.iter().any(|list| hostname::overlap(list, route.hostnames))),
        }
    }
}
