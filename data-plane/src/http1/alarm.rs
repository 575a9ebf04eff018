//! The deadlines of one request after the other on a connection.
//!
//! The timer is not set for each of them: one that was set for an earlier request rings early, and is then set
//! anew. So a request that is answered in time costs no more than to say whom to wake.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

/// A timer that is used again and again.
#[derive(Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        if sleep.deadline().into_std() > deadline {
            sleep.as_mut().reset(deadline.into());
        }
        while sleep.as_mut().poll(context).is_ready() {
            if sleep.deadline().into_std() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.into());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_deadline_is_met_whatever_the_one_before_was() {
        let mut alarm = Alarm::default();
        let begun = tokio::time::Instant::now();
        for (second, limit) in [(0, 10), (3, 10), (6, 2), (8, 30), (38, 5)] {
            sleep_until(begun + Duration::from_secs(second)).await;
            let deadline = begun + Duration::from_secs(second + limit);
            let mut alarmed = Box::pin(poll_fn(|context| alarm.poll(deadline.into_std(), context)));
            // Most requests are answered before.
            let early = tokio::time::timeout(Duration::from_millis(1), alarmed.as_mut()).await;
            assert!(early.is_err(), "it rings after a millisecond");
            if limit != 10 {
                alarmed.await;
                let passed = begun.elapsed().as_secs_f64() - (second + limit) as f64;
                assert!((0.0..0.01).contains(&passed), "it rings {passed} s late");
            }
        }
    }
}
