//! A timer for "no progress since", which costs nothing while there is progress.
//!
//! Deadlines move with every frame of a body. Instead of moving a timer each time, the timer is armed when
//! the body first has to wait, and looks at when the last frame came when it fires.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Watches one body.
#[derive(Debug, Default)]
pub(crate) struct IdleTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the body began to wait; `None` while it flows.
    waiting_since: Option<Instant>,
}

impl IdleTimer {
    /// Notes that a frame came.
    pub(crate) fn progress(&mut self) {
        self.waiting_since = None;
    }

    /// Whether the body waits for a frame.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }

    /// Says whether the body has waited for `limit`, and wakes the task when it will have.
    pub(crate) fn poll_expired(&mut self, context: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let deadline = *self.waiting_since.get_or_insert_with(Instant::now) + limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            match sleep.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= deadline => return Poll::Ready(()),
                Poll::Ready(()) => sleep.as_mut().reset(deadline),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_moves_the_deadline() {
        let limit = Duration::from_secs(10);
        let mut timer = IdleTimer::default();
        let begun = Instant::now();
        for _ in 0..3 {
            let waited =
                tokio::time::timeout(Duration::from_secs(6), poll_fn(|cx| timer.poll_expired(cx, limit)));
            assert!(waited.await.is_err(), "6 s are within the limit");
            timer.progress();
        }
        poll_fn(|cx| timer.poll_expired(cx, limit)).await;
        assert_eq!(begun.elapsed().as_secs(), 28);
    }
}
