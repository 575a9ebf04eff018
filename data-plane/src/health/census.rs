//! How many endpoints of a table are passed over just now, and how many services left alone, for metrics.

use super::{Heed, Standing};
use crate::table::{Stance, Table};

/// Counts over a whole table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Endpoints that are ejected, or probed after it.
    pub(crate) ejected: usize,
    /// Endpoints that checks say are ill.
    pub(crate) ill: usize,
    /// Services whose endpoints all take requests, as too few are well.
    pub(crate) panicking: usize,
    /// Services whose circuit breaker is not closed.
    pub(crate) breakers_open: usize,
}

impl Census {
    /// Counts. Services without a policy cost a look each.
    pub(crate) fn of(table: &Table) -> Self {
        let mut census = Self::default();
        for service in table.services() {
            let stance = service.breaker();
            census.breakers_open += usize::from(stance.is_some_and(|stance| stance != Stance::Closed));
            let heed = service.traffic().map(|traffic| traffic.health.heed()).unwrap_or_default();
            if heed == Heed::default() {
                continue;
            }
            for member in service.endpoints().members() {
                match member.standing(heed) {
                    Standing::Well => {}
                    Standing::Ejected(..) | Standing::Probing(_) => census.ejected += 1,
                    Standing::Ill => census.ill += 1,
                }
            }
            census.panicking += usize::from(service.panics().is_some());
        }
        census
    }
}
