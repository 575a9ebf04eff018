//! What HTTPRoutes and GRPCRoutes have in common.

use super::Member;
use crate::resource::{
    FieldPath, Kind, ResourceKey, Spec,
    backend::{BackendRef, ParentRef},
    filter::Filter,
    route::{GrpcRule, HttpRule},
};

/// A route of either kind.
pub(super) struct Route<'a> {
    pub(super) member: Member<'a>,
    pub(super) parents: &'a [ParentRef],
    pub(super) hostnames: &'a [String],
    pub(super) rules: Rules<'a>,
}

/// Its rules.
#[derive(Clone, Copy)]
pub(super) enum Rules<'a> {
    Http(&'a [HttpRule]),
    Grpc(&'a [GrpcRule]),
}

/// What a rule does.
pub(super) struct Rule<'a> {
    pub(super) filters: &'a [Filter],
    pub(super) backends: &'a [BackendRef],
}

impl<'a> Route<'a> {
    /// `None` where it is no route.
    pub(super) fn of(member: Member<'a>) -> Option<Self> {
        match member.manifest.spec() {
            Spec::HttpRoute(route) => Some(Self {
                member,
                parents: &route.parent_refs,
                hostnames: &route.hostnames,
                rules: Rules::Http(&route.rules),
            }),
            Spec::GrpcRoute(route) => Some(Self {
                member,
                parents: &route.parent_refs,
                hostnames: &route.hostnames,
                rules: Rules::Grpc(&route.rules),
            }),
            _ => None,
        }
    }

    pub(super) fn key(&self) -> &'a ResourceKey {
        self.member.manifest.key()
    }

    pub(super) fn kind(&self) -> Kind {
        self.key().kind()
    }

    pub(super) fn namespace(&self) -> &'a str {
        self.member.namespace()
    }

    pub(super) fn rules(&self) -> Vec<Rule<'a>> {
        match self.rules {
            Rules::Http(rules) => rules
                .iter()
                .map(|rule| Rule { filters: &rule.filters, backends: &rule.backend_refs })
                .collect(),
            Rules::Grpc(rules) => rules
                .iter()
                .map(|rule| Rule { filters: &rule.filters, backends: &rule.backend_refs })
                .collect(),
        }
    }
}

/// The field of a rule.
pub(super) fn field(rule: usize) -> FieldPath {
    FieldPath::spec().item("rules", rule)
}
