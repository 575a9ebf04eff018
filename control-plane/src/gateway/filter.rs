//! Filters: what a route does with a request and its answer, from the Gateway API's words to the proxies'.

use std::time::Duration;

use waypost_proto::{
    resource::filter::{
        Cors as CorsFilter, Filter, Header, HeaderModifier, PathModifier, RequestMirror, RequestRedirect,
        UrlRewrite,
    },
    time::wire_duration,
    v1::{
        Cors, HeaderChange, HeaderField, Mirror, PathChange, Redirect, Rewrite, RouteFilter, path_change,
        route_filter::Kind,
    },
};

use super::backend::References;

/// The filters of a field, in their order.
pub(super) fn all(references: &mut References<'_, '_>, filters: &[Filter], field: &str) -> Vec<RouteFilter> {
    let one = |(at, filter): (usize, &Filter)| RouteFilter {
        kind: Some(one(references, filter, &format!("{field}[{at}]"))),
    };
    filters.iter().enumerate().map(one).collect()
}

fn one(references: &mut References<'_, '_>, filter: &Filter, field: &str) -> Kind {
    match filter {
        Filter::RequestHeaderModifier(change) => Kind::RequestHeaders(headers(change)),
        Filter::ResponseHeaderModifier(change) => Kind::ResponseHeaders(headers(change)),
        Filter::RequestRedirect(spec) => Kind::Redirect(redirect(spec)),
        Filter::UrlRewrite(spec) => Kind::Rewrite(rewrite(spec)),
        Filter::RequestMirror(spec) => Kind::Mirror(mirror(references, spec, field)),
        Filter::Cors(spec) => Kind::Cors(cors(spec)),
    }
}

fn headers(change: &HeaderModifier) -> HeaderChange {
    let fields = |fields: &[Header]| {
        let field = |field: &Header| HeaderField {
            name: field.name.to_ascii_lowercase(),
            value: field.value.clone(),
        };
        fields.iter().map(field).collect()
    };
    HeaderChange {
        set: fields(&change.set),
        add: fields(&change.add),
        remove: change.remove.iter().map(|name| name.to_ascii_lowercase()).collect(),
    }
}

fn redirect(spec: &RequestRedirect) -> Redirect {
    Redirect {
        scheme: spec.scheme.clone().unwrap_or_default(),
        hostname: spec.hostname.clone().unwrap_or_default(),
        path: spec.path.as_ref().map(path),
        port: spec.port.map_or(0, u32::from),
        status: spec.status_code.into(),
    }
}

fn rewrite(spec: &UrlRewrite) -> Rewrite {
    Rewrite { hostname: spec.hostname.clone().unwrap_or_default(), path: spec.path.as_ref().map(path) }
}

fn path(change: &PathModifier) -> PathChange {
    let kind = match change {
        PathModifier::ReplaceFullPath(path) => path_change::Kind::Full(path.clone()),
        PathModifier::ReplacePrefixMatch(path) => path_change::Kind::Prefix(path.clone()),
    };
    PathChange { kind: Some(kind) }
}

/// All requests are copied unless a percentage or a fraction says otherwise.
fn mirror(references: &mut References<'_, '_>, spec: &RequestMirror, field: &str) -> Mirror {
    let field = format!("{field}.requestMirror.backendRef");
    let (numerator, denominator) = match (spec.percent, &spec.fraction) {
        (Some(percent), _) => (percent, 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator),
        (None, None) => (1, 1),
    };
    Mirror { backend: Some(references.mirror(&spec.backend_ref, &field)), numerator, denominator }
}

fn cors(spec: &CorsFilter) -> Cors {
    Cors {
        allow_origins: spec.allow_origins.clone(),
        allow_methods: spec.allow_methods.clone(),
        allow_headers: spec.allow_headers.clone(),
        expose_headers: spec.expose_headers.clone(),
        allow_credentials: spec.allow_credentials,
        max_age: Some(wire_duration(Duration::from_secs(spec.max_age.into()))),
    }
}
