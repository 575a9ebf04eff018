//! Rules of Gateways.

use std::collections::BTreeMap;

use super::{Rules, kind_of, text};
use crate::resource::{
    backend::{AuthoritiesRef, CertificateRef},
    finding::{FieldPath, Finding},
    gateway::{
        AllowedRoutes, FromNamespaces, FrontendValidation, GATEWAY_CLASS, Gateway, LabelOperator,
        LabelSelector, Listener, ListenerProtocol, ListenerTls, MINIMUM_TLS_VERSION, NAMESPACE_NAME_LABEL,
    },
    key::{Kind, is_subdomain},
};

const MAX_LISTENERS: usize = 64;
const MAX_CERTIFICATES: usize = 64;
const MAX_AUTHORITIES: usize = 8;
const MAX_KINDS: usize = 8;
const MAX_OPTIONS: usize = 16;

/// A Gateway.
pub(super) fn gateway(rules: &mut Rules, path: &FieldPath, gateway: &Gateway) {
    if gateway.gateway_class_name != GATEWAY_CLASS {
        let finding = Finding::error(path.key("gatewayClassName"), "is no class that is served here");
        let finding = finding.value(&gateway.gateway_class_name);
        rules.findings.push(finding.suggest(format!("use \"{GATEWAY_CLASS}\"")));
    }
    let list = path.key("listeners");
    rules.count(&list, gateway.listeners.len(), 1, MAX_LISTENERS);
    let listeners = || gateway.listeners.iter().enumerate();
    rules.unique(listeners().map(|(index, listener)| (list.index(index).key("name"), &listener.name)));
    rules.unique(listeners().map(|(index, listener)| {
        (list.index(index), (listener.port, listener.protocol, listener.hostname.as_ref()))
    }));
    for (index, it) in listeners() {
        listener(rules, &list.index(index), it);
        let before = gateway.listeners[..index].iter().find(|other| other.port == it.port);
        if let Some(other) = before.filter(|other| other.protocol != it.protocol) {
            let reason = format!(
                "is spoken at port {}, which has another protocol at listener {}",
                it.port, other.name
            );
            rules.refuse_value(&list.index(index).key("protocol"), it.protocol.name(), reason);
        }
    }
    let Some(frontend) = gateway.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return };
    let at = path.keys("tls.frontend");
    if let Some(rule) = &frontend.default.validation {
        validation(rules, &at.keys("default.validation"), rule);
    }
    rules.count(&at.key("perPort"), frontend.per_port.len(), 0, MAX_LISTENERS);
    let ports = frontend.per_port.iter().enumerate();
    rules.unique(ports.clone().map(|(index, entry)| (at.item("perPort", index).key("port"), entry.port)));
    for (index, entry) in ports {
        let at = at.item("perPort", index);
        rules.port(&at.key("port"), entry.port);
        if let Some(rule) = &entry.tls.validation {
            validation(rules, &at.keys("tls.validation"), rule);
        }
    }
}

fn listener(rules: &mut Rules, at: &FieldPath, listener: &Listener) {
    if !is_subdomain(&listener.name) {
        rules.refuse_value(
            &at.key("name"),
            &listener.name,
            "must be lower-case letters, digits, '-' and '.'",
        );
    }
    rules.port(&at.key("port"), listener.port);
    if let Some(hostname) = &listener.hostname {
        rules.text(&at.key("hostname"), hostname, text::hostname);
    }
    match (listener.protocol, &listener.tls) {
        (ListenerProtocol::Http, Some(_)) => {
            rules.refuse(&at.key("tls"), "is for listeners of protocol HTTPS");
        }
        (ListenerProtocol::Https, None) => {
            rules.refuse(&at.key("tls"), "is required for protocol HTTPS, with certificateRefs");
        }
        (ListenerProtocol::Https, Some(tls)) => listener_tls(rules, &at.key("tls"), tls),
        (ListenerProtocol::Http, None) => {}
    }
    allowed_routes(rules, &at.key("allowedRoutes"), &listener.allowed_routes);
}

fn listener_tls(rules: &mut Rules, at: &FieldPath, tls: &ListenerTls) {
    let list = at.key("certificateRefs");
    rules.count(&list, tls.certificate_refs.len(), 1, MAX_CERTIFICATES);
    for (index, reference) in tls.certificate_refs.iter().enumerate() {
        certificate(rules, &list.index(index), reference);
    }
    if let Some(rule) = &tls.frontend_validation {
        validation(rules, &at.key("frontendValidation"), rule);
    }
    options(rules, &at.key("options"), &tls.options);
}

fn options(rules: &mut Rules, at: &FieldPath, options: &BTreeMap<String, String>) {
    rules.count(at, options.len(), 0, MAX_OPTIONS);
    for (name, value) in options {
        let at = at.key(name);
        if name == MINIMUM_TLS_VERSION {
            if !matches!(value.as_str(), "1.2" | "1.3") {
                rules.refuse_value(&at, value, "must be 1.2 or 1.3");
            }
        } else if name.starts_with("waypost.dev/") {
            let finding = Finding::error(at, format!("there is no option \"{name}\""));
            rules.findings.push(finding.suggest(format!("the option is \"{MINIMUM_TLS_VERSION}\"")));
        }
    }
}

fn certificate(rules: &mut Rules, at: &FieldPath, reference: &CertificateRef) {
    if (reference.group.as_str(), reference.kind.as_str()) != ("", "Secret") {
        let found = kind_of(&reference.group, &reference.kind);
        rules.refuse_value(&at.key("kind"), found, "must be Secret, with no group");
    }
    rules.resource_name(&at.key("name"), &reference.name);
    rules.namespace(&at.key("namespace"), reference.namespace.as_ref());
}

/// References to certificates of authorities.
pub(super) fn authorities(rules: &mut Rules, list: &FieldPath, references: &[AuthoritiesRef], least: usize) {
    rules.count(list, references.len(), least, MAX_AUTHORITIES);
    for (index, reference) in references.iter().enumerate() {
        let at = list.index(index);
        if !(reference.group.is_empty() && matches!(reference.kind.as_str(), "ConfigMap" | "Secret")) {
            let found = kind_of(&reference.group, &reference.kind);
            rules.refuse_value(&at.key("kind"), found, "must be ConfigMap or Secret, with an empty group");
        }
        rules.resource_name(&at.key("name"), &reference.name);
        rules.namespace(&at.key("namespace"), reference.namespace.as_ref());
    }
}

fn validation(rules: &mut Rules, at: &FieldPath, rule: &FrontendValidation) {
    authorities(rules, &at.key("caCertificateRefs"), &rule.ca_certificate_refs, 1);
}

fn allowed_routes(rules: &mut Rules, at: &FieldPath, allowed: &AllowedRoutes) {
    let list = at.key("kinds");
    rules.count(&list, allowed.kinds.len(), 0, MAX_KINDS);
    for (index, kind) in allowed.kinds.iter().enumerate() {
        let known = [Kind::HttpRoute, Kind::GrpcRoute];
        if !known.iter().any(|known| known.group() == kind.group && known.name() == kind.kind) {
            let found = kind_of(&kind.group, &kind.kind);
            rules.refuse_value(
                &list.index(index),
                found,
                "must be HTTPRoute or GRPCRoute of the Gateway API",
            );
        }
    }
    let at = at.key("namespaces").key("selector");
    match (allowed.namespaces.from, &allowed.namespaces.selector) {
        (FromNamespaces::Selector, None) => rules.refuse(&at, "is required with from: Selector"),
        (FromNamespaces::Selector, Some(rule)) => selector(rules, &at, rule),
        (_, Some(_)) => rules.refuse(&at, "needs from: Selector"),
        (_, None) => {}
    }
}

fn selector(rules: &mut Rules, at: &FieldPath, selector: &LabelSelector) {
    let reason = format!("is no label of a namespace; there is one, {NAMESPACE_NAME_LABEL}: its name");
    for label in selector.match_labels.keys().filter(|label| *label != NAMESPACE_NAME_LABEL) {
        rules.refuse_value(&at.key("matchLabels").key(label), label, reason.clone());
    }
    for (index, expression) in selector.match_expressions.iter().enumerate() {
        let at = at.item("matchExpressions", index);
        if expression.key != NAMESPACE_NAME_LABEL {
            rules.refuse_value(&at.key("key"), &expression.key, reason.clone());
        }
        let listed = !expression.values.is_empty();
        let lists = matches!(expression.operator, LabelOperator::In | LabelOperator::NotIn);
        if listed != lists {
            let wanted = if lists { "is required with In and NotIn" } else { "is for In and NotIn" };
            rules.refuse(&at.key("values"), wanted);
        }
    }
}
