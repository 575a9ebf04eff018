//! Sends copies of requests to mirrors (see [`crate::rule`]).
//!
//! A copy is a request of its own, in a task of its own, over the same connections as all others, and within the
//! proxy's own limits. It is in flight to its instance, so that a drain waits for it. Its answer is thrown away. It is
//! given up where its body breaks off (see [`super::body_copy`]), and where there is no answer within the response
//! timeout from when the request's own instance had the whole body: unlike a client, nobody else would ever give up.
//!
//! How many may be under way is bounded for each worker: a mirror that is slow, or has no instance that answers, costs
//! no more than that. Where there are as many, a copy is not made at all, and counted as dropped.
//!
//! Deliberately absent: copies of requests that ask to switch protocols, and logs, as nothing on a request's way has
//! any; what became of copies is a metric.

use std::{cell::Cell, future::pending, rc::Rc, time::Instant};

use tokio::time::sleep;

use super::{attempt::Attempts, draft::Draft};
use crate::{
    metrics::Mirrored,
    rule::Mirror,
    serve::Worker,
    table::{
        Target,
        declared::{Backend, BackendRef},
    },
};

/// How many copies one worker has under way at most. With what each may hold of a body that is 8 MiB and a frame for
/// each.
const MOST_UNDER_WAY: usize = 128;

/// How many copies a worker has under way.
#[derive(Default)]
pub(crate) struct MirrorPlaces(Rc<Cell<usize>>);

/// One of these, until it is dropped.
struct Place(Rc<Cell<usize>>);

impl MirrorPlaces {
    fn take(&self) -> Option<Place> {
        let taken = self.0.get();
        (taken < MOST_UNDER_WAY).then(|| {
            self.0.set(taken + 1);
            Place(Rc::clone(&self.0))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Sends copies of a request, none of which was sent yet, to the mirrors whose turn it is. Nothing is waited for.
pub(super) fn send(worker: &Rc<Worker>, mirrors: &[Mirror], draft: &Draft) {
    for mirror in mirrors {
        if !mirror.due(|below| worker.rng.borrow_mut().u64(..below)) {
            continue;
        }
        let Ok(reference) = &mirror.to else {
            worker.metrics.mirrored(Mirrored::Failed);
            continue;
        };
        let Some(place) = worker.mirrors.take() else {
            worker.metrics.mirrored(Mirrored::Dropped);
            continue;
        };
        let Some(copy) = draft.copied() else { continue };
        tokio::task::spawn_local(carry(Rc::clone(worker), place, reference.clone(), copy));
    }
}

async fn carry(worker: Rc<Worker>, _place: Place, reference: BackendRef, mut copy: Draft) {
    let original = copy.body().and_then(|body| body.original());
    let late = async {
        match original {
            None => pending().await,
            Some(original) if original.is_whole().await => sleep(worker.config.timeouts.response).await,
            Some(_) => {}
        }
    };
    let answered = tokio::select! {
        biased;
        answered = ask(&worker, &reference, &mut copy) => answered.is_some(),
        () = late => false,
    };
    worker.metrics.mirrored(if answered { Mirrored::Answered } else { Mirrored::Failed });
}

async fn ask(worker: &Rc<Worker>, reference: &BackendRef, copy: &mut Draft) -> Option<()> {
    let table = worker.table()?;
    let Backend { service, endpoints } = table.backend(reference)?;
    let route_id = "".into();
    let target = Target { service, route_id: &route_id, strip: 0, endpoints };
    let mut attempts = Attempts::new(worker, Instant::now()).of_copy();
    loop {
        if let Some(outcome) = attempts.run(&target, copy).await {
            outcome.ok()?.discard(worker);
            return Some(());
        }
        if !attempts.go_back() {
            return None;
        }
    }
}
