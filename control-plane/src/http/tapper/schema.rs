//! What Tapper's clients send and are answered with, as JSON Schemas.

use serde_json::{Value, json};

use crate::http::openapi::schema::members;

fn text() -> Value {
    json!({ "type": "string" })
}

fn optional() -> Value {
    json!({ "type": ["string", "null"] })
}

fn list(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn instance() -> Value {
    let instance = [
        ("url", text()),
        ("health_endpoint", text()),
        ("last_heartbeat", text()),
        ("healthy", json!({ "type": "boolean" })),
    ];
    members(&instance, &["url"])
}

/// A service with its instances.
pub(in crate::http) fn service() -> Value {
    let route = members(&[("path", text()), ("methods", list(&text()))], &["path", "methods"]);
    let service = [
        ("name", text()),
        ("version", text()),
        ("description", optional()),
        ("prefix", optional()),
        ("routes", list(&route)),
        ("instances", list(&instance())),
        ("tags", list(&text())),
    ];
    members(&service, &["name", "version"])
}

/// All of them.
pub(in crate::http) fn services() -> Value {
    list(&service())
}

/// What registers.
pub(in crate::http) fn registration() -> Value {
    members(&[("service", service()), ("instance", instance())], &["service", "instance"])
}

/// What leaves.
pub(in crate::http) fn leave() -> Value {
    members(&[("name", text()), ("instance_url", text())], &["name", "instance_url"])
}

/// What beats.
pub(in crate::http) fn beat() -> Value {
    members(&[("instance_url", text())], &["instance_url"])
}

/// What each of these is answered with.
pub(in crate::http) fn done() -> Value {
    members(&[("status", text()), ("service", text())], &["status"])
}

/// What a healthy control plane answers.
pub(in crate::http) fn health() -> Value {
    members(&[("status", json!({ "const": "healthy" }))], &["status"])
}
