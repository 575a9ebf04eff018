//! The OpenAPI 3.1 document: the table of operations and the contract's descriptors, put into its words.
//!
//! Schemas come from the same descriptors as the code that reads and writes the JSON, with the contract's own comments,
//! so that the document cannot say anything else than the contract does.

pub(super) mod schema;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::{
    body::Bytes,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use waypost_proto::error::ErrorCode;

use self::schema::Contract;
use super::{
    operation::{Content, Kind, Operation, Parameter},
    table::OPERATIONS,
};

/// Written once: it is the same for everyone.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document(OPERATIONS).to_string().into());

/// `GET /openapi.json`
pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// The document of these operations.
pub(super) fn document(operations: &[Operation]) -> Value {
    let contract = Contract::read();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        let described = describe(operation, &contract);
        paths.entry(operation.path).or_default().insert(operation.method.to_ascii_lowercase(), described);
    }
    let read = operations.iter().filter_map(|operation| operation.body.and_then(message));
    let read: BTreeSet<&str> = read.collect();
    let told = operations.iter().filter_map(|operation| message(operation.answer));
    let mut schemas = contract.schemas(told.chain(read.iter().copied()), &read);
    schemas.insert("Problem".to_owned(), schema::problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Waypost control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache 2.0", "identifier": "Apache-2.0" },
            "description": "The messages of `waypost.v1` in proto3's JSON mapping, with the field names of the contract. \
                            What has its default value may be left out. Errors are problem details (RFC 9457).",
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn message(content: Content) -> Option<&'static str> {
    match content {
        Content::Message(name) | Content::MessageWithoutKey(name) | Content::Lines(name) => Some(name),
        Content::Text(..) | Content::Json(_) => None,
    }
}

fn describe(operation: &Operation, contract: &Contract) -> Value {
    let in_path = operation.path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        let schema = json!({ "type": "string", "minLength": 1 });
        Some(json!({ "name": name, "in": "path", "required": true, "schema": schema }))
    });
    let parameters: Vec<Value> = in_path.chain(operation.query.iter().map(parameter)).collect();
    let mut answers = BTreeMap::new();
    let done = operation.status.canonical_reason().unwrap_or_default();
    let described = match operation.answer {
        Content::Text(_, about) => about,
        _ => done,
    };
    answers.insert(
        operation.status.as_u16().to_string(),
        json!({ "description": described, "content": content(operation.answer, contract) }),
    );
    for (status, codes) in problems(operation) {
        let codes = codes.into_iter().map(|code| format!("`{code}`")).collect::<Vec<_>>().join(", ");
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        let content = json!({ "application/problem+json": { "schema": schema } });
        answers.insert(status.to_string(), json!({ "description": codes, "content": content }));
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": answers,
    });
    if let Some(body) = operation.body {
        let required = matches!(body, Content::Text(..) | Content::Json(_));
        described["requestBody"] = json!({ "required": required, "content": content(body, contract) });
    }
    described
}

/// The codes of all failures, by status.
fn problems(operation: &Operation) -> BTreeMap<u16, BTreeSet<&'static str>> {
    let mut problems: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
    let mut add = |status: StatusCode, code| {
        problems.entry(status.as_u16()).or_default().insert(code);
    };
    add(StatusCode::BAD_REQUEST, ErrorCode::InvalidArgument.name());
    add(operation.refusal, ErrorCode::InvalidArgument.name());
    add(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal.name());
    if operation.writes() {
        add(StatusCode::FORBIDDEN, "forbidden");
    }
    if operation.body.is_some() {
        add(StatusCode::BAD_REQUEST, "unreadable_body");
        add(StatusCode::PAYLOAD_TOO_LARGE, "unreadable_body");
    }
    for code in operation.problems {
        add(code.http(), code.name());
    }
    problems
}

fn content(content: Content, contract: &Contract) -> Value {
    match content {
        Content::Message(name) => json!({ "application/json": { "schema": schema::reference(name) } }),
        Content::MessageWithoutKey(name) => {
            json!({ "application/json": { "schema": contract.without_key(name) } })
        }
        Content::Lines(name) => {
            let about = format!("One `{name}` on each line.");
            json!({ "application/x-ndjson": { "schema": { "type": "string", "description": about } } })
        }
        Content::Text(kind, about) => {
            json!({ kind: { "schema": { "type": "string", "description": about } } })
        }
        Content::Json(schema) => json!({ "application/json": { "schema": schema() } }),
    }
}

fn parameter(parameter: &Parameter) -> Value {
    let one = match parameter.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Number => json!({ "type": "integer", "minimum": 0 }),
        Kind::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "examples": ["10s"] }),
        Kind::Time => json!({ "type": "string", "format": "date-time" }),
        Kind::State => json!({ "type": "string", "enum": ["up", "down", "draining", "suspect"] }),
    };
    let schema = if parameter.repeats { json!({ "type": "array", "items": one }) } else { one };
    json!({
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.about,
        "schema": schema,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};

    use super::*;

    #[test]
    fn every_operation_is_documented_once() {
        let document = document(OPERATIONS);
        let mut ids = BTreeSet::new();
        for operation in OPERATIONS {
            let described = &document["paths"][operation.path][operation.method.to_ascii_lowercase()];
            assert_eq!(described["operationId"], operation.id);
            assert!(ids.insert(operation.id), "{} is there twice", operation.id);
            assert!(described["responses"][operation.status.as_str()].is_object(), "{}", operation.id);
        }
    }

    /// Services that HTTP does not offer, with the reason.
    const GRPC_ONLY: [(&str, &str); 3] = [
        ("Replicas", "control planes ask each other"),
        ("Snapshots", "its stream is for proxies, which check and acknowledge each step"),
        ("StorePlugin", "control planes call it; whoever writes a store serves it"),
    ];

    /// The names of a message's fields.
    fn fields(files: &[FileDescriptorProto], message: &str) -> Vec<String> {
        let name = message.rsplit('.').next().unwrap_or_default();
        let all =
            files.iter().filter(|file| file.package() == "waypost.v1").flat_map(|file| &file.message_type);
        let found = all.into_iter().find(|one| one.name() == name).expect("a message of the contract");
        found.field.iter().map(|field| field.name().to_owned()).collect()
    }

    fn takes(operation: &Operation, field: &str) -> bool {
        let in_body = match operation.body {
            Some(Content::Text(..)) => field == "documents",
            body => body.is_some(),
        };
        // A parameter that repeats is called by what one of them is.
        let is_named =
            |one: &Parameter| one.name == field || one.repeats && field == format!("{}s", one.name);
        // What a key is made of stands in the path, or in the query under its own names.
        in_body || field == "key" || operation.query.iter().any(is_named)
    }

    #[test]
    fn every_call_of_the_contract_is_an_operation() {
        let files = FileDescriptorSet::decode(waypost_proto::DESCRIPTORS).expect("descriptors").file;
        let services: Vec<_> = files.iter().filter(|file| file.package() == "waypost.v1").collect();
        let services: Vec<_> = services.iter().flat_map(|file| &file.service).collect();
        let names: BTreeSet<&str> = services.iter().map(|service| service.name()).collect();
        for (name, why) in GRPC_ONLY {
            assert!(names.contains(name), "{name} ({why}) is no service any more");
        }
        let mut calls = 0;
        for service in services.iter().filter(|one| GRPC_ONLY.iter().all(|(name, _)| one.name() != *name)) {
            for call in &service.method {
                let (first, rest) = call.name().split_at(1);
                let id = first.to_lowercase() + rest;
                let operation = OPERATIONS.iter().find(|operation| operation.id == id);
                let what = format!("{}.{}", service.name(), call.name());
                let operation = operation.unwrap_or_else(|| panic!("{what} has no operation {id:?}"));
                let answer = call.output_type().rsplit('.').next();
                assert_eq!(message(operation.answer), answer, "{what} answers something else");
                for field in fields(&files, call.input_type()) {
                    assert!(takes(operation, &field), "{what} does not take {field:?}");
                }
                calls += 1;
            }
        }
        assert!(calls > 15, "{calls}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document(OPERATIONS);
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 30, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("it is in the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn schemas_say_what_the_contract_says() {
        let document = document(OPERATIONS);
        let schemas = &document["components"]["schemas"];
        let spec = &schemas["InstanceSpec"];
        assert_eq!(spec["description"], "What a registrant declares about one instance.");
        assert_eq!(spec["additionalProperties"], false, "an unknown field is refused");
        assert_eq!(spec["properties"]["tags"]["items"]["type"], "string");
        assert_eq!(spec["properties"]["metadata"]["additionalProperties"]["type"], "string");
        assert_eq!(spec["properties"]["protocol"]["$ref"], "#/components/schemas/Protocol");
        assert_eq!(schemas["Protocol"]["enum"][1], "PROTOCOL_HTTP1");
        assert!(schemas["RegisterResponse"]["additionalProperties"].is_null(), "answers may grow");
        let drain = &document["paths"]["/v1/instances/{namespace}/{service}/{instance}/drain"]["post"];
        let body = &drain["requestBody"]["content"]["application/json"]["schema"];
        assert!(body["properties"]["key"].is_null() && body["properties"]["wait"].is_object(), "{body}");
    }
}
