//! Who stands out, by examples, by a naive model and by what must hold whatever the numbers are.

use std::{num::NonZeroU32, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

fn rules(stdev_thousandths: u32, percent_of_median: u32) -> Comparison {
    Comparison {
        interval: Duration::from_secs(10),
        stdev_thousandths: NonZeroU32::new(stdev_thousandths),
        percent_of_median: NonZeroU32::new(percent_of_median),
        minimum_requests: 100,
        most_percent: 100,
    }
}

fn peer(requests: u64, failures: u64, mean_micros: u64) -> Peer {
    Peer { sample: Sample { requests, failures, micros: requests * mean_micros }, ejected: None }
}

#[test]
fn one_that_fails_more_often_than_the_others_stands_out() {
    let mut peers = vec![peer(1000, 10, 0); 9];
    peers.push(peer(1000, 200, 0));
    assert_eq!(outliers(&peers, &rules(1900, 0)), [(9, Cause::SuccessRate)]);
    assert_eq!(outliers(&peers, &rules(0, 300)), [], "nobody asked for it");
    peers[9] = peer(99, 99, 0);
    assert_eq!(outliers(&peers, &rules(1900, 0)), [], "too few requests say nothing");
}

#[test]
fn where_all_fail_alike_nobody_stands_out() {
    for failures in [0, 1, 333, 1000] {
        assert_eq!(outliers(&vec![peer(1000, failures, 7); 10], &rules(1, 101)), []);
    }
}

#[test]
fn one_that_takes_longer_than_the_median_stands_out() {
    let mut peers = vec![peer(200, 0, 1_000); 6];
    peers[2] = peer(200, 0, 3_001);
    peers[4] = peer(200, 0, 9_000);
    assert_eq!(outliers(&peers, &rules(0, 300)), [(4, Cause::Latency), (2, Cause::Latency)]);
    assert_eq!(outliers(&peers, &Comparison { most_percent: 10, ..rules(0, 300) }), [(4, Cause::Latency)]);
}

#[test]
fn four_are_too_few_to_be_compared() {
    let mut peers = vec![peer(1000, 0, 1_000); 3];
    peers.push(peer(1000, 1000, 90_000));
    assert_eq!(outliers(&peers, &rules(100, 101)), []);
    peers.push(peer(1000, 0, 1_000));
    assert_eq!(outliers(&peers, &rules(100, 101)), [(3, Cause::SuccessRate)]);
}

#[test]
fn those_that_are_ejected_count_towards_the_most_and_are_not_compared() {
    let mut peers = vec![peer(1000, 0, 0); 20];
    peers[0] = Peer { ejected: Some(Cause::Latency), ..peer(1000, 1000, 0) };
    peers[1] = peer(1000, 500, 0);
    let tenth = Comparison { most_percent: 10, ..rules(1900, 0) };
    assert_eq!(outliers(&peers, &tenth), [(1, Cause::SuccessRate)], "two of twenty");
    peers[2].ejected = Some(Cause::SuccessRate);
    assert_eq!(outliers(&peers, &tenth), []);
    peers[2].ejected = Some(Cause::ConsecutiveErrors);
    assert_eq!(outliers(&peers, &tenth), [(1, Cause::SuccessRate)], "others do not count");
}

/// Whether one stands out, by the definition and in another order of arithmetic. `None`: too close to say.
fn naive(compared: &[Sample], at: usize, rules: &Comparison) -> [Option<bool>; 2] {
    let count = compared.len() as f64;
    let rate = |sample: &Sample| (sample.requests - sample.failures) as f64 / sample.requests as f64;
    let mean = compared.iter().map(rate).sum::<f64>() / count;
    let squares = compared.iter().map(|sample| rate(sample) * rate(sample)).sum::<f64>() / count;
    let stdev = (squares - mean * mean).max(0.0).sqrt();
    let factor = rules.stdev_thousandths.map_or(f64::INFINITY, |factor| f64::from(factor.get()) / 1000.0);
    let decide = |margin: f64| (margin.abs() > 1e-6).then_some(margin > 0.0);
    let fails =
        if factor.is_finite() { decide(mean - factor * stdev - rate(&compared[at])) } else { Some(false) };
    let time = |sample: &Sample| sample.micros as f64 / sample.requests as f64;
    // The median is the value that minimises the sum of distances; of two such, their middle.
    let distance = |from: f64| compared.iter().map(|sample| (time(sample) - from).abs()).sum::<f64>();
    let least = compared.iter().map(|sample| distance(time(sample))).fold(f64::INFINITY, f64::min);
    let medians: Vec<f64> =
        compared.iter().map(time).filter(|middle| distance(*middle) <= least + 1e-6).collect();
    let (low, high) = medians
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
    let slow = rules.percent_of_median.map_or(Some(false), |percent| {
        decide(time(&compared[at]) - (low + high) / 2.0 * f64::from(percent.get()) / 100.0)
    });
    [fails, slow]
}

fn peers() -> impl Strategy<Value = Vec<Peer>> {
    let ejected = option::weighted(0.2, select(Cause::ALL.to_vec()));
    let one =
        (50..400_u64, 0..=100_u64, 1..5_000_u64, ejected).prop_map(|(requests, failed, mean, ejected)| {
            Peer { ejected, ..peer(requests, requests * failed / 100, mean) }
        });
    vec(one, 0..16)
}

proptest! {
    #[test]
    fn it_is_who_the_definition_says(
        peers in peers(),
        factor in select(vec![0, 500, 1000, 1900]),
        percent in select(vec![0, 110, 200, 300]),
    ) {
        let rules = rules(factor, percent);
        let is_compared = |peer: &Peer| peer.ejected.is_none() && peer.sample.requests >= 100;
        let compared: Vec<Sample> =
            peers.iter().filter(|peer| is_compared(peer)).map(|peer| peer.sample).collect();
        let already = peers
            .iter()
            .filter(|peer| matches!(peer.ejected, Some(Cause::SuccessRate | Cause::Latency)))
            .count();
        let found = outliers(&peers, &rules);
        let mut place = 0;
        for (at, peer) in peers.iter().enumerate() {
            let ejected = found.iter().find(|(found, _)| *found == at).map(|(_, cause)| *cause);
            if !is_compared(peer) || compared.len() < 5 {
                prop_assert_eq!(ejected, None);
                place += usize::from(is_compared(peer));
                continue;
            }
            let [fails, slow] = naive(&compared, place, &rules);
            place += 1;
            match ejected {
                Some(Cause::SuccessRate) => prop_assert_ne!(fails, Some(false)),
                Some(Cause::Latency) => prop_assert!(slow != Some(false) && fails != Some(true)),
                Some(Cause::ConsecutiveErrors) => prop_assert!(false, "nobody compares these"),
                None if found.len() + already < peers.len() => {
                    prop_assert!(fails != Some(true) && slow != Some(true), "{:?} {:?}", fails, slow);
                }
                None => {}
            }
        }
    }

    #[test]
    fn no_more_than_a_share_is_ejected_at_a_time(peers in peers(), most_percent in 0..=100_u32) {
        let found = outliers(&peers, &Comparison { most_percent, ..rules(100, 101) });
        let by_comparison = |cause: Option<Cause>| matches!(cause, Some(Cause::SuccessRate | Cause::Latency));
        let already = peers.iter().filter(|peer| by_comparison(peer.ejected)).count();
        let most = (peers.len() * most_percent as usize / 100).max(1);
        prop_assert!(found.is_empty() || found.len() + already <= most);
        let mut places: Vec<usize> = found.iter().map(|(at, _)| *at).collect();
        places.sort_unstable();
        places.dedup();
        prop_assert_eq!(places.len(), found.len(), "each once");
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter(mut peers in peers(), seed: u64) {
        // Who is compared with whom, told apart by the time.
        for (at, peer) in peers.iter_mut().enumerate() {
            peer.sample.micros += at as u64;
        }
        let told = |peers: &[Peer]| {
            let found = outliers(peers, &rules(1000, 150)).into_iter();
            let mut told: Vec<_> = found.map(|(at, cause)| (peers[at].sample.micros, cause as u8)).collect();
            told.sort_unstable();
            told
        };
        let before = told(&peers);
        fastrand::Rng::with_seed(seed).shuffle(&mut peers);
        prop_assert_eq!(told(&peers), before);
    }
}
