//! A document as a tree that knows where each value stands.
//!
//! A typed read of a text stops at the first fault and forgets positions; a tree lets every field be found again.
//! JSON is read here, without places; YAML (and JSON of people, which wants places) in `yaml`.

use std::{collections::HashSet, fmt};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::finding::{FieldPath, Step};

/// The bytes that a document may have.
pub(super) const MAX_DOCUMENT: usize = 1 << 20;
/// How deep values may lie in each other.
pub(super) const MAX_DEPTH: usize = 64;
/// What a value weighs beside its text.
pub(super) const NODE_WEIGHT: usize = 32;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) node: Node,
}

/// Why a text, or a part of it, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) field: FieldPath,
    pub(super) reason: String,
}

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Its keys with their values; none where it is no map.
    pub(super) fn entries(&self) -> &[Entry] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// Its text, where it is text.
    pub(super) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// The place of a field: that of its key, or of the closest value around it that is there.
    pub(super) fn place(&self, path: &FieldPath) -> (u32, u32) {
        let mut place = (self.line, self.column);
        let mut node = self;
        for step in path.steps() {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(entries)) => entries
                    .iter()
                    .find(|entry| entry.key == *key)
                    .map(|entry| ((entry.line, entry.column), &entry.node)),
                (Step::Index(index), Value::List(items)) => {
                    items.get(*index).map(|item| ((item.line, item.column), item))
                }
                _ => None,
            };
            let Some((at, inner)) = next else { break };
            (place, node) = (at, inner);
        }
        place
    }

    /// The value as JSON; keys without a value are left out, as the API server of Kubernetes does it.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => serde_json::Value::Bool(*value),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => serde_json::Value::String(text.clone()),
            Value::List(items) => serde_json::Value::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => {
                let present = entries.iter().filter(|entry| entry.node.value != Value::Null);
                serde_json::Value::Object(
                    present.map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
                )
            }
        }
    }

    /// What it takes to hold it, about.
    pub(super) fn weight(&self) -> usize {
        NODE_WEIGHT
            + match &self.value {
                Value::Null | Value::Bool(_) | Value::Number(_) => 0,
                Value::Text(text) => text.len(),
                Value::List(items) => items.iter().map(Self::weight).sum(),
                Value::Map(entries) => {
                    entries.iter().map(|entry| entry.key.len() + entry.node.weight()).sum()
                }
            }
    }

    /// How many lists and maps lie in each other in it.
    pub(super) fn height(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Self::height).max().unwrap_or(0),
            Value::Map(entries) => 1 + entries.iter().map(|entry| entry.node.height()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

pub(super) fn too_deep() -> String {
    format!("values lie more than {MAX_DEPTH} deep in each other")
}

/// Reads JSON, of `limit` bytes at most; its values have no places. Keys that are there twice are refused.
pub(super) fn load_json(text: &str, limit: usize) -> Result<Node, Fault> {
    let refuse = |line, column, reason| Fault { line, column, field: FieldPath::root(), reason };
    if text.len() > limit {
        return Err(refuse(0, 0, format!("the document has more than {limit} bytes")));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = JsonNode { depth: 0 }.deserialize(&mut reader).and_then(|node| reader.end().map(|()| node));
    read.map_err(|error| {
        let place = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        refuse(place(error.line()), place(error.column()), error.to_string())
    })
}

/// Reads a tree without places from JSON, and refuses duplicate keys.
struct JsonNode {
    depth: usize,
}

fn node(value: Value) -> Node {
    Node { line: 0, column: 0, value }
}

impl<'de> DeserializeSeed<'de> for JsonNode {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, reader: D) -> Result<Node, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonNode {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(node(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(node(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(node(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(node(Value::Number(value.into())))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value)
            .map(|number| node(Value::Number(number)))
            .ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(node(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.deeper()?)? {
            items.push(item);
        }
        Ok(node(Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        while let Some(key) = access.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(de::Error::custom("a key is there twice"));
            }
            let value = access.next_value_seed(self.deeper()?)?;
            entries.push(Entry { key, line: 0, column: 0, node: value });
        }
        Ok(node(Value::Map(entries)))
    }
}

impl JsonNode {
    fn deeper<E: de::Error>(&self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH { Err(E::custom(too_deep())) } else { Ok(Self { depth }) }
    }
}
