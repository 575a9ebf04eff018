//! Whether an endpoint is passed over because of how it answers, or because checks say that it is ill.
//!
//! ```text
//!        ejected(cause)           time passes, claimed by one request
//!  well ───────────────▶ ejected(n) ──────────────────────────▶ probing(n)
//!   ▲                        ▲                                    │    │
//!   │                        └──────────── failed: n + 1 ─────────┘    │
//!   └───── n is remembered, one less for each longest time ◀── answered ┘
//! ```
//!
//! It is the machine of cooldowns ([`Backoff`]) with two differences. An answer to a request that began before the
//! ejection does not end it: only a probe's does. And how often it was ejected is not forgotten at once, so that who
//! answers a probe well and the next requests not is passed over for longer each time: each longest time without an
//! ejection takes one off.
//!
//! Illness is a flag beside it, set and cleared by checks alone. All of it is one atomic word.
//!
//! Deliberately absent: the clock (times are milliseconds of a steady clock, never 0), and who counts errors
//! ([`super::conduct`]).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::table::{Backoff, Lengths};

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It answered with errors only.
    ConsecutiveErrors,
    /// It answers with errors more often than the others.
    SuccessRate,
    /// It takes longer than the others.
    Latency,
}

impl Cause {
    /// All there are.
    pub(crate) const ALL: [Self; 3] = [Self::ConsecutiveErrors, Self::SuccessRate, Self::Latency];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
        }
    }
}

/// What a service's policy lets endpoints be passed over for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heed {
    /// For how they answer.
    pub(crate) ejections: bool,
    /// For what checks say.
    pub(crate) illness: bool,
}

/// How an endpoint is, as its word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes requests.
    Well,
    /// It takes none for so long.
    Ejected(Cause, Duration),
    /// One request is to find out, or does.
    Probing(Cause),
    /// It takes none until checks succeed.
    Ill,
}

/// The bits of the machine << 8 | cause << 2 | over << 1 | ill; 0 where nothing ever was.
#[derive(Debug, Default)]
pub(crate) struct Ejection(AtomicU64);

const ILL: u64 = 1;
/// A probe went well: what the machine says is only remembered.
const OVER: u64 = 1 << 1;

#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    fn of(backoff: Backoff, cause: Cause, flags: u64) -> Self {
        Self(backoff.bits() << 8 | (cause as u64) << 2 | flags)
    }

    fn backoff(self) -> Backoff {
        Backoff::of(self.0 >> 8)
    }

    fn cause(self) -> Cause {
        let at = usize::try_from(self.0 >> 2 & 3).unwrap_or(0);
        Cause::ALL.get(at).copied().unwrap_or(Cause::ConsecutiveErrors)
    }

    fn is_ill(self) -> bool {
        self.0 & ILL != 0
    }

    fn is_ejected(self) -> bool {
        self.backoff() != Backoff::default() && self.0 & OVER == 0
    }

    fn is_well(self, heed: Heed) -> bool {
        !(heed.illness && self.is_ill() || heed.ejections && self.is_ejected())
    }

    fn is_open(self, heed: Heed, now: impl Fn() -> u64) -> bool {
        self.is_well(heed) || !(heed.illness && self.is_ill()) && self.backoff().is_over(now)
    }

    /// The word after an ejection; `None` where that changes nothing.
    fn ejected(self, cause: Cause, now: u64, lengths: Lengths) -> Option<Self> {
        let before = self.backoff();
        let before = if self.0 & OVER == 0 {
            before
        } else {
            let forgotten = now.saturating_sub(before.due()) / lengths.longest.max(1);
            Backoff::remembering(0, before.failures().saturating_sub(forgotten))
        };
        Some(Self::of(before.failed(now, lengths)?, cause, self.0 & ILL))
    }

    /// The word after a probe went well; `None` where none is under way.
    fn recovered(self, now: u64) -> Option<Self> {
        let probed = self.backoff();
        let remembered = Backoff::remembering(now, probed.failures());
        (self.is_ejected() && probed.is_probing())
            .then(|| Self::of(remembered, self.cause(), self.0 & ILL | OVER))
    }
}

impl Ejection {
    /// The same as another's.
    pub(super) fn copied(other: &Self) -> Self {
        Self(AtomicU64::new(other.0.load(Ordering::Relaxed)))
    }

    fn held(&self) -> Word {
        Word(self.0.load(Ordering::Relaxed))
    }

    fn update(&self, next: impl Fn(Word) -> Option<Word>) -> bool {
        let next = |held| next(Word(held)).map(|word| word.0);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Whether a request may go. The clock is asked only while it is ejected.
    pub(crate) fn is_open(&self, heed: Heed, now: impl Fn() -> u64) -> bool {
        let held = self.held();
        held.0 == 0 || held.is_open(heed, now)
    }

    /// Claims the right to send a request: granted to one alone where an ejection has lasted its time.
    pub(crate) fn claim(&self, heed: Heed, now: impl Fn() -> u64) -> bool {
        let held = self.held();
        if held.is_well(heed) {
            return true;
        }
        let now = now();
        let probe = Word::of(held.backoff().probed(now), held.cause(), held.0 & ILL);
        held.is_open(heed, || now)
            && self.0.compare_exchange(held.0, probe.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether it is neither ejected, were it for a probe that has not reported, nor ill.
    pub(crate) fn is_well(&self, heed: Heed) -> bool {
        self.held().is_well(heed)
    }

    /// Whether it is passed over for how it answers, and why.
    pub(crate) fn cause(&self) -> Option<Cause> {
        let held = self.held();
        held.is_ejected().then(|| held.cause())
    }

    /// Why, where a probe is under way.
    pub(super) fn probing(&self) -> Option<Cause> {
        self.cause().filter(|_| self.held().backoff().is_probing())
    }

    /// Ejects it. Whether that changes anything.
    pub(crate) fn eject(&self, cause: Cause, now: u64, lengths: Lengths) -> bool {
        self.update(|held| held.ejected(cause, now, lengths))
    }

    /// Takes note of a good answer, which is the probe's where one is under way.
    pub(super) fn recovered(&self, now: impl Fn() -> u64) {
        if self.held().recovered(0).is_some() {
            let now = now();
            self.update(|held| held.recovered(now));
        }
    }

    /// Says what checks say.
    pub(crate) fn set_ill(&self, ill: bool) {
        self.update(|held| Some(Word(if ill { held.0 | ILL } else { held.0 & !ILL })));
    }

    /// Whether checks say that it is ill.
    pub(super) fn is_ill(&self) -> bool {
        self.held().is_ill()
    }

    /// How it is.
    pub(crate) fn standing(&self, heed: Heed, now: u64) -> Standing {
        let held = self.held();
        let backoff = held.backoff();
        if held.is_well(heed) {
            Standing::Well
        } else if heed.illness && held.is_ill() {
            Standing::Ill
        } else if backoff.is_probing() || backoff.is_over(|| now) {
            Standing::Probing(held.cause())
        } else {
            Standing::Ejected(held.cause(), Duration::from_millis(backoff.due().saturating_sub(now)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths { first: 1_000, longest: 8_000 };
    const ALL: Heed = Heed { ejections: true, illness: true };

    /// Ejects, and says for how long.
    fn eject(ejection: &Ejection, now: u64) -> u64 {
        assert!(ejection.eject(Cause::ConsecutiveErrors, now, LENGTHS));
        match ejection.standing(ALL, now) {
            Standing::Ejected(Cause::ConsecutiveErrors, remaining) => {
                u64::try_from(remaining.as_millis()).expect("short")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_doubles_up_to_the_longest_and_one_request_probes_each_time() {
        let (ejection, mut now) = (Ejection::default(), 5);
        for expected in [1_000, 2_000, 4_000, 8_000, 8_000] {
            assert_eq!(eject(&ejection, now), expected);
            assert!(!ejection.is_open(ALL, || now + expected - 1) && !ejection.claim(ALL, || now));
            now += expected;
            assert!(ejection.is_open(ALL, || now) && ejection.claim(ALL, || now), "one probes");
            assert!(!ejection.is_open(ALL, || now) && !ejection.claim(ALL, || now), "and no other");
            assert_eq!(ejection.standing(ALL, now), Standing::Probing(Cause::ConsecutiveErrors));
            assert!(!ejection.is_well(ALL));
        }
        assert!(ejection.claim(ALL, || now + PROBE), "a probe that never reports holds nobody up");
    }

    const PROBE: u64 = 1_000;

    #[test]
    fn answers_of_requests_from_before_do_not_end_it() {
        let ejection = Ejection::default();
        eject(&ejection, 1);
        ejection.recovered(|| 2);
        assert!(!ejection.is_open(ALL, || 2));
        assert!(!ejection.eject(Cause::Latency, 3, LENGTHS), "nor do they lengthen it");
        assert!(ejection.claim(ALL, || 1_001));
        ejection.recovered(|| 1_002);
        assert_eq!(ejection.standing(ALL, 1_002), Standing::Well);
        assert!(ejection.claim(ALL, || unreachable!("the clock is not asked")) && ejection.is_well(ALL));
    }

    #[test]
    fn how_often_it_was_ejected_is_forgotten_slowly() {
        let ejection = Ejection::default();
        let (mut now, mut lengths) = (1, Vec::new());
        for pause in [0, 0, LENGTHS.longest - 1, LENGTHS.longest, 2 * LENGTHS.longest, 100 * LENGTHS.longest]
        {
            let length = eject(&ejection, now);
            lengths.push(length);
            now += length;
            assert!(ejection.claim(ALL, || now));
            ejection.recovered(|| now);
            now += pause;
        }
        lengths.push(eject(&ejection, now));
        assert_eq!(lengths, [1_000, 2_000, 4_000, 8_000, 8_000, 4_000, 1_000]);
    }

    #[test]
    fn illness_ends_by_checks_alone_and_only_where_it_is_heeded() {
        let ejection = Ejection::default();
        ejection.set_ill(true);
        let blind = Heed { ejections: true, illness: false };
        assert!(!ejection.is_open(ALL, || 9) && !ejection.claim(ALL, || 9) && !ejection.is_well(ALL));
        assert!(ejection.is_open(blind, || 9) && ejection.claim(blind, || 9) && ejection.is_well(blind));
        ejection.recovered(|| 9);
        assert_eq!(ejection.standing(ALL, 9), Standing::Ill);
        assert_eq!(eject(&Ejection::copied(&Ejection::default()), 9), 1_000);
        ejection.eject(Cause::SuccessRate, 10, LENGTHS);
        ejection.set_ill(false);
        let remaining = Duration::from_secs(1);
        assert_eq!(ejection.standing(ALL, 10), Standing::Ejected(Cause::SuccessRate, remaining));
        assert!(ejection.is_open(Heed::default(), || 10), "without a policy nobody is passed over");
        assert!(!ejection.is_ill() && ejection.cause() == Some(Cause::SuccessRate));
    }
}
