//! From results of checks to illness: so many failures in a row, and so many successes in a row.
//!
//! ```text
//!          `unhealthy` failures in a row
//!  well ───────────────────────────────────▶ ill
//!    ▲                                        │
//!    └───── `healthy` successes in a row ─────┘
//! ```
//!
//! Who is new is well: it takes requests until checks say otherwise.

/// How many results in a row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Failures.
    pub(crate) unhealthy: u32,
    /// Successes.
    pub(crate) healthy: u32,
}

/// What the checks of one endpoint have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vitals {
    ill: bool,
    /// How many results in a row spoke against `ill`.
    contrary: u32,
}

impl Vitals {
    /// Those of an endpoint that is known to be ill, or not.
    pub(super) fn known(ill: bool) -> Self {
        Self { ill, contrary: 0 }
    }

    /// Whether it is ill.
    pub(super) fn is_ill(self) -> bool {
        self.ill
    }

    /// Takes note of a result. Whether it is another state now.
    pub(super) fn observe(&mut self, succeeded: bool, thresholds: Thresholds) -> bool {
        if succeeded != self.ill {
            self.contrary = 0;
            return false;
        }
        self.contrary += 1;
        let needed = if self.ill { thresholds.healthy } else { thresholds.unhealthy };
        let changes = self.contrary >= needed;
        if changes {
            *self = Self::known(!self.ill);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// By looking back over all results.
    fn naive(results: &[bool], thresholds: Thresholds) -> bool {
        let (mut ill, mut since) = (false, 0);
        for at in 0..results.len() {
            let seen = &results[since..=at];
            let needed = if ill { thresholds.healthy } else { thresholds.unhealthy } as usize;
            let last = &seen[seen.len().saturating_sub(needed)..];
            if last.len() >= needed && last.iter().all(|succeeded| *succeeded == ill) {
                (ill, since) = (!ill, at + 1);
            }
        }
        ill
    }

    #[test]
    fn so_many_in_a_row() {
        let (mut vitals, thresholds) = (Vitals::default(), Thresholds { unhealthy: 3, healthy: 2 });
        let states = [false, false, true, false, false, false, true, false, true, true].map(|succeeded| {
            vitals.observe(succeeded, thresholds);
            vitals.is_ill()
        });
        assert_eq!(states, [false, false, false, false, false, true, true, true, true, false]);
    }

    proptest! {
        #[test]
        fn it_is_what_the_last_results_say(
            results in vec(any::<bool>(), 0..60),
            unhealthy in 1..5_u32,
            healthy in 1..5_u32,
        ) {
            let thresholds = Thresholds { unhealthy, healthy };
            let mut vitals = Vitals::default();
            for succeeded in &results {
                let before = vitals.is_ill();
                let changed = vitals.observe(*succeeded, thresholds);
                prop_assert_eq!(changed, before != vitals.is_ill());
            }
            prop_assert_eq!(vitals.is_ill(), naive(&results, thresholds));
        }
    }
}
