//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam; arXiv 1608.01350): no endpoint takes more
//! than a multiple of the average of what is in flight, so that one key that everybody asks for cannot drown one.
//!
//! With `m` requests in flight to the usable endpoints, and one more to come, an endpoint of weight `w` among `W` has room
//! while it has less than `c (m + 1) w / W` of them, rounded up. Since `c > 1` there always is one that has room.
//!
//! The sum is taken only where the first choice is busy: an idle endpoint always has room. It costs a look at each
//! endpoint's count. Threads that choose at the same moment do not see each other, so that an endpoint may have as many
//! above its bound as there are other threads.

use std::cell::OnceCell;

use super::Candidates;

/// How much an endpoint may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadBound {
    /// Hundredths of the average; 0 is no bound.
    percent: u32,
}

impl LoadBound {
    /// No bound.
    pub const NONE: Self = Self { percent: 0 };

    /// A bound in hundredths of the average, which must be more than 100: what is less is none.
    pub fn percent(percent: u32) -> Self {
        if percent > 100 { Self { percent } } else { Self::NONE }
    }

    /// What it means for one request.
    pub(super) fn room<'a, 'b>(self, among: &'a Candidates<'b>) -> Room<'a, 'b> {
        Room { bound: self, among, sums: OnceCell::new() }
    }
}

/// Who has room for one request.
pub(super) struct Room<'a, 'b> {
    bound: LoadBound,
    among: &'a Candidates<'b>,
    /// What is in flight to usable endpoints, and their weights.
    sums: OnceCell<(u64, u64)>,
}

impl Room<'_, '_> {
    /// Whether an endpoint has room.
    pub(super) fn is_at(&self, at: usize) -> bool {
        if self.bound == LoadBound::NONE {
            return true;
        }
        let load = self.among.in_flight(at);
        if load == 0 {
            return true;
        }
        let (total, weights) = *self.sums.get_or_init(|| self.sums());
        let percent = u128::from(self.bound.percent);
        let share = percent * u128::from(total + 1) * u128::from(self.among.weight(at));
        // load + 1 <= ceil(share / (100 weights)), without a division.
        u128::from(load) * 100 * u128::from(weights) < share
    }

    fn sums(&self) -> (u64, u64) {
        let usable = (0..self.among.len()).filter(|at| self.among.is_usable(*at));
        usable.fold((0, 0), |(loads, weights), at| {
            (loads + self.among.in_flight(at), weights + u64::from(self.among.weight(at)))
        })
    }
}
