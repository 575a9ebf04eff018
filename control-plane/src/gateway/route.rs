//! Routes: an `HTTPRoute` or `GRPCRoute` becomes one entry, with where it attaches and what its rules do.

use waypost_proto::{
    resource::{
        Kind,
        route::{GrpcRoute, HttpRoute},
    },
    time,
    v1::{DeclaredEntry, RouteRule, RuleRoute, declared_entry},
};

use super::{
    Made,
    attach::{self, Head},
    backend::References,
    needs::Looking,
    outcome::{Body, RouteOutcome},
    rule,
    set::Declared,
};

/// Compiles an `HTTPRoute`.
pub(super) fn http(looking: &mut Looking<'_>, declared: &Declared, spec: &HttpRoute) -> Made {
    let head = Head {
        kind: Kind::HttpRoute,
        namespace: declared.key().namespace(),
        hostnames: &spec.hostnames,
        parents: &spec.parent_refs,
    };
    let name = format!("{}/{}", declared.key().namespace(), declared.key().name());
    made(looking, declared, &head, |references| {
        spec.rules.iter().enumerate().map(|(at, rule)| rule::http(references, &name, at, rule)).collect()
    })
}

/// Compiles a `GRPCRoute`.
pub(super) fn grpc(looking: &mut Looking<'_>, declared: &Declared, spec: &GrpcRoute) -> Made {
    let head = Head {
        kind: Kind::GrpcRoute,
        namespace: declared.key().namespace(),
        hostnames: &spec.hostnames,
        parents: &spec.parent_refs,
    };
    let name = format!("{}/{}", declared.key().namespace(), declared.key().name());
    made(looking, declared, &head, |references| {
        spec.rules.iter().enumerate().map(|(at, rule)| rule::grpc(references, &name, at, rule)).collect()
    })
}

fn made(
    looking: &mut Looking<'_>,
    declared: &Declared,
    head: &Head<'_>,
    rules: impl FnOnce(&mut References<'_, '_>) -> Vec<RouteRule>,
) -> Made {
    let (parents, attachments) = attach::attach(looking, head);
    let mut references = References {
        looking,
        kind: head.kind,
        namespace: head.namespace,
        broken: None,
        backends: Vec::new(),
    };
    let rules = rules(&mut references);
    let (broken, backends) = (references.broken, references.backends);
    let grpc = head.kind == Kind::GrpcRoute;
    let entry = RuleRoute {
        namespace: head.namespace.to_owned(),
        name: declared.key().name().to_owned(),
        grpc,
        created_at: Some(time::timestamp(declared.created_at)),
        attachments,
        rules,
    };
    // One that attaches nowhere matches nothing, and proxies need not know it.
    let kind = if grpc { "grpcroute" } else { "httproute" };
    let id = format!("{kind}/{}/{}", head.namespace, declared.key().name());
    let attached = !entry.attachments.is_empty();
    let entries = attached
        .then_some(DeclaredEntry { id, kind: Some(declared_entry::Kind::Route(entry)) })
        .into_iter()
        .collect();
    let body = Body::Route(RouteOutcome { parents, broken, backends });
    Made { entries, external: None, body: Some(body) }
}
