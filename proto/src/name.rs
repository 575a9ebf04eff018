//! Names that cannot be wrong: namespaces, services, instances.
//!
//! They are checked where they come in. A clone shares the text.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{error::Violation, v1};

/// The namespace where none is given.
pub const DEFAULT_NAMESPACE: &str = "default";

const MAX_NAME: usize = 63;
const MAX_ID: usize = 255;
const NAME_RULE: &str = "must be 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends, for example \"users\"";
const ID_RULE: &str = "must be 1 to 255 visible ASCII characters without '/', for example \"10.0.0.7:9001\"";

fn check_name(field: &str, text: &str) -> Result<Arc<str>, Violation> {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    if ends && bytes.len() <= MAX_NAME && bytes.iter().all(inner) {
        Ok(Arc::from(text))
    } else {
        Err(Violation::new(field, text, NAME_RULE))
    }
}

fn check_id(field: &str, text: &str) -> Result<Arc<str>, Violation> {
    let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if (1..=MAX_ID).contains(&text.len()) && text.bytes().all(visible) {
        Ok(Arc::from(text))
    } else {
        Err(Violation::new(field, text, ID_RULE))
    }
}

/// Names a service: namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ServiceKey {
    /// Checks a namespace (empty means `default`) and a name.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn new(namespace: &str, name: &str) -> Result<Self, Violation> {
        let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
        Ok(Self { namespace: check_name("namespace", namespace)?, name: check_name("service", name)? })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The wire form.
    pub fn to_wire(&self) -> v1::ServiceKey {
        v1::ServiceKey { namespace: self.namespace.to_string(), name: self.name.to_string() }
    }

    /// Checks the wire form.
    ///
    /// # Errors
    /// Names the field that breaks its rule; a missing key is an empty name.
    pub fn from_wire(wire: Option<&v1::ServiceKey>) -> Result<Self, Violation> {
        let (namespace, name) = wire.map_or(("", ""), |key| (key.namespace.as_str(), key.name.as_str()));
        Self::new(namespace, name)
    }
}

/// `name`, or `namespace/name` outside the default namespace.
impl fmt::Display for ServiceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.namespace != DEFAULT_NAMESPACE {
            write!(formatter, "{}/", self.namespace)?;
        }
        formatter.write_str(&self.name)
    }
}

/// Reads what [`fmt::Display`] writes.
impl FromStr for ServiceKey {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Self::new(namespace, name)
    }
}

/// Names an instance: its service and an id that is unique within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceKey {
    service: ServiceKey,
    id: Arc<str>,
}

impl InstanceKey {
    /// Checks an id.
    ///
    /// # Errors
    /// Says the rule that the id breaks.
    pub fn new(service: ServiceKey, id: &str) -> Result<Self, Violation> {
        Ok(Self { service, id: check_id("id", id)? })
    }

    /// The service.
    pub fn service(&self) -> &ServiceKey {
        &self.service
    }

    /// The id within the service.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The wire form.
    pub fn to_wire(&self) -> v1::InstanceKey {
        v1::InstanceKey {
            namespace: self.service.namespace.to_string(),
            service: self.service.name.to_string(),
            id: self.id.to_string(),
        }
    }

    /// Checks the wire form.
    ///
    /// # Errors
    /// Names the field that breaks its rule; a missing key is an empty service.
    pub fn from_wire(wire: Option<&v1::InstanceKey>) -> Result<Self, Violation> {
        let empty = v1::InstanceKey::default();
        let wire = wire.unwrap_or(&empty);
        Self::new(ServiceKey::new(&wire.namespace, &wire.service)?, &wire.id)
    }
}

/// `service/id`, or `namespace/service/id` outside the default namespace.
impl fmt::Display for InstanceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.service, self.id)
    }
}

/// Reads what [`fmt::Display`] writes.
impl FromStr for InstanceKey {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let Some((service, id)) = text.rsplit_once('/') else {
            return Err(Violation::new(
                "instance",
                text,
                "must be SERVICE/ID or NAMESPACE/SERVICE/ID, for example \"users/10.0.0.7:9001\"",
            ));
        };
        Self::new(service.parse()?, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_break_the_rule_are_refused_with_their_field() {
        for name in ["", "-a", "a-", "a b", "ä", "a/b", &"a".repeat(64)] {
            let violation = ServiceKey::new("", name).expect_err(name);
            assert_eq!((violation.field.as_str(), violation.value.as_str()), ("service", name));
        }
        assert_eq!(ServiceKey::new("a b", "users").expect_err("a blank").field, "namespace");
        for id in ["", "a/b", "a b", "\u{7f}", &"a".repeat(256)] {
            assert!(
                InstanceKey::new(ServiceKey::new("", "users").expect("a good name"), id).is_err(),
                "{id:?}"
            );
        }
    }

    #[test]
    fn keys_read_back_what_they_print() {
        for text in ["users/10.0.0.7:9001", "shop/users/[::1]:80", "users/a"] {
            let key: InstanceKey = text.parse().expect(text);
            assert_eq!(key.to_string(), text);
            assert_eq!(InstanceKey::from_wire(Some(&key.to_wire())), Ok(key));
        }
        assert_eq!("shop/users".parse::<ServiceKey>().expect("a key").namespace(), "shop");
        assert!("users".parse::<InstanceKey>().is_err());
    }
}
