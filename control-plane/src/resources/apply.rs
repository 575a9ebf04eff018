//! Changes: documents are declared, resources deleted, earlier generations brought back.
//!
//! A change that has begun goes on when its caller goes away; waiting for proxies does not.
//!
//! Deliberately absent: what is good and what is not (see `plan`).

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use waypost_proto::{
    error::{Error, ErrorCode, Violation},
    resource::{self, Parsed, ResourceKey, finding::refusal},
    v1::{AppliedResource, ApplyResponse, DeleteResourcesResponse, Document},
};

use super::{
    Change, missing,
    plan::{self, Planned},
    preview,
};
use crate::{
    registry::{Declaration, View},
    server::Plane,
};

/// What an error shows of those that it could name.
const SHOWN: usize = 20;

/// Declares what documents say: all of it, or nothing where something in them is wrong.
///
/// # Errors
/// Names each line that is wrong, why, and what would be right.
pub async fn apply(
    plane: &Arc<Plane>,
    documents: &[Document],
    change: Change,
) -> Result<ApplyResponse, Error> {
    let parsed = resource::parse(documents).map_err(|findings| refusal(&findings))?;
    if parsed.is_empty() {
        let rule = "must hold at least one resource, with apiVersion, kind and metadata.name";
        return Err(Violation::new("documents", format!("{} of them", documents.len()), rule).into());
    }
    declare(plane, parsed, change).await
}

/// Removes resources: all of them or none.
///
/// # Errors
/// One of them is not there, or a resource that stays needs one of them.
pub async fn delete(
    plane: &Arc<Plane>,
    keys: BTreeSet<ResourceKey>,
    change: Change,
) -> Result<DeleteResourcesResponse, Error> {
    if keys.is_empty() {
        return Err(Violation::new("keys", "", "must name at least one resource").into());
    }
    let Change { dry_run, actor, wait, preview: _ } = change;
    let plan = move |view: &View, now: SystemTime| plan::delete(view, &keys, &actor, now);
    let done = carry_out(plane, plan, dry_run, wait).await?;
    let Done { told, revision, waiting_for } = done;
    Ok(DeleteResourcesResponse { revision, warnings: told.warnings, waiting_for })
}

/// Declares a resource again as it was in a generation; 0 means the one before the newest.
///
/// # Errors
/// That generation is not remembered, is a deletion, or cannot work any more.
pub async fn rollback(
    plane: &Arc<Plane>,
    key: &ResourceKey,
    generation: u64,
    change: Change,
) -> Result<ApplyResponse, Error> {
    let view = plane.registry.view();
    let held = view.resource(key).ok_or_else(|| Error::new(ErrorCode::NotFound, missing(key)))?;
    let newest = held.resource.generation;
    let wanted = if generation == 0 { newest.saturating_sub(1) } else { generation };
    let known: Vec<String> =
        held.resource.generations().map(|past| past.generation.to_string()).take(SHOWN).collect();
    let Some(past) = held.resource.generations().find(|past| past.generation == wanted) else {
        let message =
            format!("generation {wanted} of {key} is not remembered; there are {}", known.join(", "));
        return Err(Error::new(ErrorCode::NotFound, message));
    };
    if past.manifest.is_empty() {
        let message =
            format!("generation {wanted} of {key} is its deletion; name another, of {}", known.join(", "));
        return Err(Error::new(ErrorCode::FailedPrecondition, message));
    }
    let source = format!("generation {wanted}");
    let document = Document { source, text: past.manifest.to_string() };
    let parsed = resource::parse(&[document]).map_err(|findings| refusal(&findings))?;
    declare(plane, parsed, change).await
}

async fn declare(plane: &Arc<Plane>, parsed: Vec<Parsed>, change: Change) -> Result<ApplyResponse, Error> {
    let Change { dry_run, actor, wait, preview } = change;
    if preview && !dry_run {
        return Err(Violation::new("preview", "true", "must come with a dry run").into());
    }
    let first: OnceLock<Vec<AppliedResource>> = OnceLock::new();
    let plan = move |view: &View, now: SystemTime| {
        let mut planned = plan::apply(view, &parsed, &actor, now)?;
        let first = first.get_or_init(|| planned.resources.clone());
        plan::across_attempts(first, &mut planned.resources);
        Ok(planned)
    };
    if preview {
        let view = plane.registry.view();
        let Planned { declares, resources, warnings } = plan(&view, SystemTime::now())?;
        let preview = Some(preview::of(view, declares).await?);
        return Ok(ApplyResponse { resources, warnings, preview, ..ApplyResponse::default() });
    }
    let Done { told, revision, waiting_for } = carry_out(plane, plan, dry_run, wait).await?;
    Ok(ApplyResponse {
        resources: told.resources,
        warnings: told.warnings,
        revision,
        waiting_for,
        preview: None,
    })
}

/// A change that is made, or would be.
struct Done {
    told: Planned,
    /// 0 where nothing was to be changed.
    revision: u64,
    waiting_for: Vec<String>,
}

async fn carry_out(
    plane: &Arc<Plane>,
    plan: impl Fn(&View, SystemTime) -> Result<Planned, Error> + Send + Sync + 'static,
    dry_run: bool,
    wait: Option<Duration>,
) -> Result<Done, Error> {
    if dry_run {
        let told = plan(&plane.registry.view(), SystemTime::now())?;
        return Ok(Done { told, revision: 0, waiting_for: Vec::new() });
    }
    let registry = plane.registry.clone();
    let declared = plane.detached(async move {
        let declared = registry.declare(|view, now| {
            let mut told = plan(view, now)?;
            Ok(Declaration { declares: std::mem::take(&mut told.declares), told })
        });
        declared.await
    });
    let (revision, told) = declared.await?;
    let waiting_for = match wait {
        None => Vec::new(),
        Some(deadline) => tokio::select! {
            behind = plane.replicas.waiting_for(revision, deadline) => behind,
            () = plane.closing() => vec!["(this control plane is about to stop)".to_owned()],
        },
    };
    Ok(Done { told, revision, waiting_for })
}
