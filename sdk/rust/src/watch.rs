//! A watch that outlives the connection under it.
//!
//! ```text
//! subscribe ──▶ Initial ──▶ Changed* ──▶ connection lost ──▶ Interrupted ──▶ (back-off) subscribe …
//! ```
//!
//! After an interruption everything comes again as `Initial`, because changes may have been missed.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tonic::Streaming;
use waypost_proto::{name::InstanceKey, v1};

use crate::{
    backoff::Backoff,
    client::discovery,
    control_planes::{ControlPlanes, Turn, no_answer},
    error::{Attempt, Error},
};

/// The stream that [`crate::Client::watch`] gives. It ends only after an error that cannot pass, for
/// example a filter that breaks a rule.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Error>> + Send>>;

/// A step of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// Everything that matches. It replaces all that came before: it is the first event, and the first
    /// after an interruption.
    Initial {
        /// The instances.
        instances: Vec<v1::Instance>,
        /// The revision that they stand for.
        revision: u64,
    },
    /// A change.
    Changed {
        /// Instances that are new or changed.
        changed: Vec<v1::Instance>,
        /// Instances that are gone.
        removed: Vec<InstanceKey>,
        /// The revision after it.
        revision: u64,
    },
    /// No control plane is connected; the stream goes on by itself. Told once per interruption.
    Interrupted(Error),
}

struct Watcher {
    planes: Arc<ControlPlanes>,
    filter: v1::WatchRequest,
    subscription: Option<Subscription>,
    backoff: Backoff,
    interrupted: bool,
    ended: bool,
}

struct Subscription {
    turn: Turn,
    responses: Streaming<v1::WatchResponse>,
}

pub(crate) fn stream(planes: Arc<ControlPlanes>, filter: v1::WatchRequest) -> WatchStream {
    let watcher = Watcher {
        planes,
        filter,
        subscription: None,
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::u64(..)),
        interrupted: false,
        ended: false,
    };
    Box::pin(stream::unfold(watcher, |mut watcher| async move { Some((watcher.next().await?, watcher)) }))
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        if self.ended {
            return None;
        }
        loop {
            let failure = match self.step().await {
                Ok(event) => {
                    self.backoff.reset();
                    self.interrupted = false;
                    return Some(Ok(event));
                }
                Err(failure) => failure,
            };
            self.subscription = None;
            if !failure.is_retryable() {
                self.ended = true;
                return Some(Err(failure));
            }
            if !self.interrupted {
                self.interrupted = true;
                return Some(Ok(WatchEvent::Interrupted(failure)));
            }
            tokio::time::sleep(self.backoff.after_failure(Duration::MAX)).await;
        }
    }

    async fn step(&mut self) -> Result<WatchEvent, Error> {
        if self.subscription.is_none() {
            self.subscription = Some(self.subscribe().await?);
        }
        let Some(subscription) = &mut self.subscription else { unreachable!("it was set above") };
        let turn = subscription.turn;
        match subscription.responses.message().await {
            Ok(Some(response)) => event(response),
            Ok(None) => {
                let error = self.unreachable(turn, "the stream ended".to_owned());
                self.planes.move_on(turn);
                Err(error)
            }
            Err(status) => Err(self.failure(turn, &status)),
        }
    }

    async fn subscribe(&self) -> Result<Subscription, Error> {
        let picked = self.planes.pick();
        let turn = picked.turn;
        let mut client = discovery(picked.channel);
        let timeout = self.planes.call_timeout;
        match tokio::time::timeout(timeout, client.watch(self.filter.clone())).await {
            Ok(Ok(response)) => Ok(Subscription { turn, responses: response.into_inner() }),
            Ok(Err(status)) => Err(self.failure(turn, &status)),
            Err(_) => {
                let error = self.unreachable(turn, format!("no answer within {timeout:?}"));
                self.planes.move_on(turn);
                Err(error)
            }
        }
    }

    fn failure(&self, turn: Turn, status: &tonic::Status) -> Error {
        let error = match no_answer(status) {
            Some(reason) => self.unreachable(turn, reason),
            None => Error::Answer(status.into()),
        };
        if error.is_retryable() {
            self.planes.move_on(turn);
        }
        error
    }

    fn unreachable(&self, turn: Turn, reason: String) -> Error {
        let address = self.planes.address(turn);
        Error::Unreachable { attempts: vec![Attempt { address, reason }] }
    }
}

fn event(response: v1::WatchResponse) -> Result<WatchEvent, Error> {
    let v1::WatchResponse { initial, changed, removed, revision } = response;
    if initial {
        return Ok(WatchEvent::Initial { instances: changed, revision });
    }
    let removed = removed.iter().map(|key| InstanceKey::from_wire(Some(key))).collect::<Result<_, _>>()?;
    Ok(WatchEvent::Changed { changed, removed, revision })
}
