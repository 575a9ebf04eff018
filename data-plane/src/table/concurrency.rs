//! A limit of requests under way to a service that follows how long its answers take: each has a turn from when it is
//! admitted to its answer's head, and beyond the limit there is none. What is counted makes windows, and what follows
//! from a window is in [`gradient`].
//!
//! A request with a body has its turn from when all of that was sent: a client that sends slowly says nothing about load,
//! and a few of them could hold all turns. It is refused, as others are, before anything is sent.
//!
//! A turn ends with the answer's head. Bodies and upgraded connections may last for hours and say nothing about load:
//! if they held turns, a few of them could hold all.
//!
//! Failures that come at once say nothing about how long answers take, and are not counted. That nobody answered in time
//! is: it took at least so long.
//!
//! Requests count by single atomic operations. Who ends a window computes the next limit, under a lock that is only ever
//! tried: whoever finds it held leaves the window to the one who holds it.
//!
//! Deliberately absent: a queue. A request that has to wait is better refused at once, as long as its client still
//! wants to know (Envoy and Netflix do the same).

mod gradient;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use waypost_proto::v1::AdaptiveConcurrency;

pub(super) use self::gradient::Bounds;
use self::gradient::{Gradient, Window};
use super::endpoints::now;

/// What an entry that does not say is kept between.
const DEFAULT: Bounds = Bounds { least: 3, most: 1000 };
/// Parts of an octave that a latency is counted in.
const PARTS: f32 = 256.0;
/// The bits of the word that count answers; those above are the sum of their latencies.
const COUNT_BITS: u32 = 24;
/// So few answers make a window where there were no more, after this.
const FEW: u32 = 5;
const PATIENCE_MS: u64 = 1_000;

impl Bounds {
    /// What was declared.
    pub(super) fn of(declared: &AdaptiveConcurrency) -> Self {
        let or = |declared: u32, default: u32| if declared == 0 { default } else { declared };
        let least = or(declared.minimum, DEFAULT.least);
        Self { least, most: or(declared.maximum, DEFAULT.most).max(least) }
    }
}

/// One service's limit at this proxy. Any thread may use it.
pub(super) struct Limiter {
    bounds: Bounds,
    under_way: AtomicU32,
    limit: AtomicU32,
    /// What answers took, in parts of an octave, summed << 24 | how many there were, in this window.
    answers: AtomicU64,
    /// The most that were under way at once in this window.
    most: AtomicU32,
    /// When the window may end, milliseconds.
    ends_at: AtomicU64,
    /// How many answers it needs.
    needs: AtomicU32,
    /// What an answer takes without load, parts of an octave; 0: not known.
    unloaded: AtomicU32,
    state: Mutex<Gradient>,
}

impl Limiter {
    fn new(bounds: Bounds) -> Self {
        let state = Gradient::new(bounds);
        Self {
            bounds,
            under_way: AtomicU32::new(0),
            limit: AtomicU32::new(state.limit()),
            answers: AtomicU64::new(0),
            most: AtomicU32::new(0),
            ends_at: AtomicU64::new(0),
            needs: AtomicU32::new(state.wanted().answers),
            unloaded: AtomicU32::new(0),
            state: Mutex::new(state),
        }
    }

    /// The limiter of a service that is treated anew: the one before where it goes by the same bounds.
    pub(super) fn renewed(before: Option<Arc<Self>>, bounds: Option<Bounds>) -> Option<Arc<Self>> {
        let bounds = bounds?;
        let same = before.filter(|before| before.bounds == bounds);
        Some(same.unwrap_or_else(|| Arc::new(Self::new(bounds))))
    }

    /// How many may be under way now, and how many are.
    pub(super) fn shown(&self) -> (u32, u32) {
        (self.limit.load(Ordering::Relaxed), self.under_way.load(Ordering::Relaxed))
    }

    /// Asks for a turn.
    ///
    /// # Errors
    /// There is none; the limit.
    pub(super) fn enter(&self) -> Result<Turn<'_>, u32> {
        self.count_in()?;
        Ok(Turn(Some((self, Some(Instant::now())))))
    }

    /// Asks for a turn that [begins](Turn::begin) later. It cannot be refused then, as the request was sent.
    ///
    /// # Errors
    /// As things are now there is none; the limit.
    pub(super) fn enter_later(&self) -> Result<Turn<'_>, u32> {
        let limit = self.limit.load(Ordering::Relaxed);
        let has_room = self.under_way.load(Ordering::Relaxed) < limit;
        has_room.then_some(Turn(Some((self, None)))).ok_or(limit)
    }

    fn count_in(&self) -> Result<(), u32> {
        let limit = self.limit.load(Ordering::Relaxed);
        let one_more = |held: u32| (held < limit).then_some(held + 1);
        let held = self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        self.note_held(held.map_err(|_| limit)? + 1);
        Ok(())
    }

    fn note_held(&self, held: u32) {
        if held > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(held, Ordering::Relaxed);
        }
    }

    /// Ends a turn; `took`: what the answer took, where that says something.
    fn count_out(&self, took: Option<Duration>, now: impl FnOnce() -> u64) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let Some(took) = took else { return };
        let counted = u64::from(parts(took)) << COUNT_BITS | 1;
        let answers = (self.answers.fetch_add(counted, Ordering::Relaxed) & COUNT) + 1;
        if answers >= u64::from(FEW) {
            self.end_window(answers, now());
        }
    }

    fn end_window(&self, answers: u64, now: u64) {
        let is_over = || {
            let over = now.saturating_sub(self.ends_at.load(Ordering::Relaxed));
            let enough = answers >= u64::from(self.needs.load(Ordering::Relaxed));
            over > 0 && (enough || over > PATIENCE_MS)
        };
        if !is_over() {
            return;
        }
        let Some(mut state) = self.state.try_lock() else { return };
        // Somebody may have ended it since.
        if !is_over() {
            return;
        }
        let held = self.answers.swap(0, Ordering::Relaxed);
        let most = self.most.swap(self.under_way.load(Ordering::Relaxed), Ordering::Relaxed);
        let mean = (held >> COUNT_BITS) as f32 / (held & COUNT).max(1) as f32;
        *state = state.next(Window { latency: mean / PARTS, most }, now, self.bounds);
        let wanted = state.wanted();
        self.limit.store(state.limit(), Ordering::Relaxed);
        self.needs.store(wanted.answers, Ordering::Relaxed);
        self.ends_at.store(now + wanted.millis, Ordering::Relaxed);
        let unloaded = state.unloaded().map_or(0, |octaves| (octaves * PARTS) as u32);
        self.unloaded.store(unloaded, Ordering::Relaxed);
    }

    /// Whether an answer that has not come after so long may still come in the time that answers take.
    fn is_early(&self, waited: Duration) -> bool {
        parts(waited) <= self.unloaded.load(Ordering::Relaxed)
    }

    /// Whether an answer that has not come after so long is late.
    fn is_late(&self, waited: Duration) -> bool {
        let unloaded = self.unloaded.load(Ordering::Relaxed);
        unloaded > 0 && parts(waited) > unloaded
    }
}

const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// log2 of nanoseconds, in parts of an octave.
fn parts(took: Duration) -> u32 {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
    ((nanos as f32).log2() * PARTS) as u32
}

impl fmt::Debug for Limiter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, under_way) = self.shown();
        formatter
            .debug_struct("Limiter")
            .field("limit", &limit)
            .field("under_way", &under_way)
            .finish_non_exhaustive()
    }
}

/// A request's turn, until its answer begins. Dropped without a word it was given up.
#[derive(Debug, Default)]
pub(crate) struct Turn<'a>(Option<(&'a Limiter, Option<Instant>)>);

impl Turn<'_> {
    /// Whether it is yet to begin.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.0, Some((_, None)))
    }

    /// The request waits for its answer from now on.
    pub(crate) fn begin(&mut self) {
        if let Some((limiter, begun @ None)) = &mut self.0 {
            limiter.note_held(limiter.under_way.fetch_add(1, Ordering::Relaxed) + 1);
            *begun = Some(Instant::now());
        }
    }

    /// There is an answer's head.
    pub(crate) fn answered(mut self, is_failure: impl FnOnce() -> bool) {
        if let Some((limiter, begun)) = self.end() {
            limiter.count_out((!is_failure()).then(|| begun.elapsed()), now);
        }
    }

    /// There is none; `late`: nobody answered in time, which says something where that was longer than answers take.
    pub(crate) fn failed(mut self, late: bool) {
        if let Some((limiter, begun)) = self.end() {
            let waited = begun.elapsed();
            limiter.count_out((late && !limiter.is_early(waited)).then_some(waited), now);
        }
    }

    /// Who counts it, and since when, if it has begun.
    fn end(&mut self) -> Option<(&Limiter, Instant)> {
        let (limiter, begun) = self.0.take()?;
        Some((limiter, begun?))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some((limiter, begun)) = self.end() {
            let waited = begun.elapsed();
            limiter.count_out(limiter.is_late(waited).then_some(waited), now);
        }
    }
}

#[cfg(test)]
mod tests;
