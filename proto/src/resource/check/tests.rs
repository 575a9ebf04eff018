//! What the cases in `tests/refusals/set.md` do not show: numbers, orders, documents alone, and a naive model.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::{MAX_DEPENDENTS, MAX_FINDINGS, Member, Resources, check, focus::Focus, lint, problems};
use crate::resource::{
    Finding, Parsed, ResourceKey, Severity, Spec,
    route::{HttpMatch, HttpRoute, PathMatchType},
    samples::{ALL_KINDS, http_route, read, resource},
};

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

fn second(index: usize) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(index as u64)
}

/// Manifests in the order in which they were declared.
fn set(manifests: &[Parsed]) -> Resources<'_> {
    let members = manifests.iter().enumerate();
    members.map(|(index, parsed)| Member { manifest: &parsed.manifest, created_at: second(index) }).collect()
}

#[track_caller]
fn parsed(text: &str) -> Vec<Parsed> {
    read(text).unwrap_or_else(|findings| {
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        panic!("refused:\n{}\n{text}", lines.join("\n"))
    })
}

fn keys(manifests: &[Parsed]) -> BTreeSet<ResourceKey> {
    manifests.iter().map(|parsed| parsed.manifest.key().clone()).collect()
}

fn checked(text: &str) -> Vec<Finding> {
    let parsed = parsed(text);
    check(&Resources::default(), &set(&parsed), &keys(&parsed))
}

#[test]
fn the_grant_that_is_suggested_is_the_one_that_is_missing() {
    let route = http_route("{rules: [{backendRefs: [{name: audit, namespace: infra}]}]}");
    let external = "{rules: [{backendRefs: [{group: waypost.dev, kind: ExternalService, name: old, namespace: infra}]}]}";
    let external = resource(GATEWAY_API, "GRPCRoute", "calls", external)
        + &resource("waypost.dev/v1", "ExternalService", "old", "{addresses: ['a:1']}")
            .replace("name: old", "name: old\n  namespace: infra");
    for text in [route, external] {
        let findings = checked(&text);
        let [finding] = &findings[..] else { panic!("one is missing: {findings:?}") };
        let grant = finding.suggestion.strip_prefix("declare ").expect("a grant");
        assert_eq!(checked(&format!("{text}---\n{grant}\n")), []);
    }
}

#[test]
fn documents_alone_are_only_warned_of_what_may_be_elsewhere() {
    let text = http_route("{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: a, namespace: b}]}]}");
    let findings = lint(&parsed(&text));
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(findings.iter().all(|finding| finding.severity == Severity::Warning), "{lines:?}");
    assert!(lines[1].starts_with("a.yaml:6:22: HTTPRoute default/shop: spec.parentRefs[0].name: \"edge\" is no Gateway of namespace default in these documents"), "{lines:?}");
    // What contradicts itself stays an error.
    let edge = "{gatewayClassName: waypost, listeners: [{name: http, port: 80, protocol: HTTP}]}";
    let both = resource(GATEWAY_API, "Gateway", "edge", edge)
        + &http_route("{parentRefs: [{name: edge, sectionName: web}], rules: [{backendRefs: [{name: a}]}]}");
    assert_eq!(lint(&parsed(&both))[0].severity, Severity::Error);
}

#[test]
fn many_who_need_a_resource_are_counted() {
    let mut text = resource("waypost.dev/v1", "ExternalService", "old", "{addresses: ['a:1']}");
    for index in 0..MAX_DEPENDENTS + 5 {
        let spec = format!(
            "{{hostnames: [a{index}.test], rules: [{{backendRefs: [{{group: waypost.dev, kind: ExternalService, name: old}}]}}]}}"
        );
        text += &resource(GATEWAY_API, "HTTPRoute", &format!("r{index}"), &spec);
    }
    let before = parsed(&text);
    let after = parsed(text.split_once("---").expect("documents").1.split_once("---").expect("documents").1);
    let gone = BTreeSet::from(["ExternalService/old".parse().expect("a key")]);
    let findings = check(&set(&before), &set(&after), &gone);
    assert_eq!(findings.len(), MAX_DEPENDENTS + 1);
    assert_eq!(findings[MAX_DEPENDENTS].reason, "has 5 more of this kind");
}

#[test]
fn errors_come_first_and_not_without_end() {
    let mut text = http_route("{rules: [{}]}");
    for index in 0..2 * MAX_FINDINGS {
        text += &resource(
            GATEWAY_API,
            "HTTPRoute",
            &format!("r{index}"),
            "{parentRefs: [{name: gone}], rules: [{}]}",
        );
    }
    let findings = checked(&text);
    assert_eq!(findings.len(), MAX_FINDINGS);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Error));
}

#[test]
fn a_change_of_nothing_finds_nothing() {
    let all = parsed(ALL_KINDS);
    assert_ne!(check(&Resources::default(), &set(&all), &keys(&all)), []);
    assert_eq!(check(&set(&all), &set(&all), &BTreeSet::new()), []);
    assert_eq!(check(&set(&all), &Resources::default(), &keys(&all)), [], "all of it goes at once");
}

/// A match of a route at a hostname, as the specification orders them.
struct Naive<'a> {
    resource: String,
    field: String,
    /// Empty means any.
    hostname: &'a str,
    wanted: &'a HttpMatch,
    age: usize,
    place: (usize, usize),
}

impl Naive<'_> {
    fn fits(&self, host: &str, path: &str, method: &str, header: bool) -> bool {
        let value = self.wanted.path.value.as_str();
        let path_fits = match self.wanted.path.r#type {
            PathMatchType::Exact => path == value,
            // Those of `a_match`: every path, or what begins with `/a`.
            PathMatchType::RegularExpression => value != "/a.*" || path.starts_with("/a"),
            PathMatchType::PathPrefix => {
                let prefix = value.trim_end_matches('/');
                path == prefix || path.starts_with(&format!("{prefix}/"))
            }
        };
        path_fits
            && (self.hostname.is_empty() || self.hostname == host)
            && self.wanted.method.is_none_or(|wanted| wanted.name() == method)
            && (self.wanted.headers.is_empty() || header)
    }

    fn order(&self) -> impl Ord + use<> {
        let kind = match self.wanted.path.r#type {
            PathMatchType::Exact => 0,
            PathMatchType::RegularExpression => 1,
            PathMatchType::PathPrefix => 2,
        };
        let length = self.wanted.path.value.trim_end_matches('/').len();
        let headers = self.wanted.headers.len();
        (
            self.hostname.is_empty(),
            (kind, Reverse(length)),
            self.wanted.method.is_none(),
            Reverse(headers),
            self.age,
            self.place,
        )
    }
}

fn naive(manifests: &[Parsed]) -> Vec<Naive<'_>> {
    let mut all = Vec::new();
    for (age, parsed) in manifests.iter().enumerate() {
        let Spec::HttpRoute(HttpRoute { hostnames, rules, .. }) = parsed.manifest.spec() else { continue };
        let hostnames: Vec<&str> =
            if hostnames.is_empty() { vec![""] } else { hostnames.iter().map(String::as_str).collect() };
        for (rule, index) in rules.iter().zip(0..) {
            for (wanted, at) in rule.matches.iter().zip(0..) {
                all.extend(hostnames.iter().map(|hostname| Naive {
                    resource: parsed.manifest.key().to_string(),
                    field: format!("spec.rules[{index}].matches[{at}]"),
                    hostname,
                    wanted,
                    age,
                    place: (index, at),
                }));
            }
        }
    }
    all
}

fn a_match() -> impl Strategy<Value = String> {
    let path = prop::sample::select(vec![
        "{value: /}",
        "{value: /a}",
        "{value: /a/}",
        "{type: Exact, value: /a}",
        "{type: Exact, value: /a/b}",
        "{type: RegularExpression, value: /.*}",
        "{type: RegularExpression, value: /a.*}",
        "{type: RegularExpression, value: .+}",
    ]);
    let method = prop::sample::select(vec!["", ", method: GET", ", method: POST"]);
    let header = prop::sample::select(vec![
        "",
        ", headers: [{name: x, value: '1'}]",
        ", headers: [{name: X, value: '1'}]",
    ]);
    (path, method, header).prop_map(|(path, method, header)| format!("{{path: {path}{method}{header}}}"))
}

fn routes() -> impl Strategy<Value = String> {
    let hostnames = prop::sample::select(vec!["", "hostnames: [a.test], ", "hostnames: [a.test, b.test], "]);
    let rule = prop::collection::vec(a_match(), 1..3)
        .prop_map(|matches| format!("{{matches: [{}], backendRefs: [{{name: a}}]}}", matches.join(", ")));
    let route = (hostnames, prop::collection::vec(rule, 1..3))
        .prop_map(|(hostnames, rules)| format!("{{{hostnames}rules: [{}]}}", rules.join(", ")));
    prop::collection::vec(route, 1..5).prop_map(|specs| {
        let one =
            |(index, spec): (usize, String)| resource(GATEWAY_API, "HTTPRoute", &format!("r{index}"), &spec);
        specs.into_iter().enumerate().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_never_reached_takes_no_request(text in routes()) {
        let manifests = parsed(&text);
        let findings = check(&Resources::default(), &set(&manifests), &keys(&manifests));
        let all = naive(&manifests);
        let mut winners = Vec::new();
        for host in ["a.test", "b.test", "c.test"] {
            for path in ["/", "/a", "/a/", "/a/b", "/ab", "/b"] {
                for (method, header) in [("GET", false), ("GET", true), ("POST", false), ("PUT", true)] {
                    let fitting = all.iter().filter(|one| one.fits(host, path, method, header));
                    winners.extend(fitting.min_by_key(|one| one.order()));
                }
            }
        }
        for finding in &findings {
            let at = finding.reason.strip_prefix("is not reached at ").map(|rest| rest.split(',').next().unwrap_or_default());
            let never = finding.reason.starts_with("is never reached");
            prop_assert!(never || at.is_some(), "{}", finding);
            // A rule as a whole, or one of its matches.
            prop_assert_eq!(finding.severity == Severity::Error, !finding.field.to_string().contains("matches"), "{}", finding);
            let wrong = winners.iter().find(|one| {
                one.resource == finding.resource
                    && one.field.starts_with(&finding.field.to_string())
                    && at.is_none_or(|at| at == if one.hostname.is_empty() { "any host" } else { one.hostname })
            });
            prop_assert!(wrong.is_none(), "{}\n{}", finding, text);
        }
        // Of equal matches at one hostname all but the first are found.
        for one in &all {
            let same = |other: &&Naive<'_>| {
                other.hostname == one.hostname
                    && other.order() < one.order()
                    && other.wanted.path.r#type == one.wanted.path.r#type
                    && other.wanted.path.value.trim_end_matches('/') == one.wanted.path.value.trim_end_matches('/')
                    && other.wanted.method == one.wanted.method
                    && other.wanted.headers.len() == one.wanted.headers.len()
            };
            if all.iter().any(|other| same(&other)) {
                prop_assert!(
                    findings.iter().any(|finding| finding.resource == one.resource && one.field.starts_with(&finding.field.to_string())),
                    "{} {}\n{}", one.resource, one.field, text
                );
            }
        }
    }

    #[test]
    fn a_narrow_look_sees_what_bears_on_the_change(text in routes(), one in any::<prop::sample::Index>()) {
        let manifests = parsed(&text);
        let all = set(&manifests);
        let changed = BTreeSet::from([manifests[one.index(manifests.len())].manifest.key().clone()]);
        let seen = |focus: &Focus<'_>| {
            let mut seen: Vec<String> = problems(&all, focus)
                .into_iter()
                .filter(|problem| changed.contains(problem.subject) || changed.iter().any(|key| problem.cause.is(key)))
                .map(|problem| problem.finding.of(problem.subject).to_string())
                .collect();
            seen.sort();
            seen
        };
        prop_assert_eq!(seen(&Focus::on(&all, &changed)), seen(&Focus::All));
    }

    #[test]
    fn parts_of_a_set_are_checked_without_harm(kept in prop::collection::vec(any::<bool>(), 8), named in prop::collection::vec(any::<bool>(), 8)) {
        let all = parsed(ALL_KINDS);
        let part: Vec<Parsed> = all.iter().zip(kept).filter(|(_, keep)| *keep).map(|(one, _)| one.clone()).collect();
        let changed = all.iter().zip(named).filter(|(_, name)| *name).map(|(one, _)| one.manifest.key().clone()).collect();
        for finding in check(&set(&all), &set(&part), &changed) {
            prop_assert!(changed.iter().any(|key| key.to_string() == finding.resource), "{}", finding);
        }
    }
}
