//! Who of a service's endpoints stands out: by failing more often, or by taking longer.
//!
//! **Success rate**, after Envoy ("Outlier detection: success rate"): of the endpoints with enough requests in the
//! interval, those whose success rate is below `mean - factor * standard deviation` (of these very endpoints).
//! **Latency**, our own: those whose mean time is above a percentage of the median of all means. The median does not
//! move with those that stand out.
//!
//! With fewer than five endpoints to compare nobody stands out: one of four always lies within the 1.9 standard
//! deviations that are usual (the most that one of n can lie below the mean is the square root of n - 1).
//!
//! Those that are ejected are not compared. At most a percentage of all is ejected so at a time, but always one may
//! be; the worst go first, and success rates before latencies.
//!
//! Deliberately absent: the ejection itself, and errors in a row, which no percentage bounds (panic does).

use std::cmp::Ordering;

use super::{ejection::Cause, rules::Comparison, tally::Sample};

/// With fewer to compare nobody stands out. Envoy's `success_rate_minimum_hosts`.
const FEWEST: usize = 5;
/// Differences below this are those of floating point arithmetic.
const EPSILON: f64 = 1e-9;

/// An endpoint to be compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// What it did in the interval.
    pub(super) sample: Sample,
    /// Why, where it is ejected.
    pub(super) ejected: Option<Cause>,
}

/// Whom to eject and why, by the place in `peers`; each once.
pub(super) fn outliers(peers: &[Peer], rules: &Comparison) -> Vec<(usize, Cause)> {
    let by_comparison = |peer: &&Peer| matches!(peer.ejected, Some(Cause::SuccessRate | Cause::Latency));
    let already = peers.iter().filter(by_comparison).count();
    let allowed = most(peers.len(), rules.most_percent).saturating_sub(already);
    let compared: Vec<(usize, Sample)> = peers
        .iter()
        .enumerate()
        .filter(|(_, peer)| peer.ejected.is_none())
        .filter(|(_, peer)| peer.sample.requests >= rules.minimum_requests.max(1))
        .map(|(at, peer)| (at, peer.sample))
        .collect();
    if compared.len() < FEWEST || allowed == 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Some(thousandths) = rules.stdev_thousandths {
        let failing = by_success_rate(&compared, f64::from(thousandths.get()) / 1000.0);
        found.extend(failing.into_iter().map(|at| (at, Cause::SuccessRate)));
    }
    if let Some(percent) = rules.percent_of_median {
        let slow = by_latency(&compared, f64::from(percent.get()) / 100.0);
        let slow: Vec<_> = slow.into_iter().filter(|at| found.iter().all(|(known, _)| known != at)).collect();
        found.extend(slow.into_iter().map(|at| (at, Cause::Latency)));
    }
    found.truncate(allowed);
    found
}

/// How many of so many may be ejected by comparison.
fn most(all: usize, percent: u32) -> usize {
    let percent = usize::try_from(percent).unwrap_or(100).min(100);
    (all * percent / 100).max(1)
}

/// The worst first.
fn by_success_rate(compared: &[(usize, Sample)], factor: f64) -> Vec<usize> {
    let failed = |sample: &Sample| sample.failures as f64 / sample.requests as f64;
    let rates: Vec<(usize, f64)> = compared.iter().map(|(at, sample)| (*at, 1.0 - failed(sample))).collect();
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let threshold = mean - factor * variance.sqrt();
    sorted(rates.into_iter().filter(|(_, rate)| *rate < threshold - EPSILON).collect())
}

/// The worst first.
fn by_latency(compared: &[(usize, Sample)], factor: f64) -> Vec<usize> {
    let mean = |sample: &Sample| sample.micros as f64 / sample.requests as f64;
    let means: Vec<(usize, f64)> = compared.iter().map(|(at, sample)| (*at, mean(sample))).collect();
    let mut ordered: Vec<f64> = means.iter().map(|(_, mean)| *mean).collect();
    ordered.sort_by(f64::total_cmp);
    let half = ordered.len() / 2;
    let median =
        if ordered.len() % 2 == 1 { ordered[half] } else { f64::midpoint(ordered[half - 1], ordered[half]) };
    let slow = means.into_iter().filter(|(_, mean)| *mean > median * factor + EPSILON);
    sorted(slow.map(|(at, mean)| (at, -mean)).collect())
}

/// The places, those with the lowest value first.
fn sorted(mut found: Vec<(usize, f64)>) -> Vec<usize> {
    let order = |one: &(usize, f64), other: &(usize, f64)| -> Ordering {
        one.1.total_cmp(&other.1).then(one.0.cmp(&other.0))
    };
    found.sort_by(order);
    found.into_iter().map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests;
