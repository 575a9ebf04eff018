//! JSON Schemas of the contract's messages, as proto3's JSON mapping has them.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde_json::{Map, Value, json};

const PACKAGE: &str = ".waypost.v1.";
/// Where descriptors keep messages, enums, and what is in them, for comments (`descriptor.proto`).
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const FIELDS: i32 = 2;
const NESTED: i32 = 3;

/// The messages and enums of the contract, by name.
pub(in crate::http) struct Contract {
    messages: BTreeMap<String, Described<DescriptorProto>>,
    enums: BTreeMap<String, Described<EnumDescriptorProto>>,
}

/// A type with the comments on it and on what is in it.
struct Described<T> {
    about: String,
    parts: Vec<String>,
    is: T,
}

impl Contract {
    /// Reads the descriptors that gRPC's reflection serves, too.
    pub(in crate::http) fn read() -> Self {
        let files = FileDescriptorSet::decode(waypost_proto::DESCRIPTORS).unwrap_or_default().file;
        let mut contract = Self { messages: BTreeMap::new(), enums: BTreeMap::new() };
        for file in files.iter().filter(|file| file.package() == "waypost.v1") {
            let comments = Comments::of(file);
            for (message, at) in file.message_type.iter().zip(0..) {
                contract.add(message, "", &[MESSAGES, at], &comments);
            }
            for (of, at) in file.enum_type.iter().zip(0..) {
                contract.add_enum(of, "", &[ENUMS, at], &comments);
            }
        }
        contract
    }

    fn add(&mut self, message: &DescriptorProto, outer: &str, path: &[i32], comments: &Comments) {
        let name = format!("{outer}{}", message.name());
        let inner = format!("{name}.");
        for (nested, at) in message.nested_type.iter().zip(0..) {
            self.add(nested, &inner, &[path, &[NESTED, at]].concat(), comments);
        }
        for (of, at) in message.enum_type.iter().zip(0..) {
            self.add_enum(of, &inner, &[path, &[MESSAGES, at]].concat(), comments);
        }
        let parts = (0..).take(message.field.len()).map(|at| comments.at(&[path, &[FIELDS, at]].concat()));
        let described = Described { about: comments.at(path), parts: parts.collect(), is: message.clone() };
        self.messages.insert(name, described);
    }

    fn add_enum(&mut self, of: &EnumDescriptorProto, outer: &str, path: &[i32], comments: &Comments) {
        let parts = (0..).take(of.value.len()).map(|at| comments.at(&[path, &[FIELDS, at]].concat()));
        let described = Described { about: comments.at(path), parts: parts.collect(), is: of.clone() };
        self.enums.insert(format!("{outer}{}", of.name()), described);
    }

    /// The schemas of these messages and of all that is in them. An unknown field is refused in those that are read.
    pub(in crate::http) fn schemas<'a>(
        &self,
        messages: impl Iterator<Item = &'a str>,
        read: &BTreeSet<&str>,
    ) -> Map<String, Value> {
        let strict = self.closure(read.iter().map(ToString::to_string));
        let all = self.closure(messages.map(str::to_owned));
        let schema = |name: String| {
            let schema = match (self.messages.get(&name), self.enums.get(&name)) {
                (Some(message), _) => self.object(message, strict.contains(&name)),
                (None, Some(of)) => alternatives(of),
                (None, None) => Value::Null,
            };
            (name, schema)
        };
        all.iter().cloned().map(schema).collect()
    }

    /// The schema of a message whose `key` the path gives.
    pub(in crate::http) fn without_key(&self, name: &str) -> Value {
        let Some(message) = self.messages.get(name) else { return Value::Null };
        let mut schema = self.object(message, true);
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("key");
        }
        schema
    }

    /// These types and all that they are made of.
    fn closure(&self, names: impl Iterator<Item = String>) -> BTreeSet<String> {
        let (mut found, mut open) = (BTreeSet::new(), names.collect::<Vec<_>>());
        while let Some(name) = open.pop() {
            let fields =
                self.messages.get(&name).map(|message| message.is.field.as_slice()).unwrap_or_default();
            if found.insert(name) {
                let inner = fields.iter().filter_map(|field| field.type_name().strip_prefix(PACKAGE));
                open.extend(inner.filter(|name| !self.is_map(name)).map(str::to_owned));
                let maps = fields.iter().filter_map(|field| self.map_value(field));
                open.extend(
                    maps.filter_map(|value| Some(value.type_name().strip_prefix(PACKAGE)?.to_owned())),
                );
            }
        }
        found
    }

    fn object(&self, message: &Described<DescriptorProto>, strict: bool) -> Value {
        let property = |(field, about): (&FieldDescriptorProto, &String)| {
            let mut schema = self.field(field);
            if !about.is_empty() {
                schema["description"] = about.as_str().into();
            }
            (field.name().to_owned(), schema)
        };
        let properties: Map<String, Value> =
            message.is.field.iter().zip(&message.parts).map(property).collect();
        let mut schema = json!({ "type": "object", "description": message.about, "properties": properties });
        if strict {
            schema["additionalProperties"] = false.into();
        }
        schema
    }

    fn field(&self, field: &FieldDescriptorProto) -> Value {
        if let Some(value) = self.map_value(field) {
            return json!({ "type": "object", "additionalProperties": one(value) });
        }
        match field.label() {
            Label::Repeated => json!({ "type": "array", "items": one(field) }),
            _ => one(field),
        }
    }

    /// The values of a map, which descriptors have as a list of entries.
    fn map_value(&self, field: &FieldDescriptorProto) -> Option<&FieldDescriptorProto> {
        let name = field.type_name().strip_prefix(PACKAGE).filter(|name| self.is_map(name))?;
        self.messages.get(name)?.is.field.get(1)
    }

    fn is_map(&self, name: &str) -> bool {
        let options = self.messages.get(name).and_then(|message| message.is.options.as_ref());
        options.is_some_and(|options| options.map_entry())
    }
}

/// What stands above each part of a file, by its path in the descriptor.
struct Comments<'a>(BTreeMap<&'a [i32], &'a str>);

impl<'a> Comments<'a> {
    fn of(file: &'a FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        Self(locations.map(|location| (location.path.as_slice(), location.leading_comments())).collect())
    }

    fn at(&self, path: &[i32]) -> String {
        let lines = self.0.get(path).copied().unwrap_or_default().lines().map(str::trim);
        lines.collect::<Vec<_>>().join(" ").trim().to_owned()
    }
}

/// A reference to a message or an enum.
pub(in crate::http) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Any object.
pub(in crate::http) fn object() -> Value {
    json!({ "type": "object" })
}

/// An object of such members, some of which must be there.
pub(in crate::http) fn members(members: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// Problem details (RFC 9457).
pub(super) fn problem() -> Value {
    let text = || json!({ "type": "string" });
    let violation =
        members(&[("field", text()), ("value", text()), ("rule", text())], &["field", "value", "rule"]);
    let mut schema = members(
        &[
            (
                "type",
                json!({ "type": "string", "format": "uri", "description": "Names the kind of problem." }),
            ),
            ("title", json!({ "type": "string", "description": "The kind in words." })),
            ("status", json!({ "type": "integer", "description": "The HTTP status code." })),
            ("detail", json!({ "type": "string", "description": "What is wrong, and what to do." })),
            ("code", json!({ "type": "string", "description": "The error code." })),
            (
                "violations",
                json!({ "type": "array", "items": violation, "description": "Each field that is wrong." }),
            ),
        ],
        &["type", "title", "status", "detail", "code"],
    );
    schema["description"] = "Problem details (RFC 9457).".into();
    schema
}

/// A single value.
fn one(field: &FieldDescriptorProto) -> Value {
    match field.r#type() {
        Type::Bool => json!({ "type": "boolean" }),
        Type::String => json!({ "type": "string" }),
        Type::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::Double | Type::Float => json!({ "type": "number" }),
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
        Type::Uint32 | Type::Fixed32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => {
            json!({ "type": "string", "pattern": "^-?[0-9]{1,19}$" })
        }
        Type::Uint64 | Type::Fixed64 => json!({ "type": "string", "pattern": "^[0-9]{1,20}$" }),
        Type::Message | Type::Group | Type::Enum => match field.type_name() {
            ".google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
            ".google.protobuf.Duration" => {
                json!({ "type": "string", "pattern": "^-?[0-9]{1,9}(\\.[0-9]{1,9})?s$", "examples": ["10s"] })
            }
            name => reference(name.strip_prefix(PACKAGE).unwrap_or(name)),
        },
    }
}

fn alternatives(of: &Described<EnumDescriptorProto>) -> Value {
    let names: Vec<&str> = of.is.value.iter().map(|value| value.name()).collect();
    let told = names.iter().zip(&of.parts).map(|(name, about)| format!("`{name}`: {about}"));
    let about = format!("{}\n\n{}", of.about, told.collect::<Vec<_>>().join("\n\n"));
    json!({ "type": "string", "enum": names, "description": about })
}
