//! How much of a service this proxy uses, all of its workers together: connections, requests that wait for one, retries.
//!
//! ```text
//!          take, below the limit                 dropped
//!  free ──────────────────────────▶ taken ────────────────────────▶ free; of connections, whoever waits is woken
//!    │ at the limit
//!    └──────────────▶ none
//! ```
//!
//! A place is taken by one atomic step, so that no limit is ever passed, however many workers want the last one. Places
//! are counted whether a limit is declared or not: one that is declared later holds for what is there already.
//!
//! The counts belong to a service's name and outlive its tables, as places do.
//!
//! Deliberately absent: the limits (they are the policy's, and asked for each time), and who waits in which order.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

/// What there are places of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A connection to one of the service's instances, be it idle.
    Connection,
    /// A request that waits for a connection, be it one that is being made.
    Pending,
    /// A request for whose connection there is no place.
    Starved,
    /// A request that was sent again, to the end of its answer.
    Retry,
}

/// One service's counts.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    taken: [AtomicU64; 4],
    freed: Notify,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    usage: Arc<Usage>,
    of: Use,
}

impl Usage {
    /// Takes a place, unless `most` are taken already; none: any number may be.
    pub(crate) fn take(self: &Arc<Self>, of: Use, most: Option<u64>) -> Option<Place> {
        let most = most.unwrap_or(u64::MAX);
        let raise = |taken: u64| (taken < most).then(|| taken + 1);
        let raised = self.taken[of as usize].fetch_update(Ordering::SeqCst, Ordering::SeqCst, raise);
        raised.ok().map(|_| Place { usage: Arc::clone(self), of })
    }

    /// How many places are taken.
    pub(crate) fn taken(&self, of: Use) -> u64 {
        self.taken[of as usize].load(Ordering::SeqCst)
    }

    /// Takes a connection's place as soon as there is one.
    pub(crate) async fn next_connection(self: &Arc<Self>, most: Option<u64>) -> Place {
        let _starved = self.take(Use::Starved, None);
        loop {
            let mut freed = pin!(self.freed.notified());
            // A place that comes back from now on is not missed.
            freed.as_mut().enable();
            if let Some(place) = self.take(Use::Connection, most) {
                return place;
            }
            freed.await;
        }
    }

    /// Whether somebody waits for a place.
    pub(crate) fn is_starved(&self) -> bool {
        self.taken[Use::Starved as usize].load(Ordering::Relaxed) > 0
    }
}

impl Place {
    /// Whether it is one of these counts'.
    pub(crate) fn is_of(&self, usage: &Arc<Usage>) -> bool {
        Arc::ptr_eq(&self.usage, usage)
    }

    /// Whether somebody waits for a place like this one.
    pub(crate) fn is_wanted(&self) -> bool {
        self.usage.is_starved()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.usage.taken[self.of as usize].fetch_sub(1, Ordering::SeqCst);
        // Either whoever waits sees the count fall, or it is seen here that somebody waits.
        if self.of == Use::Connection && self.usage.taken(Use::Starved) > 0 {
            self.usage.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use futures_util::FutureExt;
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;

    const ALL: [Use; 4] = [Use::Connection, Use::Pending, Use::Starved, Use::Retry];

    proptest! {
        #[test]
        fn places_are_given_below_the_limit_and_come_back(
            steps in vec((select(ALL.to_vec()), option::of(1_u64..4), any::<bool>(), any::<usize>()), 1..100),
        ) {
            let usage = Arc::new(Usage::default());
            let mut held: Vec<Place> = Vec::new();
            for (of, most, takes, which) in steps {
                let count = |held: &[Place], of| held.iter().filter(|place| place.of == of).count() as u64;
                if takes {
                    let expected = most.is_none_or(|most| count(&held, of) < most);
                    let taken = usage.take(of, most);
                    prop_assert_eq!(taken.is_some(), expected);
                    held.extend(taken);
                } else if !held.is_empty() {
                    let at = which % held.len();
                    drop(held.swap_remove(at));
                }
                for of in ALL {
                    prop_assert_eq!(usage.taken(of), count(&held, of));
                }
            }
        }
    }

    #[test]
    fn threads_that_want_the_last_place_do_not_all_get_it() {
        let usage = Arc::new(Usage::default());
        let given: u64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let usage = Arc::clone(&usage);
                    scope.spawn(move || {
                        let taken = (0..1_000).filter_map(|_| usage.take(Use::Retry, Some(1_500)));
                        taken.map(std::mem::forget).count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it takes")).sum()
        });
        assert_eq!((given, usage.taken(Use::Retry)), (1_500, 1_500));
    }

    #[tokio::test]
    async fn whoever_waits_gets_a_place_that_comes_back() {
        let usage = Arc::new(Usage::default());
        let places = [usage.take(Use::Connection, Some(2)), usage.take(Use::Connection, Some(2))];
        let (mut first, mut second) =
            (Box::pin(usage.next_connection(Some(2))), Box::pin(usage.next_connection(Some(2))));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert!(usage.is_starved());
        drop(places);
        let got = [first.await, second.await];
        assert!(usage.take(Use::Connection, Some(2)).is_none() && !usage.is_starved());
        drop(got);
        assert_eq!(usage.taken(Use::Connection), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_who_wait_for_few_places_all_get_their_turn() {
        let usage = Arc::new(Usage::default());
        let under_way = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (usage, under_way) = (Arc::clone(&usage), Arc::clone(&under_way));
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let place = usage.next_connection(Some(3)).await;
                        assert!(under_way.fetch_add(1, Ordering::SeqCst) < 3);
                        tokio::task::yield_now().await;
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("nobody passes the limit");
        }
        assert_eq!((usage.taken(Use::Connection), usage.taken(Use::Starved)), (0, 0));
    }
}
