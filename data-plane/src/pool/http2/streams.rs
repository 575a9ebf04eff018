//! What a connection carries, and whose turn it is where an instance allows fewer streams at once than there are requests.

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;

use crate::table::Usage;

/// How much a connection carries.
pub(super) struct Load {
    /// Requests that have a place on it, whether their stream has begun or not.
    streams: Cell<u32>,
    /// Streams that have begun.
    open: Cell<usize>,
    /// Requests that wait to begin theirs.
    waiting: Cell<u32>,
    freed: Notify,
    /// When the last stream ended.
    idle_since: Cell<Instant>,
    /// The service's, which it counts on.
    usage: Arc<Usage>,
}

/// A stream's place on a connection, given back when dropped.
pub(crate) struct StreamPermit {
    load: Rc<Load>,
    has_begun: bool,
}

/// A request that waits.
struct Waiting<'a>(&'a Load);

impl Load {
    pub(super) fn new(usage: Arc<Usage>) -> Rc<Self> {
        Rc::new(Self {
            streams: Cell::new(0),
            open: Cell::new(0),
            waiting: Cell::new(0),
            freed: Notify::new(),
            idle_since: Cell::new(Instant::now()),
            usage,
        })
    }

    /// How many requests have a place.
    pub(super) fn streams(&self) -> u32 {
        self.streams.get()
    }

    /// For how long there has been none.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.idle_since.get())
    }

    /// What the service's connections are counted on.
    pub(super) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Whether requests wait to begin.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Has all requests that wait look again.
    pub(super) fn wake_waiting(&self) {
        self.freed.notify_waiters();
    }
}

impl StreamPermit {
    /// Another place.
    pub(super) fn of(load: &Rc<Load>) -> Self {
        load.streams.set(load.streams.get() + 1);
        Self { load: Rc::clone(load), has_begun: false }
    }

    /// Begins the stream if the instance allows another one now (RFC 9113, section 5.1.2) and nobody waits; an error where
    /// the connection takes no more requests.
    pub(super) fn try_begin(&mut self, sender: &mut SendRequest<Bytes>) -> Option<Result<(), h2::Error>> {
        self.try_take(sender, false)
    }

    /// Waits until it does, in the order in which requests came.
    ///
    /// # Errors
    /// The connection takes no more requests.
    pub(super) async fn begin(&mut self, sender: &mut SendRequest<Bytes>) -> Result<(), h2::Error> {
        loop {
            {
                let load = Rc::clone(&self.load);
                let _waiting = Waiting::new(&load);
                load.freed.notified().await;
            }
            if let Some(begun) = self.try_take(sender, true) {
                return begun;
            }
        }
    }

    fn try_take(
        &mut self,
        sender: &mut SendRequest<Bytes>,
        is_its_turn: bool,
    ) -> Option<Result<(), h2::Error>> {
        // Nothing was sent by this one, so that there is nothing to wait for.
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Some(Err(error)),
            Poll::Pending => return None,
        }
        if !is_its_turn && self.load.is_waited_for() {
            return None;
        }
        let open = self.load.open.get();
        let most = sender.current_max_send_streams();
        // Where an instance allows none, one stream waits in h2, which is told when that changes.
        if open != 0 && open >= most {
            return None;
        }
        self.has_begun = true;
        self.load.open.set(open + 1);
        // There may be room for more since the instance has changed its mind.
        if open + 1 < most && self.load.is_waited_for() {
            self.load.freed.notify_one();
        }
        Some(Ok(()))
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let load = &self.load;
        if self.has_begun {
            load.open.set(load.open.get() - 1);
            if load.is_waited_for() {
                load.freed.notify_one();
            }
        }
        load.streams.set(load.streams.get() - 1);
        if load.streams.get() == 0 {
            load.idle_since.set(Instant::now());
        }
    }
}

impl<'a> Waiting<'a> {
    fn new(load: &'a Load) -> Self {
        load.waiting.set(load.waiting.get() + 1);
        Self(load)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
