//! Rules as a whole.

use super::*;

#[test]
fn a_rule_is_known_by_the_kind_and_name_of_its_route() {
    let id = |grpc| {
        let (namespace, name) = ("shop".to_owned(), "cart".to_owned());
        let route = v1::RuleRoute { namespace, name, grpc, ..v1::RuleRoute::default() };
        Rule::compile(&route, &v1::RouteRule::default()).expect("sound").route_id
    };
    assert_eq!(&*id(false), "httproute/shop/cart");
    assert_eq!(&*id(true), "grpcroute/shop/cart");
}
