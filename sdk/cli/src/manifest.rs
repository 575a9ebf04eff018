//! Manifests on this side of the wire: read from files, written for people, without what secrets hold.
//!
//! Deliberately absent: what a manifest means; `waypost_proto::resource` and the control plane know that.

pub(crate) mod difference;
pub(crate) mod read;
pub(crate) mod secret;

use serde_json::Value;

use crate::failure::{Exit, Failure};

/// A manifest as the control plane sends it.
///
/// # Errors
/// It is not JSON, which only a control plane of another version would send.
pub(crate) fn parse(json: &str) -> Result<Value, Failure> {
    serde_json::from_str(json).map_err(|error| {
        Failure::new(Exit::Failed, format!("the control plane sent a manifest that is not JSON: {error}"))
    })
}

/// The canonical YAML of a value, ending in a line's end.
///
/// # Errors
/// It cannot be written; no manifest is such.
pub(crate) fn yaml(value: &Value) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value).map_err(|error| {
        Failure::new(Exit::Failed, format!("a manifest cannot be written as YAML: {error}"))
    })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
