//! How instances come, stay and go.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use waypost_proto::{
    error::{Error, ErrorCode, Violation},
    instance::{InstanceSpec, ttl_from_wire},
    load::Load,
    name::InstanceKey,
    time::wire_duration,
    v1,
};

use super::checks::Checks;
use crate::{
    hub::Barrier,
    registry::{Beat, BeatResult, Health, reserved},
    server::Plane,
};

const MOST_BEATS: usize = 10_000;
/// What of a health check's words is kept, in characters.
const LONGEST_REASON: usize = 1_024;
/// A heartbeat is due this many times within a lease.
const BEATS_PER_LEASE: u32 = 3;

/// A deregistration, checked.
struct Departure {
    key: InstanceKey,
    epoch: u64,
    /// How long to drain first.
    drain: Option<Duration>,
    reason: String,
    actor: String,
}

/// Registers an instance.
pub(crate) async fn register(
    plane: &Plane,
    request: v1::RegisterRequest,
    peer: Option<SocketAddr>,
) -> Result<v1::RegisterResponse, Error> {
    let mut checks = Checks::default();
    let spec = checks.take_all("instance", InstanceSpec::from_wire(&request.instance.unwrap_or_default()));
    if let Some(spec) = &spec {
        checks.take(reserved::check(&spec.key).map_err(|violation| violation.under("instance")));
    }
    let ttl = checks.take(ttl_from_wire(request.ttl.as_ref()));
    let client = checks.client(&request.client, peer);
    let (spec, ttl) = checks.finish(spec.zip(ttl))?;
    let granted = plane.registry.register(spec, ttl, &client).await?;
    Ok(v1::RegisterResponse {
        key: Some(granted.key.to_wire()),
        epoch: granted.epoch,
        ttl: Some(wire_duration(granted.ttl)),
        heartbeat_interval: Some(wire_duration(granted.ttl / BEATS_PER_LEASE)),
        revision: granted.revision,
        conflicts: granted.conflicts,
    })
}

/// Removes an instance, after draining it if asked.
pub(crate) async fn deregister(
    plane: &Arc<Plane>,
    request: v1::DeregisterRequest,
    peer: Option<SocketAddr>,
) -> Result<v1::DeregisterResponse, Error> {
    let mut checks = Checks::default();
    let key = checks.key(request.key.as_ref());
    let deadline = checks.deadline("drain_deadline", request.drain_deadline.as_ref());
    checks.reason(&request.reason);
    let actor = checks.client(&request.client, peer);
    let (key, deadline) = checks.finish(key.zip(deadline))?;
    let departure = Departure {
        key,
        epoch: request.epoch,
        drain: request.drain.then_some(deadline),
        reason: request.reason,
        actor,
    };
    let departing = plane.clone();
    // A client that goes away while its instance drains has still asked for it to be removed.
    plane.detached(async move { depart(&departing, departure).await }).await
}

/// Renews leases: the answer to one message of beats.
pub(crate) async fn heartbeat(
    plane: &Plane,
    request: v1::HeartbeatRequest,
) -> Result<v1::HeartbeatResponse, Error> {
    let count = request.beats.len();
    if count > MOST_BEATS {
        let rule = format!("must be at most {MOST_BEATS}; send the rest in another message");
        return Err(Violation::new("beats", format!("{count} entries"), rule).into());
    }
    let beats = request.beats.into_iter().enumerate().map(|(at, beat)| {
        let key = InstanceKey::from_wire(beat.key.as_ref())
            .and_then(|key| reserved::check(&key).map(|()| key))
            .map_err(|violation| violation.under(&format!("beats[{at}].key")))?;
        let health = beat.health.map(|report| {
            let reason = report.reason.chars().take(LONGEST_REASON).collect();
            Health { healthy: report.healthy, reason }
        });
        let load = beat.load.as_ref().map(Load::from_wire).transpose();
        let load = load.map_err(|violation| violation.under(&format!("beats[{at}].load")))?;
        Ok(Beat { key, epoch: beat.epoch, health, load })
    });
    let beats: Vec<Beat> = beats.collect::<Result<_, Violation>>()?;
    let results = plane.registry.heartbeat(beats).await?;
    let result = |result: BeatResult| {
        let outcome = result.outcome.as_str_name().trim_start_matches("BEAT_OUTCOME_").to_ascii_lowercase();
        plane.metrics.heartbeats.with_label_values(&[&outcome]).inc();
        v1::BeatResult {
            key: Some(result.key.to_wire()),
            epoch: result.epoch,
            outcome: result.outcome.into(),
        }
    };
    Ok(v1::HeartbeatResponse { results: results.into_iter().map(result).collect(), going_away: false })
}

/// Drains if asked, then removes.
async fn depart(plane: &Plane, departure: Departure) -> Result<v1::DeregisterResponse, Error> {
    let Departure { key, epoch, drain, reason, actor } = departure;
    let Some(deadline) = drain else {
        let revision = plane.registry.deregister(&key, epoch, &reason, &actor).await?;
        return Ok(v1::DeregisterResponse { revision, drain: None });
    };
    let (barrier, epoch) = begin_drain(plane, &key, epoch, &reason, &actor).await?;
    let outcome = plane.replicas.wait_drained(&barrier, deadline).await;
    if !outcome.complete {
        tracing::warn!(
            instance = %key,
            in_flight = outcome.in_flight,
            waiting_for = ?outcome.waiting_for,
            "the drain deadline has passed, the instance is removed"
        );
    }
    let revision = match plane.registry.deregister(&key, epoch, &reason, &actor).await {
        Ok(revision) => revision,
        // Somebody else has removed it meanwhile, or its lease ran out: it is gone all the same.
        Err(error) if error.code == ErrorCode::NotFound => plane.registry.view().revision(),
        Err(error) => return Err(error),
    };
    Ok(v1::DeregisterResponse { revision, drain: Some(outcome) })
}

/// Marks an instance as draining; what to wait for then, and the epoch that was meant.
pub(super) async fn begin_drain(
    plane: &Plane,
    key: &InstanceKey,
    epoch: u64,
    reason: &str,
    actor: &str,
) -> Result<(Barrier, u64), Error> {
    let revision = plane.registry.set_draining(key, epoch, true, reason, actor).await?;
    let there = || plane.registry.view().instance(key).map_or(0, |instance| instance.epoch);
    let epoch = if epoch == 0 { there() } else { epoch };
    Ok((Barrier { key: key.clone(), epoch, revision }, epoch))
}
