//! What secrets hold is never shown: not by `get`, not in a difference, not to programs.
//!
//! The mark is no base64, so that what was shown and applied again by mistake is refused instead of stored.

use serde_json::Value;

/// Stands in place of a value.
const MARK: &str = "***";
/// Where `kubectl apply` keeps a whole copy of the manifest, values and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes out what a Secret holds; any other manifest stays as it is.
pub(crate) fn redact(manifest: &mut Value) {
    values(manifest, |value| *value = Value::from(MARK));
}

/// Takes out what both forms of a Secret hold, so that it can still be seen which values differ.
pub(crate) fn redact_both(before: &mut Value, after: &mut Value) {
    let mut changed = Vec::new();
    for field in FIELDS {
        let keys = after[field].as_object().into_iter().flatten();
        changed.extend(
            keys.filter(|(key, value)| before[field].get(key).is_some_and(|old| old != *value))
                .map(|(key, _)| (field, key.clone())),
        );
    }
    redact(before);
    if !is_secret(after) {
        return;
    }
    redact(after);
    for (field, key) in changed {
        before[field][&key] = Value::from(format!("{MARK} (before)"));
        after[field][&key] = Value::from(format!("{MARK} (after)"));
    }
}

/// The same for a manifest as text.
///
/// # Errors
/// See [`super::parse`].
pub(crate) fn redact_text(json: &mut String) -> Result<(), crate::failure::Failure> {
    if json.is_empty() {
        return Ok(());
    }
    let mut manifest = super::parse(json)?;
    if is_secret(&manifest) {
        redact(&mut manifest);
        *json = manifest.to_string();
    }
    Ok(())
}

const FIELDS: [&str; 2] = ["data", "stringData"];

fn is_secret(manifest: &Value) -> bool {
    manifest["kind"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("Secret"))
}

fn values(manifest: &mut Value, change: impl Fn(&mut Value)) {
    if !is_secret(manifest) {
        return;
    }
    for field in FIELDS {
        if let Some(held) = manifest.get_mut(field).and_then(Value::as_object_mut) {
            held.values_mut().for_each(&change);
        }
    }
    if let Some(annotations) = manifest.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        && let Some(copy) = annotations.get_mut(LAST_APPLIED)
    {
        change(copy);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(key: &str) -> Value {
        json!({
            "kind": "Secret",
            "metadata": { "name": "a", "annotations": { LAST_APPLIED: format!("{{\"data\":\"{key}\"}}") } },
            "data": { "tls.crt": "cHVibGlj", "tls.key": key },
            "stringData": { "more": key },
        })
    }

    #[test]
    fn nothing_that_a_secret_holds_is_left() {
        let mut manifest = secret("aGlkZGVu");
        redact(&mut manifest);
        assert!(!manifest.to_string().contains("aGlkZGVu"), "{manifest}");
        assert!(manifest.to_string().contains("tls.key"), "which keys it has may be seen");
        let mut other = json!({ "kind": "ConfigMap", "data": { "ca.crt": "PEM" } });
        redact(&mut other);
        assert_eq!(other["data"]["ca.crt"], "PEM");
    }

    #[test]
    fn it_can_be_seen_that_a_value_differs() {
        let (mut before, mut after) = (secret("b25l"), secret("dHdv"));
        redact_both(&mut before, &mut after);
        assert_eq!(before["data"]["tls.key"], "*** (before)");
        assert_eq!(after["data"]["tls.key"], "*** (after)");
        assert_eq!(before["data"]["tls.crt"], after["data"]["tls.crt"]);
        for manifest in [before, after] {
            let text = manifest.to_string();
            assert!(!text.contains("b25l") && !text.contains("dHdv"), "{text}");
        }
    }

    #[test]
    fn a_new_or_removed_secret_is_redacted_as_well() {
        let (mut before, mut after) = (Value::Null, secret("dHdv"));
        redact_both(&mut before, &mut after);
        assert!(!after.to_string().contains("dHdv") && before.is_null());
        let (mut before, mut after) = (secret("b25l"), Value::Null);
        redact_both(&mut before, &mut after);
        assert!(!before.to_string().contains("b25l") && after.is_null());
    }
}
