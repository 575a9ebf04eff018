//! When to store: soon after each change, a few times a second at most, now and then so that the file's age
//! tells when it was last known to be right, and at the end. Off the threads that serve.
//!
//! What says nothing yet is not stored: a proxy that starts from it would believe to be ready.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Saved, StateDir};
use crate::{metrics::Metrics, subscription::Status};

/// The least time between two writes.
const PACE: Duration = Duration::from_millis(200);
/// Of a large state, writing takes no more than one part in this many of the time.
const SHARE: u32 = 20;
/// How often what has not changed is stored again while a control plane is connected, which would have said
/// so if it were no longer right.
const CONFIRM: Duration = Duration::from_secs(300);

/// Stores what `latest` holds until `stop`, and once more then.
pub async fn run(
    dir: Arc<StateDir>,
    mut latest: watch::Receiver<Option<Saved>>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { break },
            () = sleep(CONFIRM) => if status.view().connected_to.is_none() { continue },
            () = stop.cancelled() => break,
        }
        let began = Instant::now();
        store(&dir, &mut latest, &metrics).await;
        tokio::select! {
            () = sleep(PACE.max(began.elapsed() * SHARE)) => {}
            () = stop.cancelled() => break,
        }
    }
    // While no control plane is connected the file keeps its age, unless it lacks something.
    if latest.has_changed().unwrap_or(true) || status.view().connected_to.is_some() {
        store(&dir, &mut latest, &metrics).await;
    }
}

async fn store(dir: &Arc<StateDir>, latest: &mut watch::Receiver<Option<Saved>>, metrics: &Metrics) {
    let Some(saved) = latest.borrow_and_update().clone().filter(Saved::says_anything) else { return };
    let dir = Arc::clone(dir);
    let stored = spawn_blocking(move || dir.save(&saved, SystemTime::now())).await;
    match stored {
        Ok(Ok(())) => metrics.control.state_saves.inc(),
        Ok(Err(error)) => {
            metrics.control.state_save_failures.inc();
            tracing::error!(%error, "the state cannot be stored, what was stored before is kept");
        }
        Err(error) => {
            metrics.control.state_save_failures.inc();
            tracing::error!(%error, "storing the state failed by a defect");
        }
    }
}
