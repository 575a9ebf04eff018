//! `waypost get` and `describe`: what is declared, and what has become of it.
//!
//! For programs a resource is a manifest with its status, as Kubernetes has it, so that what was got can be edited and
//! applied again. What secrets hold is never shown.

use std::time::SystemTime;

use serde_json::{Value, json};
use waypost_proto::{
    resource::{Kind, ResourceKey},
    v1::{ListResourcesRequest, Resource},
};

use crate::{
    api,
    args::{
        Global,
        resource::{DescribeArgs, GetArgs},
    },
    failure::{Exit, Failure},
    manifest::{self, secret},
    output::{
        Output,
        condition::{self, Condition},
        table::{self, Cell, Colour, Table},
        text,
    },
};

/// Shows resources.
///
/// # Errors
/// One that was named is not there.
pub(super) async fn get(global: &Global, output: &Output, args: GetArgs) -> Result<(), Failure> {
    let names = args.target.names(&args.names).map_err(|rule| Failure::new(Exit::Usage, rule))?;
    let found = find(global, args.target.kind, &names).await?;
    let shown: Vec<Shown> = found.iter().map(Shown::of).collect::<Result<_, _>>()?;
    if output.format.is_table() {
        if shown.is_empty() {
            let what = args.target.kind.map_or_else(|| "resource".to_owned(), |kind| kind.to_string());
            output.note(format!("no {what} is declared; declare with: waypost apply -f FILE"));
        }
        let now = SystemTime::now();
        return output.result(&(), |wide| listed(&shown, now, wide));
    }
    match &shown[..] {
        [only] if names.len() == 1 => output.document(&only.document()),
        several => {
            let items: Vec<Value> = several.iter().map(Shown::document).collect();
            output.document(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
        }
    }
}

/// Shows one resource.
///
/// # Errors
/// It is not there.
pub(super) async fn describe(global: &Global, output: &Output, args: DescribeArgs) -> Result<(), Failure> {
    let key = args.one.key(api::namespace(global)).map_err(|rule| Failure::new(Exit::Usage, rule))?;
    let found = find(global, Some(key.kind()), &[key.name().to_owned()]).await?;
    let resource = found.iter().find(|resource| has_key(resource, &key)).ok_or_else(|| absent(&key))?;
    let shown = Shown::of(resource)?;
    if !output.format.is_table() {
        return output.document(&shown.document());
    }
    output.text(&described(&shown, SystemTime::now(), output.colour())?)
}

/// The resources of a kind with these names; all of them where none is named.
async fn find(global: &Global, kind: Option<Kind>, names: &[String]) -> Result<Vec<Resource>, Failure> {
    let client = api::client(global)?;
    // Lists show all namespaces unless one is given; a name alone is one in `default`.
    let namespace = match (&global.namespace, names) {
        (Some(namespace), _) => namespace.as_str(),
        (None, []) => "",
        (None, _) => "default",
    };
    let filter = |name: &str| ListResourcesRequest {
        kind: kind.map(|kind| kind.name().to_owned()).unwrap_or_default(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let Some(kind) = kind.filter(|_| !names.is_empty()) else {
        return Ok(client.list_resources(filter("")).await?.resources);
    };
    let mut found = Vec::new();
    for name in names {
        let key = ResourceKey::new(kind, namespace, name).map_err(|violation| {
            Failure::new(Exit::Usage, format!("the name {name:?} {}", violation.rule))
        })?;
        let answer = client.list_resources(filter(name)).await?.resources;
        if answer.is_empty() {
            return Err(absent(&key));
        }
        found.extend(answer);
    }
    Ok(found)
}

fn has_key(resource: &Resource, key: &ResourceKey) -> bool {
    resource.key.as_ref().is_some_and(|found| *found == key.to_wire())
}

/// Says so, and how to see what there is.
pub(super) fn absent(key: &ResourceKey) -> Failure {
    let kind = key.kind().name().to_lowercase();
    Failure::new(Exit::NotFound, format!("there is no {key}"))
        .way_out(format!("see what there is with: waypost get {kind}; what there was: waypost history"))
}

/// A resource, read.
struct Shown<'a> {
    resource: &'a Resource,
    /// Without what a secret holds.
    manifest: Value,
    status: Value,
}

impl<'a> Shown<'a> {
    fn of(resource: &'a Resource) -> Result<Self, Failure> {
        let mut manifest = manifest::parse(&resource.manifest)?;
        secret::redact(&mut manifest);
        let status =
            if resource.status.is_empty() { Value::Null } else { manifest::parse(&resource.status)? };
        Ok(Self { resource, manifest, status })
    }

    /// As Kubernetes has it.
    fn document(&self) -> Value {
        let mut document = self.manifest.clone();
        document["metadata"]["generation"] = self.resource.generation.into();
        if let Some(created) = text::stamp(self.resource.created_at.as_ref()) {
            let created = humantime::format_rfc3339_seconds(created).to_string();
            document["metadata"]["creationTimestamp"] = created.into();
        }
        if !self.status.is_null() {
            document["status"] = self.status.clone();
        }
        document
    }

    fn hostnames(&self) -> String {
        let spec = &self.manifest["spec"];
        let own = spec["hostnames"].as_array().into_iter().flatten();
        let listeners = spec["listeners"].as_array().into_iter().flatten();
        let all = own.chain(listeners.map(|listener| &listener["hostname"]));
        all.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
    }
}

fn listed(shown: &[Shown<'_>], now: SystemTime, wide: bool) -> Table {
    let header = [
        "KIND",
        "NAMESPACE",
        "NAME",
        "STATUS",
        "HOSTNAMES",
        "AGE",
        "GENERATION",
        "REVISION",
        "CHANGED",
        "BY",
    ];
    let columns = if wide { header.len() } else { 6 };
    let mut table = Table::new(&header[..columns]);
    for one in shown {
        let key = one.resource.key.clone().unwrap_or_default();
        let mut row: Vec<Cell> = vec![
            key.kind.into(),
            key.namespace.into(),
            key.name.into(),
            condition::summary(&one.status),
            one.hostnames().into(),
            text::age(now, text::stamp(one.resource.created_at.as_ref())).into(),
            one.resource.generation.to_string().into(),
            one.resource.revision.to_string().into(),
            text::age(now, text::stamp(one.resource.applied_at.as_ref())).into(),
            one.resource.actor.as_str().into(),
        ];
        row.truncate(columns);
        table.row(row);
    }
    table
}

fn described(shown: &Shown<'_>, now: SystemTime, colour: bool) -> Result<String, Failure> {
    let resource = shown.resource;
    let when = |stamp: Option<&pbjson_types::Timestamp>| match text::stamp(stamp) {
        Some(time) => format!("{} UTC, {} ago", text::clock(time), text::age(now, Some(time))),
        None => String::new(),
    };
    let mut pairs: Vec<(&'static str, Cell)> = vec![
        ("resource", text::resource(resource.key.as_ref()).into()),
        ("generation", format!("{}, at revision {}", resource.generation, resource.revision).into()),
        ("created", when(resource.created_at.as_ref()).into()),
        ("changed", when(resource.applied_at.as_ref()).into()),
        ("by", resource.actor.as_str().into()),
        ("status", condition::summary(&shown.status)),
    ];
    for (name, pointer) in [("labels", "/metadata/labels"), ("annotations", "/metadata/annotations")] {
        let entries = shown.manifest.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
        let entries = entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
        let entries: Vec<String> = entries.collect();
        if !entries.is_empty() {
            pairs.push((name, entries.join(", ").into()));
        }
    }
    let mut said = Table::of_pairs(pairs).render(colour);
    let mut body = shown.manifest.clone();
    if let Some(fields) = body.as_object_mut() {
        for aside in ["apiVersion", "kind", "metadata"] {
            fields.remove(aside);
        }
    }
    said.push('\n');
    for line in manifest::yaml(&body)?.lines() {
        said.push_str(&table::harmless(line));
        said.push('\n');
    }
    let conditions = condition::all(&shown.status);
    if !conditions.is_empty() {
        said.push('\n');
        said.push_str(&conditions_table(&conditions).render(colour));
    }
    Ok(said)
}

fn conditions_table(conditions: &[Condition]) -> Table {
    let mut table = Table::new(&["OF", "CONDITION", "STATUS", "REASON", "MESSAGE"]);
    for condition in conditions {
        let colour = if condition.is_good() { Colour::Green } else { Colour::Red };
        table.row(vec![
            condition.of.as_str().into(),
            condition.kind.as_str().into(),
            Cell::coloured(&condition.status, Some(colour)),
            condition.reason.as_str().into(),
            condition.message.as_str().into(),
        ]);
    }
    table
}
