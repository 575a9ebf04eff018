//! Picks among endpoints: a plain function of what is known, what is in flight and what was picked before.
//!
//! In turn means smooth weighted round-robin, as nginx does it: each pick raises every endpoint's credit by
//! its weight, takes the one with the most credit and lowers that by the sum of all weights. So a weight
//! of 5 beside two of 1 gives a a b a c a a, and not a a a a a b c.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use waypost_proto::{instance::Endpoint, name::InstanceKey};

use super::Balance;

#[derive(Debug, Default)]
pub(super) struct Balancer {
    members: Vec<Member>,
    turn: usize,
}

#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    in_flight: Arc<AtomicU64>,
    credit: i64,
}

impl Balancer {
    /// Replaces the set. An endpoint of the same name and epoch keeps its count and its credit.
    pub(super) fn replace(&mut self, endpoints: Vec<Arc<Endpoint>>) {
        let mut before: HashMap<(InstanceKey, u64), Member> = std::mem::take(&mut self.members)
            .into_iter()
            .map(|member| ((member.endpoint.key.clone(), member.endpoint.epoch), member))
            .collect();
        let member = |endpoint: Arc<Endpoint>| match before.remove(&(endpoint.key.clone(), endpoint.epoch)) {
            Some(member) => Member { endpoint, ..member },
            None => Member { endpoint, in_flight: Arc::default(), credit: 0 },
        };
        self.members = endpoints.into_iter().map(member).collect();
    }

    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// The next endpoint, and its count of picks that are held.
    pub(super) fn pick(&mut self, balance: Balance) -> Option<(Arc<Endpoint>, Arc<AtomicU64>)> {
        let index = match balance {
            Balance::RoundRobin => self.by_turn(),
            Balance::LeastInFlight => self.least_in_flight(),
        }?;
        let member = &self.members[index];
        Some((member.endpoint.clone(), member.in_flight.clone()))
    }

    fn by_turn(&mut self) -> Option<usize> {
        let mut total = 0;
        for member in &mut self.members {
            let weight = i64::from(member.endpoint.weight);
            member.credit += weight;
            total += weight;
        }
        // Of equals the first, so that the turn is that of the names.
        let indices = 0..self.members.len();
        let index = indices.min_by_key(|index| std::cmp::Reverse(self.members[*index].credit))?;
        self.members[index].credit -= total;
        Some(index)
    }

    /// Compares (in flight + 1) / weight; of equals, each in its turn.
    fn least_in_flight(&mut self) -> Option<usize> {
        let count = self.members.len();
        let load = |index: usize| {
            let member = &self.members[index];
            (u128::from(member.in_flight.load(Ordering::Relaxed)) + 1, u128::from(member.endpoint.weight))
        };
        let start = self.turn.checked_rem(count)?;
        self.turn = self.turn.wrapping_add(1);
        (0..count).map(|step| (start + step) % count).reduce(|best, index| {
            let ((best_load, best_weight), (load, weight)) = (load(best), load(index));
            if load * best_weight < best_load * weight { index } else { best }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use waypost_proto::{instance::InstanceSpec, v1, v1::InstanceState};

    fn endpoint(index: usize, weight: u32) -> Arc<Endpoint> {
        let address = format!("10.0.0.1:{}", index + 1);
        let spec =
            v1::InstanceSpec { service: "users".into(), address, weight: Some(weight), ..Default::default() };
        let spec = InstanceSpec::from_wire(&spec).expect("a good spec");
        Arc::new(Endpoint::of(&spec, InstanceState::Up, 1))
    }

    fn balancer(weights: &[u32]) -> Balancer {
        let mut balancer = Balancer::default();
        balancer
            .replace(weights.iter().enumerate().map(|(index, weight)| endpoint(index, *weight)).collect());
        balancer
    }

    fn ports(balancer: &mut Balancer, balance: Balance, picks: usize) -> Vec<u16> {
        (0..picks).map(|_| balancer.pick(balance).expect("a pick").0.address.port()).collect()
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        for balance in [Balance::RoundRobin, Balance::LeastInFlight] {
            assert!(Balancer::default().pick(balance).is_none());
        }
    }

    #[test]
    fn turns_are_spread_by_weight() {
        assert_eq!(ports(&mut balancer(&[5, 1, 1]), Balance::RoundRobin, 7), [1, 1, 2, 1, 3, 1, 1]);
    }

    #[test]
    fn the_least_used_is_picked_and_equals_take_turns() {
        let mut balancer = balancer(&[1, 1, 1]);
        assert_eq!(ports(&mut balancer, Balance::LeastInFlight, 3), [1, 2, 3]);
        let (_, held) = balancer.pick(Balance::LeastInFlight).expect("a pick");
        held.fetch_add(1, Ordering::Relaxed);
        assert!(!ports(&mut balancer, Balance::LeastInFlight, 6).contains(&1));
    }

    #[test]
    fn a_new_set_keeps_the_counts_of_those_that_stay() {
        let mut balancer = balancer(&[1, 1]);
        balancer.pick(Balance::LeastInFlight).expect("a pick").1.fetch_add(1, Ordering::Relaxed);
        balancer.replace(vec![endpoint(0, 1), endpoint(2, 1)]);
        assert_eq!(ports(&mut balancer, Balance::LeastInFlight, 2), [3, 3]);
    }

    proptest! {
        #[test]
        fn every_round_gives_each_its_weight(weights in prop::collection::vec(1_u32..20, 1..6)) {
            let mut balancer = balancer(&weights);
            let round = weights.iter().sum::<u32>() as usize;
            for _ in 0..2 {
                let picked = ports(&mut balancer, Balance::RoundRobin, round);
                for (index, weight) in weights.iter().enumerate() {
                    let times = picked.iter().filter(|port| usize::from(**port) == index + 1).count();
                    prop_assert_eq!(times, *weight as usize);
                }
            }
        }
    }
}
