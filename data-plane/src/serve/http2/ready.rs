//! Which of a connection's requests have something to do.
//!
//! They are polled by the connection's own task. Whatever a request waits for wakes its place here: a bit, and the task
//! if that is not at work already. Wakers may be used by any thread, so this is the one part of a connection that could
//! be shared.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// The places of a connection.
pub(super) struct Ready {
    words: Box<[AtomicU64]>,
    /// Whether the task is at work, and will look at the places before it rests.
    is_working: AtomicBool,
    task: AtomicWaker,
}

/// Wakes one place.
struct PlaceWaker {
    ready: Arc<Ready>,
    place: usize,
}

impl Ready {
    pub(super) fn new(places: usize) -> Arc<Self> {
        let words = (0..places.div_ceil(64).max(1)).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { words, is_working: AtomicBool::new(false), task: AtomicWaker::new() })
    }

    /// What wakes a place.
    pub(super) fn waker(self: &Arc<Self>, place: usize) -> Waker {
        Arc::new(PlaceWaker { ready: Arc::clone(self), place }).into()
    }

    /// Notes that a place has something to do.
    pub(super) fn set(&self, place: usize) {
        let bit = 1 << (place % 64);
        let before = self.words[place / 64].fetch_or(bit, SeqCst);
        if before & bit == 0 && !self.is_working.load(SeqCst) {
            self.task.wake();
        }
    }

    /// Begins a turn of the task.
    pub(super) fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.is_working.store(true, SeqCst);
    }

    /// Ends it. Whether there is something to do already.
    pub(super) fn end(&self) -> bool {
        self.is_working.store(false, SeqCst);
        self.words.iter().any(|word| word.load(SeqCst) != 0)
    }

    /// Takes the places that have something to do, word by word, each once, beginning with a word.
    pub(super) fn take(&self, at: usize) -> (usize, u64) {
        let at = at % self.words.len();
        let is_empty = self.words[at].load(SeqCst) == 0;
        (at * 64, if is_empty { 0 } else { self.words[at].swap(0, SeqCst) })
    }

    /// How many words there are.
    pub(super) fn words(&self) -> usize {
        self.words.len()
    }
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<Self>) {
        self.ready.set(self.place);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.set(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn the_task_is_woken_once_and_not_while_it_is_at_work() {
        let (ready, count) = (Ready::new(100), Arc::<Count>::default());
        let task = Waker::from(Arc::clone(&count));
        ready.begin(&task);
        assert!(!ready.end());
        let place = ready.waker(70);
        place.wake_by_ref();
        place.wake_by_ref();
        assert_eq!(count.0.load(SeqCst), 1);
        ready.begin(&task);
        assert_eq!((ready.take(0), ready.take(1), ready.take(1)), ((0, 0), (64, 1 << 6), (64, 0)));
        ready.set(3);
        assert_eq!(count.0.load(SeqCst), 1, "it is at work");
        assert!(ready.end(), "and knows");
    }
}
