//! Follows the stream of changes over a connection of its own, one commit for each revision.
//!
//! Reading blocks for a while only, so that a server that stands still or is gone is noticed, and so that a stream that
//! somebody has emptied is. Every entry must follow the one before it and belong to the same history; where one does
//! not, the changes between are lost to us.
//!
//! Deliberately absent: resuming, which the caller does by revision.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::stream;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::{
    change::{self, Entry},
    dial::Dialer,
    fault::{self, Fault},
    load::Page,
    scripts::Request,
};
use crate::store::{Commit, StoreError, Watch};

/// The longest time that a read blocks.
const LONGEST_BLOCK: Duration = Duration::from_secs(1);
/// How many changes are read at once.
const AT_ONCE: usize = 256;

/// Begins to follow after a revision of a history, the present one if none is named.
pub(super) async fn watch(
    dialer: Arc<Dialer>,
    history: Option<Arc<str>>,
    after: u64,
) -> Result<Watch, StoreError> {
    let patience = dialer.settings.timeout;
    let connected = timeout(patience, dialer.connect()).await;
    let connection = connected.map_err(|_| silent())?.map_err(Fault::into_error)?;
    let mut follower =
        Follower { dialer, connection, history: Arc::from(""), last: after, ready: VecDeque::new() };
    let page = follower.look().await?;
    if history.is_some_and(|history| *history != *page.history) {
        return Err(StoreError::Compacted { oldest: page.revision });
    }
    page.remembers(after)?;
    follower.history = page.history.into();
    let next = |follower: Option<Follower>| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(commit) => Some((Ok(commit), Some(follower))),
            Err(error) => Some((Err(error), None)),
        }
    };
    Ok(Box::pin(stream::unfold(Some(follower), next)))
}

struct Follower {
    dialer: Arc<Dialer>,
    connection: MultiplexedConnection,
    history: Arc<str>,
    last: u64,
    ready: VecDeque<Arc<Commit>>,
}

impl Follower {
    async fn next(&mut self) -> Result<Arc<Commit>, StoreError> {
        loop {
            if let Some(commit) = self.ready.pop_front() {
                return Ok(commit);
            }
            let entries = self.read().await?;
            if entries.is_empty() {
                let page = self.look().await?;
                if *page.history != *self.history {
                    return Err(StoreError::Compacted { oldest: page.revision });
                }
                page.remembers(self.last)?;
            }
            for entry in entries {
                let follows =
                    change::revision(&entry)? == self.last + 1 && change::history(&entry)? == &*self.history;
                if !follows && self.ready.is_empty() {
                    return Err(StoreError::Compacted { oldest: self.look().await?.revision });
                }
                if !follows {
                    break;
                }
                self.last += 1;
                self.ready.push_back(Arc::new(change::commit(&entry)?));
            }
            self.dialer.saw(self.last);
        }
    }

    async fn read(&mut self) -> Result<Vec<Entry>, StoreError> {
        let block = (self.dialer.settings.timeout / 2).min(LONGEST_BLOCK);
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(AT_ONCE).arg("BLOCK").arg(change::milliseconds(block));
        read.arg("STREAMS").arg(self.dialer.keys.changes()).arg(format!("{}-0", self.last));
        let answer: Option<Vec<(String, Vec<Entry>)>> = self.ask(&Request::Plain(read)).await?;
        Ok(answer.unwrap_or_default().into_iter().flat_map(|(_, entries)| entries).collect())
    }

    /// Where the registry stands.
    async fn look(&mut self) -> Result<Page, StoreError> {
        let request = Page::request(&self.dialer.keys, None, 0, self.last);
        Page::read(self.ask(&request).await?)
    }

    async fn ask<T: redis::FromRedisValue>(&mut self, request: &Request) -> Result<T, StoreError> {
        let answer = timeout(self.dialer.settings.timeout, request.ask(&mut self.connection)).await;
        answer.map_err(|_| silent())?.map_err(|error| {
            if fault::is_no_history(&error) {
                return StoreError::Compacted { oldest: 0 };
            }
            self.dialer.fault(&error).into_error()
        })
    }
}

fn silent() -> StoreError {
    StoreError::Unavailable("the server does not answer".to_owned())
}
