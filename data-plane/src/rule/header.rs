//! Changes of header fields (Gateway API, `HTTPHeaderFilter`): first what is removed, then what is set, then what is
//! added.

use http::{HeaderMap, HeaderName, HeaderValue};
use waypost_proto::v1;

use super::RuleError;

/// A change of header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeaderChange {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl HeaderChange {
    pub(super) fn compile(wire: &v1::HeaderChange) -> Result<Self, RuleError> {
        let remove = wire.remove.iter().map(|text| name("remove", text)).collect::<Result<_, _>>()?;
        Ok(Self { remove, set: fields("set", &wire.set)?, add: fields("add", &wire.add)? })
    }

    /// Carries it out.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

fn fields(what: &str, fields: &[v1::HeaderField]) -> Result<Box<[(HeaderName, HeaderValue)]>, RuleError> {
    let field = |field: &v1::HeaderField| {
        let value = HeaderValue::from_str(&field.value).map_err(|_| {
            RuleError::new(what, format!("has a value for {} that a field cannot have", field.name))
        })?;
        Ok((name(what, &field.name)?, value))
    };
    fields.iter().map(field).collect()
}

fn name(what: &str, text: &str) -> Result<HeaderName, RuleError> {
    HeaderName::try_from(text)
        .map_err(|_| RuleError::new(what, format!("has {text:?}, which is no name of a header field")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(name: &str, value: &str) -> v1::HeaderField {
        v1::HeaderField { name: name.to_owned(), value: value.to_owned() }
    }

    fn headers(fields: &[(String, String)]) -> HeaderMap {
        let parse = |(name, value): &(String, String)| {
            (HeaderName::try_from(name).expect("a name"), HeaderValue::try_from(value).expect("a value"))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    /// The fields of one name in their order.
    fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn set_overwrites_and_add_appends_and_remove_removes_without_regard_to_case() {
        let change = v1::HeaderChange {
            set: vec![field("My-Header", "bar")],
            add: vec![field("my-other", "baz"), field("my-new", "1")],
            remove: vec!["MY-GONE".to_owned()],
        };
        let given = [("my-header", "foo"), ("my-header", "more"), ("my-other", "foo"), ("my-gone", "x")];
        let mut headers = headers(&given.map(|(name, value)| (name.to_owned(), value.to_owned())));
        HeaderChange::compile(&change).expect("sound").apply(&mut headers);
        assert_eq!(values(&headers, "my-header"), ["bar"]);
        assert_eq!(values(&headers, "my-other"), ["foo", "baz"]);
        assert_eq!(values(&headers, "my-new"), ["1"]);
        assert!(values(&headers, "my-gone").is_empty());
    }

    #[test]
    fn what_cannot_be_a_field_is_named() {
        let bad = |change: v1::HeaderChange| HeaderChange::compile(&change).expect_err("unsound").field;
        let change = v1::HeaderChange::default;
        assert_eq!(bad(v1::HeaderChange { set: vec![field("a b", "")], ..change() }), "set");
        assert_eq!(bad(v1::HeaderChange { add: vec![field("a", "b\r\nc: d")], ..change() }), "add");
        assert_eq!(bad(v1::HeaderChange { remove: vec![String::new()], ..change() }), "remove");
    }

    fn some_fields() -> impl Strategy<Value = Vec<(String, String)>> {
        prop::collection::vec(("[abc]", "[xyz]"), 0..6)
    }

    proptest! {
        #[test]
        fn it_is_what_a_list_of_fields_would_become(
            given in some_fields(), set in some_fields(), add in some_fields(), remove in prop::collection::vec("[abc]", 0..2),
        ) {
            let fields = |fields: &[(String, String)]| fields.iter().map(|(name, value)| field(name, value)).collect();
            let change = v1::HeaderChange { set: fields(&set), add: fields(&add), remove: remove.clone() };
            let mut changed = headers(&given);
            HeaderChange::compile(&change).expect("sound").apply(&mut changed);

            let mut model = given;
            model.retain(|(name, _)| !remove.contains(name));
            for (name, value) in set {
                model.retain(|(other, _)| *other != name);
                model.push((name, value));
            }
            model.extend(add);
            for name in ["a", "b", "c"] {
                let expected = model.iter().filter(|(other, _)| other == name).map(|(_, value)| value.clone());
                prop_assert_eq!(values(&changed, name), expected.collect::<Vec<_>>());
            }
        }
    }
}
