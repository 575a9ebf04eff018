//! A rule's backends: each gets its share of the requests, by lot.
//!
//! Deliberately absent: whether a backend's service is there, which every table answers anew.

use waypost_proto::v1::RouteBackend;

use super::{Filters, RuleError};
use crate::table::declared::BackendRef;

/// Who answers a rule's requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backends {
    all: Box<[RuleBackend]>,
    /// The sums of all weights up to and with each backend's.
    sums: Box<[u64]>,
}

/// A backend of a rule.
#[derive(Clone, Debug)]
pub(crate) struct RuleBackend {
    /// What it refers to, or why nothing can be sent to it.
    pub(crate) to: Result<BackendRef, String>,
    /// What is done with its requests only, after what the rule does with all.
    pub(crate) filters: Filters,
}

impl Backends {
    pub(super) fn compile(backends: &[RouteBackend]) -> Result<Self, RuleError> {
        let one = |(at, backend)| {
            RuleBackend::compile(backend).map_err(|error: RuleError| error.within(&format!("backends[{at}]")))
        };
        let all = backends.iter().enumerate().map(one).collect::<Result<_, _>>()?;
        let mut sum = 0;
        let sums = backends.iter().map(|backend| {
            sum += u64::from(backend.weight);
            sum
        });
        Ok(Self { sums: sums.collect(), all })
    }

    /// Chooses the place of a backend by weight. `draw` gives a number below the one that it is given, each as often as
    /// any other. `None`: there is none, or all weights are 0.
    pub(crate) fn choose(&self, draw: impl FnOnce(u64) -> u64) -> Option<usize> {
        let total = *self.sums.last()?;
        match self.all.len() {
            _ if total == 0 => None,
            1 => Some(0),
            _ => {
                let drawn = draw(total);
                Some(self.sums.partition_point(|sum| *sum <= drawn))
            }
        }
    }

    /// The backends, and whether each has a weight.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&RuleBackend, bool)> {
        let mut before = 0;
        let has_weight = self.sums.iter().map(move |sum| std::mem::replace(&mut before, *sum) < *sum);
        self.all.iter().zip(has_weight)
    }

    /// A backend, by its place.
    pub(crate) fn get(&self, place: usize) -> Option<&RuleBackend> {
        self.all.get(place)
    }
}

impl RuleBackend {
    fn compile(backend: &RouteBackend) -> Result<Self, RuleError> {
        let to = if backend.invalid.is_empty() {
            Ok(BackendRef::of(backend).map_err(|problem| RuleError::new("service", problem.to_string()))?)
        } else {
            Err(backend.invalid.clone())
        };
        Ok(Self { to, filters: Filters::compile(&backend.filters)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waypost_proto::v1;

    use super::*;

    fn backends(weights: &[u32]) -> Backends {
        let backend = |weight: &u32| RouteBackend {
            service: Some(v1::ServiceKey { namespace: String::new(), name: "s".to_owned() }),
            weight: *weight,
            ..RouteBackend::default()
        };
        Backends::compile(&weights.iter().map(backend).collect::<Vec<_>>()).expect("sound")
    }

    proptest! {
        #[test]
        fn each_backend_gets_its_weight_out_of_the_sum_of_all(weights in prop::collection::vec(0_u32..5, 0..6)) {
            let backends = backends(&weights);
            let total: u32 = weights.iter().sum();
            let mut chosen = vec![0; weights.len()];
            for drawn in 0..u64::from(total) {
                if let Some(place) = backends.choose(|below| { assert_eq!(below, u64::from(total)); drawn }) {
                    chosen[place] += 1;
                }
            }
            prop_assert_eq!(chosen, weights);
        }
    }

    #[test]
    fn backends_of_weight_0_are_there_all_the_same() {
        let given =
            |weights: &[u32]| backends(weights).all().map(|(_, has_weight)| has_weight).collect::<Vec<_>>();
        assert_eq!([given(&[]), given(&[0])], [vec![], vec![false]]);
        assert_eq!(given(&[0, 3, 0, 0, 1]), [false, true, false, false, true]);
    }

    #[test]
    fn without_weight_there_is_none_to_choose() {
        for weights in [&[][..], &[0], &[0, 0]] {
            assert_eq!(backends(weights).choose(|_| 0), None, "{weights:?}");
        }
    }

    #[test]
    fn a_reference_that_is_not_permitted_keeps_its_share() {
        let invalid =
            RouteBackend { invalid: "not granted".to_owned(), weight: 1, ..RouteBackend::default() };
        let backends = Backends::compile(&[invalid]).expect("sound");
        let place = backends.choose(|_| 0).expect("it has a weight");
        assert_eq!(backends.get(place).and_then(|it| it.to.clone().err()).as_deref(), Some("not granted"));
    }

    #[test]
    fn a_service_that_cannot_be_one_is_named() {
        let bad = v1::ServiceKey { namespace: String::new(), name: "a b".to_owned() };
        let bad = RouteBackend { service: Some(bad), ..RouteBackend::default() };
        let error = Backends::compile(&[bad]).expect_err("no name");
        assert_eq!(error.field, "backends[0].service");
    }
}
