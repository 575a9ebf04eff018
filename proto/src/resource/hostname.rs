//! What the hostnames of a listener and of a route have in common, as the Gateway API words it.
//!
//! A hostname is exact (`a.example.com`) or a wildcard (`*.example.com`, which stands for any name below that domain, of
//! one label or more, and not for the domain itself). A listener without one takes any; so does a route.
//!
//! Deliberately absent: what a request asks for (the data plane compares that).

/// What they have in common, sorted, each once; empty means any. `None`: nothing, so the route does not attach.
///
/// ```text
/// listener          route                        in common
/// (any)             (any)                        (any)
/// *.example.com     (any)                        *.example.com
/// *.example.com     a.example.com, b.test        a.example.com
/// a.example.com     *.example.com                a.example.com
/// *.example.com     *.a.example.com              *.a.example.com
/// ```
pub fn in_common(listener: &str, route: &[String]) -> Option<Vec<String>> {
    if route.is_empty() {
        return Some(if listener.is_empty() { Vec::new() } else { vec![listener.to_owned()] });
    }
    let mut common: Vec<String> =
        route.iter().filter_map(|name| narrower(listener, name)).map(str::to_owned).collect();
    common.sort();
    common.dedup();
    (!common.is_empty()).then_some(common)
}

/// Whether some request could ask for a name of both lists; an empty list means any.
pub fn overlap(one: &[String], other: &[String]) -> bool {
    let meets = |left: &String| other.iter().any(|right| narrower(left, right).is_some());
    one.is_empty() || other.is_empty() || one.iter().any(meets)
}

/// The narrower of two hostnames, where one covers the other.
fn narrower<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    if covers(one, other) {
        return Some(other);
    }
    covers(other, one).then_some(one)
}

/// Whether every name that `narrow` stands for is one that `wide` stands for.
fn covers(wide: &str, narrow: &str) -> bool {
    if wide.is_empty() || wide == narrow {
        return true;
    }
    let Some(domain) = wide.strip_prefix('*') else { return false };
    let below = narrow.strip_prefix('*').unwrap_or(narrow);
    below.len() > domain.len() && below.ends_with(domain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_narrower_name_is_what_both_take() {
        for (listener, route, expected) in [
            ("", &[][..], Some(&[][..])),
            ("*.example.com", &[], Some(&["*.example.com"])),
            ("", &["b.test", "a.test", "b.test"], Some(&["a.test", "b.test"])),
            ("a.example.com", &["a.example.com", "b.example.com"], Some(&["a.example.com"])),
            (
                "*.example.com",
                &["a.example.com", "a.b.example.com"],
                Some(&["a.b.example.com", "a.example.com"]),
            ),
            ("a.example.com", &["*.example.com"], Some(&["a.example.com"])),
            ("*.example.com", &["*.a.example.com"], Some(&["*.a.example.com"])),
            ("*.a.example.com", &["*.example.com"], Some(&["*.a.example.com"])),
            ("*.example.com", &["example.com"], None),
            ("example.com", &["*.example.com"], None),
            ("*.example.com", &["a.badexample.com"], None),
            ("a.example.com", &["b.example.com"], None),
        ] {
            let route: Vec<String> = route.iter().map(ToString::to_string).collect();
            let expected = expected.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(in_common(listener, &route), expected, "{listener:?} and {route:?}");
        }
    }

    /// Says it for one name that a request asks for, label by label.
    fn takes(pattern: &str, name: &str) -> bool {
        let mut wanted: Vec<&str> = pattern.split('.').rev().collect();
        let given: Vec<&str> = name.split('.').rev().collect();
        let wildcard = wanted.last() == Some(&"*");
        if wildcard {
            wanted.pop();
        }
        let fits = given.starts_with(&wanted);
        pattern.is_empty()
            || (fits && if wildcard { given.len() > wanted.len() } else { given.len() == wanted.len() })
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab")], 1..4)
            .prop_map(|labels| labels.join("."))
    }

    fn pattern() -> impl Strategy<Value = String> {
        (any::<bool>(), name()).prop_map(|(wild, name)| if wild { format!("*.{name}") } else { name })
    }

    proptest! {
        #[test]
        fn a_name_is_in_common_exactly_if_both_take_it(
            listener in prop_oneof![Just(String::new()), pattern()],
            route in prop::collection::vec(pattern(), 0..4),
            asked in name(),
        ) {
            let by_route = route.is_empty() || route.iter().any(|pattern| takes(pattern, &asked));
            let both = takes(&listener, &asked) && by_route;
            let common = in_common(&listener, &route);
            let found = common.is_some_and(|common| {
                common.is_empty() || common.iter().any(|pattern| takes(pattern, &asked))
            });
            prop_assert_eq!(found, both);
        }
    }
}
