//! Rules of filters.

use std::collections::HashSet;

use super::{Rules, route, text};
use crate::resource::{
    filter::{
        Cors, Filter, Header, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, UrlRewrite,
    },
    finding::FieldPath,
};

const MAX_FILTERS: usize = 16;
const MAX_HEADERS: usize = 16;
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];
/// Fields that frame a message or belong to one connection (RFC 9110, section 7.6.1); a route that changed them
/// would open a way to smuggle requests.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Where filters stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a rule of an HTTPRoute.
    HttpRule,
    /// In a rule of a GRPCRoute.
    GrpcRule,
    /// At a backend of an HTTPRoute.
    HttpBackend,
    /// At a backend of a GRPCRoute.
    GrpcBackend,
}

/// The filters of a rule or a backend. `one_prefix` says whether the rule has exactly one match, of type PathPrefix.
pub(super) fn filters(
    rules: &mut Rules,
    path: &FieldPath,
    filters: &[Filter],
    place: Place,
    one_prefix: bool,
) {
    rules.count(path, filters.len(), 0, MAX_FILTERS);
    let mut seen = HashSet::new();
    for (index, filter) in filters.iter().enumerate() {
        let at = path.index(index);
        let repeated = !seen.insert(filter.type_name());
        if repeated && !matches!(filter, Filter::RequestMirror(_)) {
            rules.refuse(&at, format!("only one filter of type {} is allowed here", filter.type_name()));
        }
        allowed(rules, &at, filter, place);
        one(rules, &at.key(filter.field_name()), filter, one_prefix);
    }
    let redirect = filters.iter().any(|filter| matches!(filter, Filter::RequestRedirect(_)));
    let rewrite = filters.iter().position(|filter| matches!(filter, Filter::UrlRewrite(_)));
    if let Some(index) = rewrite.filter(|_| redirect) {
        rules.refuse(&path.index(index), "URLRewrite and RequestRedirect exclude each other");
    }
}

fn allowed(rules: &mut Rules, at: &FieldPath, filter: &Filter, place: Place) {
    let answers = matches!(filter, Filter::RequestRedirect(_) | Filter::Cors(_));
    let http_only = answers || matches!(filter, Filter::UrlRewrite(_));
    match place {
        Place::GrpcRule | Place::GrpcBackend if http_only => {
            rules.refuse(at, format!("a GRPCRoute cannot have a filter of type {}", filter.type_name()));
        }
        Place::HttpBackend if answers => {
            let reason =
                format!("a filter of type {} answers by itself: it belongs to the rule", filter.type_name());
            rules.refuse(at, reason);
        }
        _ => {}
    }
}

fn one(rules: &mut Rules, at: &FieldPath, filter: &Filter, one_prefix: bool) {
    match filter {
        Filter::RequestHeaderModifier(it) => headers(rules, at, it, true),
        Filter::ResponseHeaderModifier(it) => headers(rules, at, it, false),
        Filter::RequestMirror(it) => mirror(rules, at, it),
        Filter::RequestRedirect(it) => redirect(rules, at, it, one_prefix),
        Filter::UrlRewrite(it) => rewrite(rules, at, it, one_prefix),
        Filter::Cors(it) => cors(rules, at, it),
    }
}

fn headers(rules: &mut Rules, at: &FieldPath, change: &HeaderModifier, request: bool) {
    for (name, fields) in [("set", &change.set), ("add", &change.add)] {
        rules.count(&at.key(name), fields.len(), 0, MAX_HEADERS);
        for (index, Header { name: field, value }) in fields.iter().enumerate() {
            let at = at.item(name, index);
            changeable(rules, &at.key("name"), field, request);
            rules.text(&at.key("value"), value, text::header_value);
        }
        let names = fields.iter().enumerate();
        rules.unique(names.map(|(index, field)| (at.item(name, index), field.name.to_ascii_lowercase())));
    }
    rules.count(&at.key("remove"), change.remove.len(), 0, MAX_HEADERS);
    let names = change.remove.iter().enumerate();
    rules.unique(names.map(|(index, name)| (at.item("remove", index), name.to_ascii_lowercase())));
    for (index, name) in change.remove.iter().enumerate() {
        let at = at.item("remove", index);
        changeable(rules, &at, name, request);
        let kept = change.set.iter().chain(&change.add).any(|field| field.name.eq_ignore_ascii_case(name));
        if kept {
            rules.refuse_value(&at, name, "is removed and set or added by the same filter");
        }
    }
}

fn changeable(rules: &mut Rules, at: &FieldPath, name: &str, request: bool) {
    rules.text(at, name, text::header_name);
    let lower = name.to_ascii_lowercase();
    if FRAMING.contains(&lower.as_str()) {
        rules.refuse_value(at, name, "frames the message, and cannot be changed by a route");
    }
    if lower == "host" && request {
        rules.refuse_value(
            at,
            name,
            "cannot be changed here; a URLRewrite filter has the field \"hostname\"",
        );
    }
}

fn mirror(rules: &mut Rules, at: &FieldPath, mirror: &RequestMirror) {
    let to = &mirror.backend_ref;
    let reference = route::Backend {
        group: &to.group,
        kind: &to.kind,
        name: &to.name,
        namespace: to.namespace.as_ref(),
        port: to.port,
        versions: &to.versions,
        tags: &to.tags,
    };
    route::backend(rules, &at.key("backendRef"), &reference);
    if mirror.percent.is_some() && mirror.fraction.is_some() {
        rules.refuse(&at.key("fraction"), "percent and fraction exclude each other");
    }
    if let Some(percent) = mirror.percent {
        rules.range(&at.key("percent"), percent, 0, 100);
    }
    if let Some(fraction) = &mirror.fraction {
        rules.range(&at.keys("fraction.denominator"), fraction.denominator, 1, i32::MAX.unsigned_abs());
        if fraction.numerator > fraction.denominator {
            let reason = format!("must not be more than the denominator, {}", fraction.denominator);
            rules.refuse_value(&at.keys("fraction.numerator"), fraction.numerator, reason);
        }
    }
}

fn redirect(rules: &mut Rules, at: &FieldPath, redirect: &RequestRedirect, one_prefix: bool) {
    if let Some(scheme) = &redirect.scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        rules.refuse_value(&at.key("scheme"), scheme, "must be http or https");
    }
    if let Some(hostname) = &redirect.hostname {
        rules.text(&at.key("hostname"), hostname, text::precise_hostname);
    }
    if let Some(path) = &redirect.path {
        path_modifier(rules, &at.key("path"), path, one_prefix);
    }
    if let Some(port) = redirect.port {
        rules.port(&at.key("port"), port);
    }
    if !matches!(redirect.status_code, 301 | 302 | 303 | 307 | 308) {
        let reason = "must be 301, 302, 303, 307 or 308";
        rules.refuse_value(&at.key("statusCode"), redirect.status_code, reason);
    }
}

fn rewrite(rules: &mut Rules, at: &FieldPath, rewrite: &UrlRewrite, one_prefix: bool) {
    if let Some(hostname) = &rewrite.hostname {
        rules.text(&at.key("hostname"), hostname, text::precise_hostname);
    }
    if let Some(path) = &rewrite.path {
        path_modifier(rules, &at.key("path"), path, one_prefix);
    }
}

fn path_modifier(rules: &mut Rules, at: &FieldPath, path: &PathModifier, one_prefix: bool) {
    match path {
        PathModifier::ReplaceFullPath(path) => {
            let at = at.key("replaceFullPath");
            rules.text(&at, path, text::replacement_path);
            if path.is_empty() {
                rules.refuse(&at, "must begin with '/'");
            }
        }
        PathModifier::ReplacePrefixMatch(path) => {
            let at = at.key("replacePrefixMatch");
            rules.text(&at, path, text::replacement_path);
            if !one_prefix {
                rules.refuse(&at, "needs a rule with exactly one match, whose path is of type PathPrefix");
            }
        }
    }
}

fn cors(rules: &mut Rules, at: &FieldPath, cors: &Cors) {
    let lists = [
        ("allowOrigins", &cors.allow_origins, 64, true),
        ("allowMethods", &cors.allow_methods, 9, true),
        ("allowHeaders", &cors.allow_headers, 64, true),
        ("exposeHeaders", &cors.expose_headers, 64, false),
    ];
    for (name, values, most, alone) in lists {
        let list = at.key(name);
        rules.count(&list, values.len(), 0, most);
        rules.unique(values.iter().enumerate().map(|(index, value)| (list.index(index), value)));
        if let Some(index) = values.iter().position(|value| value == "*")
            && alone
            && values.len() > 1
        {
            rules.refuse(&list.index(index), "'*' stands for all, and must stand alone");
        }
        for (index, value) in values.iter().enumerate() {
            let at = list.index(index);
            match name {
                "allowOrigins" => rules.text(&at, value, text::origin),
                "allowMethods" if METHODS.contains(&value.as_str()) => {}
                "allowMethods" => {
                    rules.refuse_value(&at, value, format!("must be one of {}", METHODS.join(", ")));
                }
                _ => rules.text(&at, value, text::header_name),
            }
        }
    }
    rules.range(&at.key("maxAge"), cors.max_age, 1, i32::MAX.unsigned_abs());
}
