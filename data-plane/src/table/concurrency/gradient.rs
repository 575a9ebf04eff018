//! How a limit of requests under way follows how long answers take: a pure function of what was, what a window of time
//! has shown, and the clock.
//!
//! The rule is the gradient of Netflix's concurrency-limits (`Gradient2Limit`) with the headroom of Envoy's adaptive
//! concurrency filter. After each window
//!
//! ```text
//! gradient = 1.5 × unloaded latency ÷ the window's latency      between 0.5 and 1.5
//! limit    = half way from limit to limit × gradient + √limit   between minimum and maximum
//! ```
//!
//! so that a limit settles where requests wait about half as long again as they would without load: a few of them are
//! always queued, so that the service never idles, and no more. A limit that is not reached stays as it is.
//!
//! What an answer takes **without load** cannot be seen while the limit is reached. (Vegas takes the least that it ever
//! saw, which jitter makes too small, and Gradient2 a long average, which follows a queue that stays.) So it is
//! measured: while requests do not reach half of the limit every window tells it; where they do, every 20 s, or when the
//! limit has halved, the limit is a third for two windows. The first lets the queue drain, the second measures (BBR's
//! ProbeRTT). Of a queue that was still there the next measure sees less. Slow answers may be left of what was before, so
//! that a measure raises what is known to twice as much at most; a service that has become slower is soon measured
//! again, as its limit halves. A limit that is new begins with a measure: the first answers to come are the quick ones.
//!
//! ```text
//!             every 20 s, or halved            a window             a window: the unloaded latency
//!  following ───────────────────────▶ draining ─────────▶ probing ─────────────────────▶ following
//! ```
//!
//! A window's latency is the **geometric mean** of its answers': jitter and a few very slow answers move it little, and
//! a queue that everybody waits in moves it all. Latencies are in octaves: log2 of nanoseconds.
//!
//! Deliberately absent: the clock, and counting (see the module above).

/// A window lasts at least so long, milliseconds, and as long as an answer takes.
const WINDOW_MS: u64 = 100;
/// And at most so long.
const LONGEST_WINDOW_MS: u64 = 10_000;
/// The answers that make a window.
const ENOUGH: u32 = 20;
/// The answers that make a measure of the unloaded latency.
const ENOUGH_TO_PROBE: u32 = 50;
/// The limit to begin with.
const FIRST: f32 = 20.0;
/// How much longer answers may take than without load: log2 of 1.5.
const TOLERATED: f32 = 0.585;
/// The least and the most that a limit is multiplied by.
const STEEPEST: (f32, f32) = (0.5, 1.5);
/// How far a limit goes to where it should be in one window.
const STEP: f32 = 0.5;
/// The share of a window without load in what is known of the unloaded latency.
const TRACKING: f32 = 0.125;
/// The share of a measure in what is known then, and how far it raises that at most, octaves.
const TRUST: f32 = 0.75;
const FURTHEST: f32 = 1.0;
/// How often the unloaded latency is measured where the limit is reached, milliseconds; or after so many windows.
const PROBE_EVERY_MS: u64 = 20_000;
const PROBE_EVERY_WINDOWS: u64 = 50;
/// The part of the limit that is left for a measure.
const PROBE_SHARE: f32 = 1.0 / 3.0;

/// What the limit is kept between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::table) struct Bounds {
    /// Never lower; at least 1.
    pub(in crate::table) least: u32,
    /// Never higher; at least `least`.
    pub(in crate::table) most: u32,
}

impl Bounds {
    fn keep(self, limit: f32) -> f32 {
        limit.clamp(self.least as f32, self.most as f32)
    }
}

/// What a window has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// The geometric mean of what answers took, octaves.
    pub(super) latency: f32,
    /// The most requests that were under way at once.
    pub(super) most: u32,
}

/// What ends a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// It lasts at least so long.
    pub(super) millis: u64,
    /// And until there are so many answers.
    pub(super) answers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Following,
    /// The limit is low, and will be this again.
    Draining(f32),
    Probing(f32),
}

/// A limit, and what it goes by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gradient {
    limit: f32,
    /// What an answer takes without load, octaves; none: nothing is known yet.
    unloaded: Option<f32>,
    /// What an answer took in the last window, octaves.
    latency: f32,
    phase: Phase,
    /// When the unloaded latency was last measured, milliseconds.
    probed_at: u64,
    /// The highest limit since.
    highest: f32,
}

impl Gradient {
    /// Nothing is known.
    pub(super) fn new(bounds: Bounds) -> Self {
        let (limit, phase) = (bounds.keep(FIRST * PROBE_SHARE), Phase::Draining(FIRST));
        Self { limit, unloaded: None, latency: 0.0, phase, probed_at: 0, highest: limit }
    }

    /// How many requests may be under way.
    pub(super) fn limit(&self) -> u32 {
        self.limit.round() as u32
    }

    /// What an answer takes without load, octaves; none: nothing is known yet.
    pub(super) fn unloaded(&self) -> Option<f32> {
        self.unloaded
    }

    /// What ends the window that begins.
    pub(super) fn wanted(&self) -> Wanted {
        let answer_ms = (self.latency.exp2() / 1e6) as u64;
        let millis = answer_ms.clamp(WINDOW_MS, LONGEST_WINDOW_MS);
        let answers = if matches!(self.phase, Phase::Probing(_)) { ENOUGH_TO_PROBE } else { ENOUGH };
        Wanted { millis, answers }
    }

    /// What comes after a window that ended at `now`, milliseconds of a steady clock.
    pub(super) fn next(self, window: Window, now: u64, bounds: Bounds) -> Self {
        let seen = Self { latency: window.latency, ..self };
        let next = match self.phase {
            Phase::Following => seen.follow(window, now),
            Phase::Draining(limit) => Self { phase: Phase::Probing(limit), ..seen },
            Phase::Probing(limit) => seen.probed(limit, window, now),
        };
        Self { limit: bounds.keep(next.limit), ..next }
    }

    fn follow(self, window: Window, now: u64) -> Self {
        let Some(unloaded) = self.unloaded else {
            return Self { unloaded: Some(window.latency), probed_at: now, ..self };
        };
        let is_reached = window.most as f32 * 2.0 >= self.limit;
        if !is_reached {
            let unloaded = unloaded + (window.latency - unloaded) * TRACKING;
            return Self { unloaded: Some(unloaded), probed_at: now, highest: self.limit, ..self };
        }
        let gradient = (TOLERATED + unloaded - window.latency).exp2().clamp(STEEPEST.0, STEEPEST.1);
        let right = self.limit * gradient + self.limit.sqrt();
        let limit = self.limit + (right - self.limit) * STEP;
        let next = Self { limit, highest: self.highest.max(limit), ..self };
        let every = PROBE_EVERY_MS.max(self.wanted().millis * PROBE_EVERY_WINDOWS);
        if now.saturating_sub(self.probed_at) >= every || limit * 2.0 < self.highest {
            return Self { limit: limit * PROBE_SHARE, phase: Phase::Draining(limit), ..next };
        }
        next
    }

    /// The limit is what it was again, and the unloaded latency what was measured.
    fn probed(self, limit: f32, window: Window, now: u64) -> Self {
        let measured = window.latency;
        let unloaded = match self.unloaded {
            None => measured,
            Some(known) => known + ((measured - known) * TRUST).min(FURTHEST),
        };
        // What the first one measured may have been a queue.
        let probed_at =
            if self.unloaded.is_none() { now.saturating_sub(PROBE_EVERY_MS * 3 / 4) } else { now };
        let phase = Phase::Following;
        Self { limit, unloaded: Some(unloaded), phase, probed_at, highest: limit, ..self }
    }
}
