//! The fake control plane's declared resources: what is applied is kept, with a status and a past.
//!
//! It reads manifests with the contract's own parser, so that the program meets the real one's refusals.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tonic::{Request, Response, Status};
use waypost_proto::{
    error::{Error, ErrorCode},
    resource::{self, ResourceKey, finding},
    v1::{self, ApplyOutcome, resources_server::Resources},
};

/// Declared resources. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    kept: Arc<Mutex<BTreeMap<ResourceKey, Vec<v1::Generation>>>>,
    /// A proxy that applies nothing.
    stuck: Option<&'static str>,
}

type Answer<T> = Result<Response<T>, Status>;

fn missing(key: &ResourceKey) -> Status {
    Error::new(ErrorCode::NotFound, format!("there is no {key}")).into()
}

impl Declared {
    pub(crate) fn with_a_stuck_proxy(id: &'static str) -> Self {
        Self { stuck: Some(id), ..Self::default() }
    }

    fn waiting_for(&self, wait: Option<&pbjson_types::Duration>) -> Vec<String> {
        self.stuck.filter(|_| wait.is_some()).map(str::to_owned).into_iter().collect()
    }

    fn put(&self, key: &ResourceKey, manifest: &str, actor: &str, dry_run: bool) -> v1::AppliedResource {
        let mut kept = self.kept.lock().expect("no test panics with it");
        let count = kept.values().map(Vec::len).sum::<usize>() as u64;
        let past = kept.get(key).cloned().unwrap_or_default();
        let before = past.last().map(|last| last.manifest.clone()).unwrap_or_default();
        let generation = past.last().map_or(0, |last| last.generation);
        let (outcome, generation) = match &*before {
            same if same == manifest => (ApplyOutcome::Unchanged, generation),
            "" => (ApplyOutcome::Created, generation + 1),
            _ => (ApplyOutcome::Configured, generation + 1),
        };
        if !dry_run && outcome != ApplyOutcome::Unchanged {
            kept.entry(key.clone()).or_default().push(v1::Generation {
                generation,
                manifest: manifest.to_owned(),
                applied_at: None,
                actor: actor.to_owned(),
                revision: 8 + count,
            });
        }
        v1::AppliedResource {
            key: Some(key.to_wire()),
            outcome: outcome.into(),
            generation,
            before,
            after: manifest.to_owned(),
        }
    }
}

/// What proxies would get: routes without rules.
fn previewed(parsed: &[resource::Parsed]) -> v1::Preview {
    let entry = |one: &resource::Parsed| {
        let key = one.manifest.key();
        let id = format!("httproute/{}/{}", key.namespace(), key.name());
        let route = v1::RuleRoute { name: key.name().to_owned(), ..Default::default() };
        v1::DeclaredEntry { id, kind: Some(v1::declared_entry::Kind::Route(route)) }
    };
    v1::Preview { revision: 8, declared: parsed.iter().map(entry).collect(), ..Default::default() }
}

fn key_of(wire: Option<&v1::ResourceKey>) -> Result<ResourceKey, Status> {
    ResourceKey::from_wire(wire).map_err(|violation| Error::from(violation).into())
}

#[tonic::async_trait]
impl Resources for Declared {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let request = request.into_inner();
        let parsed = resource::parse(&request.documents)
            .map_err(|findings| Status::from(finding::refusal(&findings)))?;
        let put = |one: &resource::Parsed| {
            self.put(one.manifest.key(), one.manifest.json(), &request.actor, request.dry_run)
        };
        let warnings = parsed
            .iter()
            .filter(|one| one.manifest.key().name() == "odd")
            .map(|one| v1::ResourceFinding {
                source: one.source.clone(),
                line: one.line,
                resource: one.manifest.key().to_string(),
                field: "metadata.name".into(),
                reason: "is odd".into(),
                suggestion: "call it even".into(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(v1::ApplyResponse {
            resources: parsed.iter().map(put).collect(),
            warnings,
            revision: if request.dry_run { 0 } else { 8 },
            waiting_for: self.waiting_for(request.wait.as_ref()),
            preview: request.preview.then(|| previewed(&parsed)),
        }))
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Answer<v1::ListResourcesResponse> {
        let filter = request.into_inner();
        let fits = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
        let kept = self.kept.lock().expect("no test panics with it");
        let found = kept.iter().filter(|(key, past)| {
            let there = past.last().is_some_and(|last| !last.manifest.is_empty());
            there
                && fits(&filter.kind, key.kind().name())
                && fits(&filter.namespace, key.namespace())
                && fits(&filter.name, key.name())
        });
        let shown = found.map(|(key, past)| {
            let last = past.last().cloned().unwrap_or_default();
            let status = serde_json::json!({ "parents": [{
                "parentRef": { "name": "waypost" },
                "conditions": [
                    { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "" },
                    { "type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound",
                      "message": "there is no service carts" },
                ],
            }]});
            let routes = matches!(key.kind(), resource::Kind::HttpRoute | resource::Kind::GrpcRoute);
            v1::Resource {
                key: Some(key.to_wire()),
                manifest: last.manifest,
                generation: last.generation,
                actor: last.actor,
                revision: last.revision,
                status: if routes { status.to_string() } else { String::new() },
                ..Default::default()
            }
        });
        Ok(Response::new(v1::ListResourcesResponse { resources: shown.collect(), revision: 8 }))
    }

    async fn delete_resources(
        &self,
        request: Request<v1::DeleteResourcesRequest>,
    ) -> Answer<v1::DeleteResourcesResponse> {
        let request = request.into_inner();
        let mut kept = self.kept.lock().expect("no test panics with it");
        for key in &request.keys {
            let key = key_of(Some(key))?;
            let past = kept.get_mut(&key).ok_or_else(|| missing(&key))?;
            let last = past.last().filter(|last| !last.manifest.is_empty()).ok_or_else(|| missing(&key))?;
            let gone = v1::Generation {
                generation: last.generation + 1,
                actor: request.actor.clone(),
                revision: 20,
                ..Default::default()
            };
            if !request.dry_run {
                past.push(gone);
            }
        }
        let waiting_for = self.waiting_for(request.wait.as_ref());
        Ok(Response::new(v1::DeleteResourcesResponse { revision: 20, warnings: Vec::new(), waiting_for }))
    }

    async fn get_history(&self, request: Request<v1::GetHistoryRequest>) -> Answer<v1::GetHistoryResponse> {
        let key = key_of(request.into_inner().key.as_ref())?;
        let kept = self.kept.lock().expect("no test panics with it");
        let past = kept.get(&key).ok_or_else(|| missing(&key))?;
        Ok(Response::new(v1::GetHistoryResponse { generations: past.iter().rev().cloned().collect() }))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::ApplyResponse> {
        let request = request.into_inner();
        let key = key_of(request.key.as_ref())?;
        let past = self.kept.lock().expect("no test panics with it").get(&key).cloned().unwrap_or_default();
        let wanted = match request.generation {
            0 => past.iter().rev().nth(1),
            number => past.iter().find(|one| one.generation == number),
        };
        let wanted = wanted.ok_or_else(|| missing(&key))?;
        let applied = self.put(&key, &wanted.manifest, &request.actor, request.dry_run);
        Ok(Response::new(v1::ApplyResponse {
            resources: vec![applied],
            warnings: Vec::new(),
            revision: 30,
            waiting_for: self.waiting_for(request.wait.as_ref()),
            preview: None,
        }))
    }
}
