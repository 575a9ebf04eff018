//! How operators steer what runs.

use std::net::SocketAddr;

use waypost_proto::{
    error::{Error, Violation},
    v1::{self, InstanceState},
};

use super::{checks::Checks, registry::begin_drain};
use crate::server::Plane;

/// Takes an instance out of rotation, or puts it back. A caller that waits no more ends the wait, not the drain.
pub(crate) async fn drain(
    plane: &Plane,
    request: v1::DrainRequest,
    peer: Option<SocketAddr>,
) -> Result<v1::DrainResponse, Error> {
    let mut checks = Checks::default();
    let key = checks.key(request.key.as_ref());
    let deadline = checks.deadline("deadline", request.deadline.as_ref());
    checks.reason(&request.reason);
    let actor = checks.client(&request.client, peer);
    if request.cancel && request.wait {
        let rule = "must not be set together with cancel: there is nothing to wait for";
        checks.take::<()>(Err(Violation::new("wait", true, rule)));
    }
    let (key, deadline) = checks.finish(key.zip(deadline))?;
    if request.cancel {
        let revision = plane.registry.set_draining(&key, 0, false, &request.reason, &actor).await?;
        return Ok(v1::DrainResponse { revision, drain: None });
    }
    let (barrier, _) = begin_drain(plane, &key, 0, &request.reason, &actor).await?;
    let mut drain = None;
    if request.wait {
        drain = tokio::select! {
            outcome = plane.replicas.wait_drained(&barrier, deadline) => Some(outcome),
            () = plane.closing() => return Err(plane.going_away()),
        };
    }
    Ok(v1::DrainResponse { revision: barrier.revision, drain })
}

/// Overrides an instance's state for a time, or ends an override.
pub(crate) async fn set_override(
    plane: &Plane,
    request: v1::OverrideRequest,
    peer: Option<SocketAddr>,
) -> Result<v1::OverrideResponse, Error> {
    let mut checks = Checks::default();
    let key = checks.key(request.key.as_ref());
    let ttl = checks.override_ttl(request.ttl.as_ref());
    checks.reason(&request.reason);
    let actor = checks.client(&request.client, peer);
    let state = checks.take(match InstanceState::try_from(request.state) {
        Ok(InstanceState::Unspecified) => Ok(None),
        Ok(state @ (InstanceState::Up | InstanceState::Down)) => Ok(Some(state)),
        Ok(other) => Err(not_a_word(other.as_str_name())),
        Err(_) => Err(not_a_word(&request.state.to_string())),
    });
    let (key, (ttl, state)) = checks.finish(key.zip(ttl.zip(state)))?;
    let word = state.map(|state| (state, ttl, request.reason));
    let (instance, revision) = plane.registry.set_override(&key, word, &actor).await?;
    Ok(v1::OverrideResponse { instance: Some(instance), revision })
}

/// Waits until every live proxy has applied a revision.
pub(crate) async fn wait_applied(
    plane: &Plane,
    request: v1::WaitAppliedRequest,
) -> Result<v1::WaitAppliedResponse, Error> {
    let mut checks = Checks::default();
    let deadline = checks.deadline("deadline", request.deadline.as_ref());
    let view = plane.registry.view();
    let newest = view.revision();
    if request.revision > newest {
        let rule = format!("must be at most the newest revision, which is {newest}; 0 stands for it");
        checks.take::<()>(Err(Violation::new("revision", request.revision, rule)));
    }
    let deadline = checks.finish(deadline)?;
    let revision = if request.revision == 0 { newest } else { request.revision };
    let everywhere = tokio::select! {
        everywhere = plane.replicas.wait_applied(revision, deadline) => everywhere?,
        () = plane.closing() => return Err(plane.going_away()),
    };
    Ok(v1::WaitAppliedResponse {
        revision,
        watermark: everywhere.watermark.max(revision),
        proxies: u32::try_from(everywhere.proxies).unwrap_or(u32::MAX),
    })
}

fn not_a_word(value: &str) -> Violation {
    Violation::new("state", value, "must be UP or DOWN, or unspecified to end the override")
}
