//! One or more control planes, of which one is used until it fails.
//!
//! Which one is drawn by lot, so that clients spread; so is the next one after a failure, from those that have
//! not failed lately, so that the clients of one that is gone spread over the others. Nobody goes back. A name
//! may stand for many (see [`name`]). A connection is made when it is first needed, and thrown away when its
//! control plane has failed, because a frozen one keeps its connections open.
//!
//! Programs and proxies choose in this one way. Deliberately absent: waiting between attempts (see [`Backoff`]),
//! and TLS (the contract between parts is cleartext for now).

mod name;

use std::{error::Error as _, future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use waypost_proto::error::{ErrorCode, Violation};

use self::name::Name;
pub use self::name::normalized;
pub use crate::backoff::Backoff;
use crate::error::{Attempt, Error};

/// Larger answers than gRPC's usual 4 MiB: a list of 100,000 instances is about 20 MB.
pub(crate) const MAX_ANSWER: usize = 512 * 1024 * 1024;
/// How many attempts a call makes at most, however many control planes there are.
const MOST_ATTEMPTS: usize = 8;

/// The control planes, and which of them is in use.
#[derive(Debug)]
pub struct ControlPlanes {
    names: Vec<Arc<Name>>,
    state: Mutex<State>,
    /// How long a call may take that does not wait for anything.
    pub(crate) call_timeout: Duration,
}

#[derive(Debug)]
struct State {
    turn: Turn,
    channel: Option<Channel>,
    /// When each name failed last.
    failed: Vec<Option<Instant>>,
    random: fastrand::Rng,
}

/// The use of one control plane, until somebody moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    index: usize,
    count: u64,
}

/// A control plane to use now.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) turn: Turn,
    pub(crate) channel: Channel,
}

impl ControlPlanes {
    /// Reads the addresses; an element may itself be a list separated by commas. `call_timeout` is for calls that
    /// wait for nothing.
    ///
    /// # Errors
    /// There is none, or one is malformed; the error says the rule.
    pub fn new(addresses: &[String], call_timeout: Duration, seed: u64) -> Result<Self, Error> {
        let mut names: Vec<Arc<Name>> = Vec::new();
        for address in addresses.iter().flat_map(|list| list.split(',')).map(str::trim) {
            let name = Name::new(address)?;
            if names.iter().all(|known| known.url() != name.url()) {
                names.push(Arc::new(name));
            }
        }
        if names.is_empty() {
            return Err(Violation::new("control_plane", "", "must be named").into());
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let turn = Turn { index: random.usize(..names.len()), count: 0 };
        let failed = vec![None; names.len()];
        let state = Mutex::new(State { turn, channel: None, failed, random });
        Ok(Self { names, state, call_timeout })
    }

    /// The one in use. Must be called within a tokio runtime.
    pub(crate) fn pick(&self) -> Picked {
        let mut state = self.state.lock();
        let turn = state.turn;
        let channel = state.channel.get_or_insert_with(|| self.names[turn.index].channel()).clone();
        Picked { turn, channel }
    }

    /// Whose turn it is.
    pub fn turn(&self) -> Turn {
        self.state.lock().turn
    }

    /// A new connection, made now, to whose turn it is; `tuned` sets what is particular to its use.
    ///
    /// # Errors
    /// It cannot be connected to.
    pub async fn connect(
        &self,
        turn: Turn,
        tuned: fn(Endpoint) -> Endpoint,
    ) -> Result<Channel, tonic::transport::Error> {
        self.names[turn.index].connect(tuned).await
    }

    /// Whose turn it was has failed, or is going away: another one's turn comes, unless somebody else who saw the
    /// same has moved on already.
    pub fn move_on(&self, turn: Turn) {
        let mut state = self.state.lock();
        if state.turn != turn {
            return;
        }
        let now = Instant::now();
        self.names[turn.index].fail_current();
        state.failed[turn.index] = Some(now);
        state.channel = None;
        let fresh = |at: &Option<Instant>| at.is_none_or(|at| now >= at + name::SHUN);
        let others = || (0..self.names.len()).filter(|index| *index != turn.index);
        let good: Vec<usize> = others().filter(|index| fresh(&state.failed[*index])).collect();
        let index = if good.is_empty() {
            others().min_by_key(|index| state.failed[*index]).unwrap_or(turn.index)
        } else {
            good[state.random.usize(..good.len())]
        };
        state.turn = Turn { index, count: turn.count + 1 };
    }

    /// The address of a control plane, for people.
    pub fn address(&self, turn: Turn) -> String {
        self.names[turn.index].shown()
    }

    /// How many control planes there may be.
    fn count(&self) -> usize {
        self.names.iter().map(|name| name.count()).sum()
    }

    /// Calls one control plane after the other, until one does it. One that answers that it cannot for now, since
    /// it has lost its store or is about to stop, is followed by another.
    pub(crate) async fn call<T, F, Answer>(&self, timeout: Duration, call: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempt(timeout, true, call).await
    }

    /// Calls one control plane after the other, until one answers, whatever the answer is.
    pub(crate) async fn ask<T, F, Answer>(&self, timeout: Duration, call: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        self.attempt(timeout, false, call).await
    }

    /// A control plane that is alone is tried twice, since the first failure may only mean that the connection
    /// had been closed.
    async fn attempt<T, F, Answer>(&self, timeout: Duration, insists: bool, call: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), fastrand::u64(..));
        let mut attempts = Vec::new();
        loop {
            let Picked { turn, channel } = self.pick();
            let address = self.address(turn);
            let mut answered = None;
            let reason = match tokio::time::timeout(timeout, call(channel)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => match no_answer(&status) {
                    Some(reason) => reason,
                    None => {
                        let error = waypost_proto::error::Error::from(&status);
                        if !insists || error.code != ErrorCode::Unavailable || self.count() == 1 {
                            return Err(Error::Answer(error));
                        }
                        let reason = error.message.clone();
                        answered = Some(error);
                        reason
                    }
                },
                // Whoever is alone and does not answer in time will not do so the second time.
                Err(_) if self.count() == 1 => {
                    self.move_on(turn);
                    let reason = format!("no answer within {timeout:?}");
                    attempts.push(Attempt { address, reason });
                    return Err(Error::Unreachable { attempts });
                }
                Err(_) => format!("no answer within {timeout:?}"),
            };
            self.move_on(turn);
            attempts.push(Attempt { address, reason });
            if attempts.len() >= self.count().clamp(2, MOST_ATTEMPTS) {
                return Err(answered.map_or(Error::Unreachable { attempts }, Error::Answer));
            }
            tokio::time::sleep(backoff.after_failure(timeout)).await;
        }
    }
}

/// Why a status is no answer of a control plane, if it is none. An answer carries details; a status that
/// was made on this side, after the connection failed, has a source.
pub(crate) fn no_answer(status: &Status) -> Option<String> {
    if !status.details().is_empty() {
        return None;
    }
    if status.code() == Code::Unimplemented {
        return Some("something answers, but not as a control plane; is this its gRPC port?".to_owned());
    }
    let mut source = status.source();
    if source.is_none() && !matches!(status.code(), Code::Unavailable | Code::Cancelled) {
        return None;
    }
    let mut reason = status.message().to_owned();
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    Some(reason)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn planes(addresses: &str, seed: u64) -> ControlPlanes {
        ControlPlanes::new(&[addresses.to_owned()], Duration::from_secs(1), seed).expect("good addresses")
    }

    #[test]
    fn one_must_be_named() {
        assert!(ControlPlanes::new(&[], Duration::from_secs(1), 0).is_err());
        assert!(ControlPlanes::new(&["a b".to_owned()], Duration::from_secs(1), 0).is_err());
    }

    #[test]
    fn lists_may_be_joined_by_commas_and_every_address_counts_once() {
        let given = ["a:1,b:2".to_owned(), "http://a:1".to_owned()];
        let planes = ControlPlanes::new(&given, Duration::from_secs(1), 7).expect("good addresses");
        assert_eq!(planes.names.len(), 2);
    }

    #[tokio::test]
    async fn clients_spread_over_the_list_and_those_of_one_that_is_gone_over_the_others() {
        let firsts: BTreeSet<usize> = (0..64).map(|seed| planes("a:1,b:2,c:3", seed).turn().index).collect();
        assert_eq!(firsts.len(), 3);
        let seconds: BTreeSet<usize> = (0..64)
            .map(|seed| planes("a:1,b:2,c:3", seed))
            .filter(|planes| planes.turn().index == 0)
            .map(|planes| {
                planes.move_on(planes.turn());
                planes.turn().index
            })
            .collect();
        assert_eq!(seconds, BTreeSet::from([1, 2]));
    }

    #[tokio::test]
    async fn each_has_its_turn_and_nobody_goes_back_to_one_that_failed_lately() {
        let planes = planes("a:1,b:2,c:3", 3);
        for _ in 0..4 {
            let mut turns = BTreeSet::new();
            for _ in 0..3 {
                turns.insert(planes.turn().index);
                planes.move_on(planes.turn());
            }
            assert_eq!(turns.len(), 3);
        }
    }

    #[tokio::test]
    async fn two_callers_that_saw_one_failure_move_on_once() {
        let planes = planes("a:1,b:2,c:3", 0);
        let failed = planes.turn();
        planes.move_on(failed);
        let next = planes.turn();
        assert_ne!(next.index, failed.index);
        planes.move_on(failed);
        assert_eq!(planes.turn(), next);
    }
}
