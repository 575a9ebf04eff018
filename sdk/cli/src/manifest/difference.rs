//! What differs between two manifests, as `diff -u` shows it.

use serde_json::Value;
use similar::TextDiff;

use super::secret;
use crate::failure::Failure;

/// Lines around a change.
const CONTEXT: usize = 3;

/// The difference of two manifests as JSON, an empty one being none; empty where they are equal. `names` are what
/// the two sides are called. Values of secrets are not shown.
///
/// # Errors
/// See [`super::parse`].
pub(crate) fn unified(before: &str, after: &str, names: [&str; 2]) -> Result<String, Failure> {
    let (mut old, mut new) = (parse(before)?, parse(after)?);
    secret::redact_both(&mut old, &mut new);
    let (old, new) = (text(&old)?, text(&new)?);
    let difference = TextDiff::from_lines(&old, &new);
    Ok(difference.unified_diff().context_radius(CONTEXT).header(names[0], names[1]).to_string())
}

fn parse(json: &str) -> Result<Value, Failure> {
    if json.is_empty() { Ok(Value::Null) } else { super::parse(json) }
}

fn text(manifest: &Value) -> Result<String, Failure> {
    if manifest.is_null() { Ok(String::new()) } else { super::yaml(manifest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_lines_around_it_and_equals_have_none() {
        let route = |port: u16| format!(r#"{{"kind":"HTTPRoute","spec":{{"port":{port}}}}}"#);
        let shown = unified(&route(80), &route(81), ["a", "b"]).expect("JSON");
        assert_eq!(
            shown,
            "--- a\n+++ b\n@@ -1,3 +1,3 @@\n kind: HTTPRoute\n spec:\n-  port: 80\n+  port: 81\n"
        );
        assert_eq!(unified(&route(80), &route(80), ["a", "b"]).expect("JSON"), "");
    }

    #[test]
    fn what_is_new_is_all_additions() {
        let shown = unified("", r#"{"kind":"Secret","data":{"k":"aGlkZGVu"}}"#, ["a", "b"]).expect("JSON");
        assert!(shown.contains("+kind: Secret\n") && !shown.contains("aGlkZGVu"), "{shown}");
    }
}
