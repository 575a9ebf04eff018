//! Beats: a few streams to etcd, each of which renews any number of leases.
//!
//! A stream answers in order. One that has failed, or that somebody has stopped listening to half-way, is never
//! used again: its answers would be taken for others'.
//!
//! Deliberately absent: whose the leases are.

use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_client::{Client, Error, LeaseKeepAliveStream, LeaseKeeper};
use futures_util::future::{try_join, try_join_all};
use tokio::sync::Mutex;

use super::connection::{Connection, Lent, Which};
use crate::store::StoreError;

/// A member that does not lead asks the leader about each lease in turn, so that several streams are quicker.
const LANES: usize = 4;
/// How many leases are worth a stream of their own.
const SHARE: usize = 256;

/// The streams.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: [Mutex<Option<Lane>>; LANES],
    next: AtomicUsize,
}

struct Lane {
    over: Which,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Lanes {
    /// Renews etcd leases; answers for each whether it lives.
    ///
    /// # Errors
    /// etcd does not answer.
    pub(super) async fn renew(
        &self,
        connection: &Connection,
        leases: &[i64],
    ) -> Result<Vec<bool>, StoreError> {
        let share = leases.len().div_ceil(LANES).max(SHARE);
        let lanes = leases.chunks(share).map(|leases| self.renew_on_one(connection, leases));
        Ok(try_join_all(lanes).await?.concat())
    }

    async fn renew_on_one(&self, connection: &Connection, leases: &[i64]) -> Result<Vec<bool>, StoreError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % LANES;
        connection
            .call_lent(|lent| async move {
                let mut place = self.lanes[at].lock().await;
                // It is put back only if all went well.
                let lane = place.take().filter(|lane| lane.over == lent.which);
                let (lane, lives) = Box::pin(beat(lane, &lent, leases)).await?;
                *place = lane;
                Ok(lives)
            })
            .await
    }
}

async fn beat(lane: Option<Lane>, lent: &Lent, leases: &[i64]) -> Result<(Option<Lane>, Vec<bool>), Error> {
    let mut lives = Vec::with_capacity(leases.len());
    let mut lane = match lane {
        Some(lane) => lane,
        None => loop {
            let Some(first) = leases.get(lives.len()) else { return Ok((None, lives)) };
            let opened = open(lent.client.clone(), *first).await?;
            lives.push(opened.is_some());
            if let Some((keeper, answers)) = opened {
                break Lane { over: lent.which, keeper, answers };
            }
        },
    };
    let rest = &leases[lives.len()..];
    let Lane { keeper, answers, .. } = &mut lane;
    let send = async {
        for lease in rest {
            keeper.id = *lease;
            keeper.keep_alive().await?;
        }
        Ok(())
    };
    let receive = async {
        for lease in rest {
            match answers.message().await? {
                Some(answer) if answer.id() == *lease => lives.push(answer.ttl() > 0),
                _ => return Err(Error::LeaseKeepAliveError("the stream of beats has ended".to_owned())),
            }
        }
        Ok(())
    };
    try_join(send, receive).await?;
    Ok((Some(lane), lives))
}

/// A stream, opened by the first beat; `None` if that lease does not live.
async fn open(client: Client, lease: i64) -> Result<Option<(LeaseKeeper, LeaseKeepAliveStream)>, Error> {
    match client.lease_client().keep_alive(lease).await {
        Ok(stream) => Ok(Some(stream)),
        Err(Error::LeaseKeepAliveError(reason)) if reason.contains("not found") => Ok(None),
        Err(error) => Err(error),
    }
}
