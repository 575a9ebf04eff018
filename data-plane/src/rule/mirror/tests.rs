//! Shares, and references that cannot be used.

use proptest::prelude::*;

use super::*;

fn wire(numerator: u32, denominator: u32) -> v1::Mirror {
    let service = v1::ServiceKey { namespace: String::new(), name: "shadow".to_owned() };
    let backend = v1::RouteBackend { service: Some(service), ..v1::RouteBackend::default() };
    v1::Mirror { backend: Some(backend), numerator, denominator }
}

proptest! {
    #[test]
    fn of_denominator_requests_numerator_are_copied(numerator in 0_u32..200, denominator in 1_u32..200) {
        let mirror = Mirror::compile(&wire(numerator, denominator)).expect("sound");
        let draws = 0..u64::from(denominator);
        let due = draws.filter(|drawn| mirror.due(|below| { assert_eq!(below, u64::from(denominator)); *drawn }));
        prop_assert_eq!(due.count(), numerator.min(denominator) as usize);
    }
}

#[test]
fn all_and_none_are_not_left_to_chance() {
    let lot = |_| panic!("a lot is drawn");
    assert!(Mirror::compile(&wire(1, 1)).expect("sound").due(lot));
    assert!(Mirror::compile(&wire(100, 100)).expect("sound").due(lot));
    assert!(!Mirror::compile(&wire(0, 100)).expect("sound").due(lot));
}

#[test]
fn a_share_of_nothing_and_a_service_that_cannot_be_one_are_refused() {
    assert_eq!(Mirror::compile(&wire(1, 0)).expect_err("no share").field, "denominator");
    let nobody = v1::Mirror { backend: None, ..wire(1, 1) };
    assert_eq!(Mirror::compile(&nobody).expect_err("no service").field, "backend.service");
}

#[test]
fn a_reference_that_is_not_permitted_says_why() {
    let invalid = v1::RouteBackend { invalid: "not granted".to_owned(), ..v1::RouteBackend::default() };
    let mirror = Mirror::compile(&v1::Mirror { backend: Some(invalid), ..wire(1, 1) }).expect("sound");
    assert_eq!(mirror.to, Err("not granted".to_owned()));
}
