//! A body that is a message of the contract in proto3's JSON mapping. What does not fit is named with its place,
//! its value and the rule; a field that is not known with the nearest one that is.
//!
//! Deliberately absent: what a message may say, which `calls` checks.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use waypost_proto::error::Violation;

use super::{problem::Refusal, query::nearest};

/// What a body as a whole is called in violations.
const WHOLE: &str = "body";
/// How much of a value is shown, in characters.
const LONGEST_SHOWN: usize = 64;

/// A message that a body holds; an empty body holds an empty one.
#[derive(Debug)]
pub(super) struct Message<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Message<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let body = Bytes::from_request(request, state).await;
        let body =
            body.map_err(|rejection| Refusal::unreadable(rejection.status(), rejection.body_text()))?;
        Ok(Self(read(&body)?))
    }
}

/// Reads a message.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Violation> {
    let body = if body.is_empty() { b"{}" } else { body };
    let mut reader = serde_json::Deserializer::from_slice(body);
    let message = serde_path_to_error::deserialize(&mut reader).map_err(|error| wrong(&error, body))?;
    reader.end().map_err(|error| not_json(&error))?;
    Ok(message)
}

fn not_json(error: &serde_json::Error) -> Violation {
    Violation::new(WHOLE, "", format!("must be one JSON object: {error}"))
}

fn wrong(error: &serde_path_to_error::Error<serde_json::Error>, body: &[u8]) -> Violation {
    if !error.inner().is_data() {
        return not_json(error.inner());
    }
    let (line, column) = (error.inner().line(), error.inner().column());
    let message = error.inner().to_string();
    let message = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
    let path = error.path().to_string();
    let field = if path == "." { WHOLE } else { &path };
    let value = serde_json::from_slice::<Value>(body).ok().and_then(|body| value_at(error.path(), &body));
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(unknown) = quoted.next()
    {
        // Each field has two spellings, of which the contract's own is the one that we recommend.
        let known: Vec<&str> = quoted.filter(|name| !name.contains(char::is_uppercase)).collect();
        return Violation::new(field, value.unwrap_or_default(), not_a_field(unknown, &known));
    }
    let rule = match message.split_once(" field ") {
        Some(("missing", _)) => "must be given",
        Some(("duplicate", _)) => "must be given once",
        _ => "",
    };
    if let Some(name) = quoted.next().filter(|_| !rule.is_empty()) {
        let field = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
        return Violation::new(field, "", rule);
    }
    let rule = match message.split_once(", expected ") {
        Some((_, expected)) => format!("must be {}", wanted(expected)),
        None => message.to_owned(),
    };
    Violation::new(field, value.unwrap_or_default(), rule)
}

fn not_a_field(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("is not a field here; did you mean {nearest:?}?"),
        None if known.is_empty() => "is not a field here; there are none".to_owned(),
        None => format!("is not a field here; there are {}", known.join(", ")),
    }
}

/// What serde expects, in words.
fn wanted(expected: &str) -> &str {
    match expected {
        "a string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object of names and values",
        _ if expected.starts_with("struct ") => "an object with fields",
        _ => expected,
    }
}

/// The scalar at a path.
fn value_at(path: &serde_path_to_error::Path, body: &Value) -> Option<String> {
    use serde_path_to_error::Segment;
    let value = path.iter().try_fold(body, |value, segment| match segment {
        Segment::Seq { index } => value.get(*index),
        Segment::Map { key } => value.get(key.as_str()),
        Segment::Enum { .. } | Segment::Unknown => None,
    })?;
    let shown = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(shown.chars().take(LONGEST_SHOWN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_proto::v1::{HeartbeatRequest, RegisterRequest};

    fn refused<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> (String, String, String) {
        let violation = read::<T>(body.as_bytes()).expect_err(body);
        (violation.field, violation.value, violation.rule)
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place_value_and_rule() {
        let unknown = "is not a field here; did you mean \"service\"?";
        let far = "is not a field here; there are instance, ttl, client";
        for (body, field, value, rule) in [
            (r#"{"instance": {"serivce": "users"}}"#, "instance.serivce", "users", unknown),
            (r#"{"whatever": 1}"#, "whatever", "1", far),
            (r#"{"client": 7}"#, "client", "7", "must be text"),
            (r#"{"instance": {"tags": "canary"}}"#, "instance.tags", "canary", "must be a list"),
            (r#"{"instance": []}"#, "instance", "", "must be an object with fields"),
            ("[]", "body", "", "must be an object with fields"),
            (r#"{"client": "a", "client": "b"}"#, "client", "", "must be given once"),
        ] {
            assert_eq!(refused::<RegisterRequest>(body), (field.into(), value.into(), rule.into()), "{body}");
        }
        let (field, value, _) = refused::<HeartbeatRequest>(r#"{"beats": [{}, {"epoch": "x"}]}"#);
        assert_eq!((field.as_str(), value.as_str()), ("beats[1].epoch", "x"));
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for body in ["{", "{} {}", "instance: users", "\u{fffe}"] {
            let (field, _, rule) = refused::<RegisterRequest>(body);
            assert!(field == "body" && rule.starts_with("must be one JSON object"), "{body}: {field} {rule}");
        }
    }

    #[test]
    fn both_spellings_and_both_kinds_of_numbers_are_read() {
        for body in [r#"{"beats": [{"epoch": 7}]}"#, r#"{"beats": [{"epoch": "7"}]}"#] {
            assert_eq!(read::<HeartbeatRequest>(body.as_bytes()).expect(body).beats[0].epoch, 7);
        }
        for body in [r#"{"instance": {"strip_prefix": true}}"#, r#"{"instance": {"stripPrefix": true}}"#] {
            let instance = read::<RegisterRequest>(body.as_bytes()).expect(body).instance;
            assert_eq!(instance.expect("one").strip_prefix, Some(true));
        }
        assert_eq!(read::<RegisterRequest>(b"").expect("empty"), RegisterRequest::default());
    }
}
