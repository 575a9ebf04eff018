//! What keeps a proxy from being overrun itself: a bound of requests under way, and a watch on how far a worker is
//! behind. Beyond either requests are refused (shed), those to services of low priority first.
//!
//! ```text
//! requests under way ──▶ bound, by priority ─┐
//!                                            ├─▶ Shedder ─▶ pass, or 503 overloaded
//! a timer that is late ─▶ Pressure ──────────┘
//! ```
//!
//! Each worker decides for itself, by what it counts anyway; workers share nothing. The page is `OVERLOAD.md`.
//!
//! Deliberately absent: priorities that clients name (whoever may name one names the highest), a bound of connections
//! (the system's limit of open files is one), and the limits of single services (see [`crate::table`]).

mod pressure;
mod shedder;

use waypost_proto::v1::RequestPriority;

pub(crate) use self::shedder::{Shedder, watch};

/// How much the answer to a request matters, by what its service's policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Refused first.
    Low,
    /// Where nothing is said.
    #[default]
    Normal,
    /// Refused last.
    High,
}

impl Priority {
    /// All there are, the first to be refused first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Its name in metrics and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// What was declared; what this version does not know counts as nothing.
    pub(crate) fn of(declared: RequestPriority) -> Self {
        match declared {
            RequestPriority::Low => Self::Low,
            RequestPriority::Unspecified | RequestPriority::Normal => Self::Normal,
            RequestPriority::High => Self::High,
        }
    }
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// As many requests were under way as may be.
    Requests,
    /// The worker was behind.
    Delay,
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Requests, Self::Delay];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Delay => "delay",
        }
    }
}
