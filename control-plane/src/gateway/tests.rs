//! What compiling promises: the specification's words, step by step the same as from scratch, and no work for what did
//! not change.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use waypost_proto::{
    name::ServiceKey,
    resource::{self, ResourceKey},
    v1::{Document, RuleRoute, declared_entry::Kind},
};

use super::{
    Compiler, Declared, Step,
    status::{Fleet, Reader},
};

mod attaching;
mod order;
mod references;
mod rules;
mod traffic;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// What documents declare, each one second after the one before.
fn declared(yaml: &str) -> Vec<Arc<Declared>> {
    let document = Document { source: "test".into(), text: yaml.into() };
    let parsed = resource::parse(&[document]).unwrap_or_else(|findings| panic!("{findings:#?}"));
    let one = |(age, parsed): (u64, resource::Parsed)| {
        Arc::new(Declared {
            manifest: parsed.manifest,
            generation: 1,
            created_at: at(age),
            applied_at: at(age),
        })
    };
    (1..).zip(parsed).map(one).collect()
}

fn key(kind: &str, namespace: &str, name: &str) -> ResourceKey {
    ResourceKey::new(kind.parse().expect("a kind"), namespace, name).expect("a name")
}

struct Bench {
    compiler: Compiler,
    revision: u64,
    services: Vec<ServiceKey>,
    fleet: Fleet,
}

impl Bench {
    fn of(yaml: &str) -> Self {
        let fleet = Fleet { watermark: u64::MAX, proxies: 1, ..Fleet::default() };
        let mut bench = Self { compiler: Compiler::default(), revision: 0, services: Vec::new(), fleet };
        bench.put(yaml);
        bench
    }

    fn put(&mut self, yaml: &str) -> Step {
        let changes = declared(yaml).into_iter().map(|one| (one.key().clone(), Some(one))).collect();
        self.revision += 1;
        self.compiler.apply(changes, self.revision)
    }

    fn remove(&mut self, kind: &str, name: &str) -> Step {
        self.revision += 1;
        self.compiler.apply(vec![(key(kind, "default", name), None)], self.revision)
    }

    fn register(mut self, service: &str) -> Self {
        self.services.push(service.parse().expect("a service's name"));
        self
    }

    /// What a snapshot has, by id.
    fn entries(&self) -> BTreeMap<String, Kind> {
        let entries = self.compiler.shown().entries.iter();
        entries.map(|(id, entry)| (id.to_string(), entry.kind.clone().expect("a kind"))).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.entries().into_keys().collect()
    }

    fn route(&self, id: &str) -> RuleRoute {
        match self.entries().remove(id) {
            Some(Kind::Route(route)) => route,
            other => panic!("{id} is no route: {other:?}"),
        }
    }

    fn status(&self, kind: &str, name: &str) -> Value {
        let registered = |service: &ServiceKey| self.services.contains(service);
        let reader = Reader::new(self.compiler.shown(), self.fleet.clone(), &registered);
        reader.status(&key(kind, "default", name)).expect("a status")
    }

    /// `status reason` of a condition of the first parent of a route.
    fn parent(&self, kind: &str, name: &str, condition: &str) -> String {
        said(&self.status(kind, name)["parents"][0]["conditions"], condition)
    }

    fn listener(&self, gateway: &str, at: usize, condition: &str) -> String {
        said(&self.status("Gateway", gateway)["listeners"][at]["conditions"], condition)
    }
}

/// `status reason` of a condition.
fn said(conditions: &Value, kind: &str) -> String {
    let conditions = conditions.as_array().expect("conditions");
    let one = conditions.iter().find(|one| one["type"] == kind).expect("the condition");
    format!("{} {}", one["status"].as_str().expect("a status"), one["reason"].as_str().expect("a reason"))
}
