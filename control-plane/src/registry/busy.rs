//! Busy is not dead: how much of its share an instance gets, by how busy it says it is.
//!
//! | utilization | share |
//! | --- | --- |
//! | below 0.8 | all |
//! | from 0.8 | 75 % |
//! | from 0.9 | 50 % |
//! | from 1.0 | 25 % |
//! | from 1.2 | 10 % |
//!
//! Steps, because each change is a revision that goes to every proxy; and a share grows again only when the utilization
//! is [`SLACK`] below the bound, so that one which wavers about it makes no changes at all. Where all instances of a
//! service are equally busy, all keep what they had: shares are relative.
//!
//! The bounds follow what overload managers begin at (Envoy's documentation has examples of 0.8 to 0.95); an instance is
//! never without traffic, because only traffic shows that it has recovered.
//!
//! Deliberately absent: weights by throughput and utilization (gRFC A58), for which each beat would be a change.

use std::sync::Arc;

use waypost_proto::load::{Load, Share};

use crate::store::Busy;

/// From which utilization on which share, in percent.
const STEPS: [(f64, u8); 4] = [(1.2, 10), (1.0, 25), (0.9, 50), (0.8, 75)];
/// How far below a bound the share grows again.
const SLACK: f64 = 0.05;

/// What is kept of an instance after a beat, after what was kept before. The words change with the share only. Who does not
/// say how busy it is any more is not: a meter that has failed must not keep its instance without traffic.
pub(super) fn heed(before: Option<&Busy>, load: Option<&Load>) -> Option<Busy> {
    let load = load?;
    let utilization = load.utilization()?;
    let old = before.map_or(Share::FULL, |busy| busy.share);
    let new = share(old, utilization);
    if new == old {
        return before.cloned();
    }
    (new < Share::FULL).then(|| Busy { share: new, reason: Arc::from(format!("it says it is busy: {load}")) })
}

fn share(old: Share, utilization: f64) -> Share {
    let new = step(utilization);
    if new > old { step(utilization + SLACK).max(old) } else { new }
}

fn step(utilization: f64) -> Share {
    let reached = STEPS.iter().find(|(bound, _)| utilization >= *bound);
    reached.map_or(Share::FULL, |(_, percent)| Share::percent(*percent))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn shares(utilizations: &[f64]) -> Vec<u8> {
        let mut share_now = Share::FULL;
        let next = utilizations.iter().map(|utilization| {
            share_now = share(share_now, *utilization);
            share_now.as_percent()
        });
        next.collect()
    }

    #[test]
    fn it_falls_at_once_and_grows_with_slack() {
        assert_eq!(shares(&[0.79, 0.8, 0.95, 1.0, 1.3]), [100, 75, 50, 25, 10]);
        assert_eq!(shares(&[1.3, 0.97, 0.94, 0.8, 0.76, 0.74]), [10, 25, 50, 75, 75, 100]);
    }

    #[test]
    fn words_are_of_the_moment_of_the_change_and_who_says_nothing_is_not_busy() {
        let busy = |cpu| Load { cpu: Some(cpu), ..Load::default() };
        let first = heed(None, Some(&busy(0.93))).expect("it is busy");
        assert_eq!(
            (first.share, &*first.reason),
            (Share::percent(50), "it says it is busy: processors at 93 %")
        );
        assert_eq!(heed(Some(&first), Some(&busy(0.95))), Some(first.clone()));
        assert_eq!(heed(Some(&first), Some(&Load { in_flight: Some(3), ..Load::default() })), None);
        assert_eq!(heed(Some(&first), None), None);
        assert_eq!(heed(Some(&first), Some(&busy(0.1))), None);
    }

    proptest! {
        #[test]
        fn who_wavers_by_less_than_the_slack_settles(
            around in 0.0..1.5_f64,
            waves in vec(0.0..SLACK, 1..50),
        ) {
            let utilizations: Vec<f64> = waves.iter().map(|wave| around + wave).collect();
            let shares = shares(&utilizations);
            // Once the highest was seen, nothing that is lower by less than the slack changes anything.
            let highest = utilizations.iter().copied().fold(0.0, f64::max);
            let at = utilizations.iter().position(|one| *one >= highest).unwrap_or(0);
            prop_assert!(shares[at..].iter().all(|share| *share == shares[at]));
        }
    }
}
