//! The two directions of a proxy's stream: frames out, reports in.
//!
//! A [`Subscription`] is asked for the next frame when the connection can take one; it keeps nothing but
//! its place in a full snapshot whose chunks it hands out. [`Reports`] says who the proxy is to the hub.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::watch;
use waypost_proto::{
    error::{Error, Violation},
    frame::Frame,
    name::InstanceKey,
    v1,
};

use super::{
    Hub, Now,
    core::Opened,
    fleet::{Line, SessionId},
    scope::{Due, FullFrames},
    sightings::Report,
};

/// The most instances that a report may name.
const MOST_DRAINING: usize = 100_000;
/// What of a reason is kept.
const MOST_REASON: usize = 1_024;

/// Frames for one proxy. Dropping it ends the session.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    session: SessionId,
    line: Line,
    changed: watch::Receiver<u64>,
    chunks: Option<(Arc<FullFrames>, usize)>,
}

impl Subscription {
    pub(super) fn new(hub: Arc<Hub>, opened: &Opened) -> Self {
        let changed = opened.changed.clone();
        Self { hub, session: opened.session, line: opened.line.clone(), changed, chunks: None }
    }

    /// The next frame, as soon as there is something to send; `None` when the session is over.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if self.line.closed.is_cancelled() {
                return None;
            }
            if let Some(frame) = self.next_chunk() {
                return Some(frame);
            }
            self.changed.borrow_and_update();
            // A statement of its own: the lock is not held over what follows.
            let due = self.hub.core.lock().due(self.session)?;
            match due {
                Due::Delta(delta) => {
                    let metrics = &self.hub.metrics;
                    let frame = delta.frame(|| metrics.encodes.with_label_values(&["delta"]).inc());
                    metrics.sent("delta", frame.len());
                    return Some(frame);
                }
                Due::Full(full) => self.chunks = Some((self.encoded(full).await, 0)),
                Due::Nothing => tokio::select! {
                    changed = self.changed.changed() => changed.ok()?,
                    () = self.line.nudge.notified() => {}
                    () = self.line.closed.cancelled() => {}
                },
            }
        }
    }

    fn next_chunk(&mut self) -> Option<Frame> {
        let (full, at) = self.chunks.take()?;
        let frames = full.ready()?;
        let frame = frames.get(at)?.clone();
        if at + 1 < frames.len() {
            self.chunks = Some((full, at + 1));
        }
        self.hub.metrics.sent("chunk", frame.len());
        Some(frame)
    }

    /// Encodes a full snapshot where it does not hold up other tasks.
    async fn encoded(&self, full: Arc<FullFrames>) -> Arc<FullFrames> {
        if full.ready().is_some() {
            return full;
        }
        let metrics = self.hub.metrics.clone();
        let encoding = full.clone();
        let encode = move || {
            encoding.encode(|| metrics.encodes.with_label_values(&["full"]).inc());
        };
        if let Err(error) = tokio::task::spawn_blocking(encode).await {
            tracing::error!(%error, "a snapshot could not be encoded, the stream ends");
            self.line.closed.cancel();
        }
        full
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.line.closed.cancel();
    }
}

/// What a proxy says. Dropping it ends the session.
#[derive(Debug)]
pub struct Reports {
    hub: Arc<Hub>,
    proxy: Arc<str>,
    session: SessionId,
    line: Line,
}

impl Reports {
    pub(super) fn new(hub: Arc<Hub>, proxy: Arc<str>, opened: &Opened) -> Self {
        Self { hub, proxy, session: opened.session, line: opened.line.clone() }
    }

    /// The proxy's id.
    pub fn proxy(&self) -> &str {
        &self.proxy
    }

    /// Resolves when the session is over.
    pub async fn closed(&self) {
        self.line.closed.cancelled().await;
    }

    /// Whether a newer stream of the same proxy has taken this one's place.
    pub fn replaced(&self) -> bool {
        self.hub.core.lock().is_replaced(self.session)
    }

    /// The proxy serves by a revision.
    ///
    /// # Errors
    /// A field breaks a rule; nothing has changed.
    pub fn applied(&self, applied: v1::Applied) -> Result<(), Error> {
        let in_flight = in_flight(&applied.draining)?;
        let position = applied.position.unwrap_or_default();
        let reported = self.hub.core.lock().applied(self.session, position, in_flight, Now::read());
        let Some(reported) = reported else { return Ok(()) };
        for sample in &reported.samples {
            self.hub.metrics.commit_to_applied.observe(sample.as_secs_f64());
        }
        if reported.resync {
            tracing::warn!(proxy = %self.proxy, "digest differs, everything is sent again");
            self.hub.metrics.resyncs.inc();
        }
        self.hub.moved();
        Ok(())
    }

    /// What the proxy sees of instances.
    ///
    /// # Errors
    /// A field breaks a rule; nothing has changed.
    pub fn observed(&self, observed: v1::Observed) -> Result<(), Error> {
        let report = Report::check(observed)?;
        // A stream whose place another one took has nothing to say.
        if !self.line.closed.is_cancelled() {
            self.hub.sightings.lock().take(&self.proxy, report, Now::read().monotonic);
        }
        Ok(())
    }

    /// The proxy could not take a revision.
    pub fn rejected(&self, mut rejected: v1::Rejected) {
        if let Some((at, _)) = rejected.reason.char_indices().nth(MOST_REASON) {
            rejected.reason.truncate(at);
        }
        if self.hub.core.lock().rejected(self.session, &rejected) {
            let v1::Rejected { revision, reason, .. } = rejected;
            tracing::warn!(proxy = %self.proxy, revision, reason, "a proxy rejected a change");
            self.hub.metrics.rejections.inc();
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.line.closed.cancel();
        // A statement of its own: the lock is not held over what follows.
        let was_there = self.hub.core.lock().disconnect(self.session, Now::read());
        if was_there {
            self.hub.sightings.lock().forget(&self.proxy);
            self.hub.moved();
        }
    }
}

fn in_flight(draining: &[v1::InFlight]) -> Result<HashMap<(InstanceKey, u64), u64>, Error> {
    if draining.len() > MOST_DRAINING {
        let rule = format!("must be at most {MOST_DRAINING}");
        return Err(Violation::new("applied.draining", format!("{} entries", draining.len()), rule).into());
    }
    let mut counts = HashMap::with_capacity(draining.len());
    for entry in draining.iter().filter(|entry| entry.count > 0) {
        let key = InstanceKey::from_wire(entry.key.as_ref())
            .map_err(|violation| violation.under("applied.draining.key"))?;
        *counts.entry((key, entry.epoch)).or_insert(0_u64) += entry.count;
    }
    Ok(counts)
}
