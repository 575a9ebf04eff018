//! What secrets hold is never shown: a mark stands in its place, which says whether it has changed.
//!
//! The mark is no base64, so that what was shown and declared again by mistake is refused instead of stored.
//!
//! Deliberately absent: annotations. The one in which kubectl keeps a copy of the manifest is dropped when a manifest
//! is read.

use serde_json::{Map, Value};
use waypost_proto::resource::{Kind, ResourceKey};

/// Stands in place of a value.
const MARK: &str = "***";
/// Where a Secret has its values; canonical manifests have `data` only.
const FIELDS: [&str; 2] = ["data", "stringData"];

/// A manifest that can be shown.
pub(super) fn manifest(key: &ResourceKey, json: &str) -> String {
    marked(key, json, |_, _| MARK.to_owned())
}

/// A manifest before and after a change; values that differ have marks that differ.
pub(super) fn change(key: &ResourceKey, before: &str, after: &str) -> (String, String) {
    let (old, new) = (values(before), values(after));
    let differs = |name: &str| old.get(name).is_some_and(|old| new.get(name).is_some_and(|new| new != old));
    let mark = |word: &str, name: &str| {
        if differs(name) { format!("{MARK} ({word})") } else { MARK.to_owned() }
    };
    (marked(key, before, |name, _| mark("before", name)), marked(key, after, |name, _| mark("after", name)))
}

/// Manifests of generations, newest first; a mark says in which generation its value came, where that is remembered.
pub(super) fn history(key: &ResourceKey, generations: &mut [(u64, String)]) {
    let mut marks: Map<String, Value> = Map::new();
    let mut older: Option<Map<String, Value>> = None;
    for (generation, json) in generations.iter_mut().rev() {
        let held = values(json);
        let shown = marked(key, json, |name, value| {
            let before = older.as_ref().map(|older| older.get(name));
            match before {
                None => MARK.to_owned(),
                Some(Some(before)) if before == value => {
                    marks.get(name).and_then(Value::as_str).unwrap_or(MARK).to_owned()
                }
                Some(_) => format!("{MARK} (as of generation {generation})"),
            }
        });
        marks = values(&shown);
        older = Some(held);
        *json = shown;
    }
}

/// A Secret's manifest with a mark for each value; any other one as it is.
fn marked(key: &ResourceKey, json: &str, mark: impl Fn(&str, &Value) -> String) -> String {
    if key.kind() != Kind::Secret || json.is_empty() {
        return json.to_owned();
    }
    let Ok(mut manifest) = serde_json::from_str::<Value>(json) else {
        // Whatever it is, it is a Secret's.
        return Value::from(MARK).to_string();
    };
    for field in FIELDS {
        match manifest.get_mut(field) {
            Some(Value::Object(held)) => {
                held.iter_mut().for_each(|(name, value)| *value = Value::from(mark(name, value)));
            }
            Some(other) => *other = Value::from(MARK),
            None => {}
        }
    }
    manifest.to_string()
}

/// The values of a manifest, by key.
fn values(json: &str) -> Map<String, Value> {
    let manifest: Value = serde_json::from_str(json).unwrap_or_default();
    let held = FIELDS.iter().filter_map(|field| manifest.get(field)?.as_object().cloned());
    held.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind) -> ResourceKey {
        ResourceKey::new(kind, "", "a").expect("a good name")
    }

    fn secret(crt: &str, private: &str) -> String {
        format!(r#"{{"data":{{"tls.crt":"{crt}","tls.key":"{private}"}},"kind":"Secret"}}"#)
    }

    #[test]
    fn nothing_that_a_secret_holds_is_shown() {
        let shown = manifest(&key(Kind::Secret), &secret("cHVibGlj", "aGlkZGVu"));
        assert_eq!(shown, secret("***", "***"));
        assert_eq!(manifest(&key(Kind::Secret), "aGlkZGVu"), "\"***\"");
        assert_eq!(manifest(&key(Kind::Secret), r#"{"data":"aGlkZGVu"}"#), r#"{"data":"***"}"#);
        assert_eq!(manifest(&key(Kind::Secret), ""), "");
        let public = r#"{"kind":"ConfigMap","data":{"ca.crt":"PEM"}}"#;
        assert_eq!(manifest(&key(Kind::ConfigMap), public), public);
    }

    #[test]
    fn it_is_seen_which_values_change() {
        let (before, after) = change(&key(Kind::Secret), &secret("b25l", "b25l"), &secret("b25l", "dHdv"));
        assert_eq!(before, secret("***", "*** (before)"));
        assert_eq!(after, secret("***", "*** (after)"));
        let (before, after) = change(&key(Kind::Secret), "", &secret("b25l", "dHdv"));
        assert_eq!((before.as_str(), after), ("", secret("***", "***")));
    }

    #[test]
    fn it_is_seen_when_a_value_has_changed() {
        let mut past = vec![
            (5, secret("b25l", "dHdv")),
            (4, secret("b25l", "dHdv")),
            (3, String::new()),
            (2, secret("dHdv", "b25l")),
            (1, secret("b25l", "b25l")),
        ];
        history(&key(Kind::Secret), &mut past);
        let shown: Vec<String> = past.into_iter().map(|(_, shown)| shown).collect();
        let again = secret("*** (as of generation 4)", "*** (as of generation 4)");
        let second = secret("*** (as of generation 2)", "***");
        assert_eq!(shown, [again.clone(), again, String::new(), second, secret("***", "***")]);
    }
}
