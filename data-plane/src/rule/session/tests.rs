//! GEP-1619's sentences, and tokens against all that can happen to them.

use std::sync::Arc;

use proptest::prelude::*;
use waypost_proto::{name::ServiceKey, time::wire_duration, v1::RulePath};

use super::*;
use crate::table::declared::Subset;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn matched(kind: RulePath, path: &str) -> RuleMatch {
    RuleMatch { path_kind: kind.into(), path: path.to_owned(), ..RuleMatch::default() }
}

fn wire() -> SessionPersistence {
    SessionPersistence { name: "sticky".to_owned(), ..SessionPersistence::default() }
}

fn session(wire: &SessionPersistence) -> Session {
    Session::compile(wire, "httproute/default/shop", "", &[matched(RulePath::Prefix, "/a")]).unwrap()
}

fn instance(key: &str) -> InstanceKey {
    key.parse().unwrap()
}

fn backend(service: &str, versions: &[&str], tags: &[&str]) -> BackendRef {
    let list = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
    let subset = Subset { versions: list(versions), tags: list(tags) };
    BackendRef { service: service.parse().unwrap(), subset }
}

/// What an answer of `users/1` says at a time to a client that brings `fields`.
fn answered(session: &Session, fields: &HeaderMap, now: SystemTime) -> HeaderMap {
    let mut answer = HeaderMap::new();
    let visit = session.visit(fields, "/a/b", now);
    session.write(&visit, &backend("users", &[], &[]), &instance("users/1"), false, &mut answer);
    answer
}

/// The fields of the client's next request.
fn returning(answer: &HeaderMap) -> HeaderMap {
    let mut request = HeaderMap::new();
    for (name, value) in answer {
        if *name == SET_COOKIE {
            let pair = value.to_str().unwrap().split(';').next().unwrap();
            request.append(COOKIE, HeaderValue::from_str(&format!("a=b; {pair}; c=d")).unwrap());
        } else {
            request.append(name, value.clone());
        }
    }
    request
}

fn stays(session: &Session, request: &HeaderMap, now: SystemTime) -> bool {
    let visit = session.visit(request, "/a/b", now);
    visit
        .token()
        .is_some_and(|token| token.is_for(&backend("users", &[], &[])) && token.is(&instance("users/1")))
}

fn set_cookie(answer: &HeaderMap) -> String {
    answer.get(SET_COOKIE).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn first_request_must_receive_a_set_cookie_header_and_subsequent_requests_must_route_to_the_same_backend() {
    for header in [false, true] {
        let wire = SessionPersistence { header, ..wire() };
        let first = answered(&session(&wire), &HeaderMap::new(), at(0));
        assert_eq!(first.contains_key(SET_COOKIE), !header);
        // Any replica, and one that was restarted.
        let replica = session(&wire);
        assert!(stays(&replica, &returning(&first), at(1_000_000)));
        assert!(answered(&replica, &returning(&first), at(9)).is_empty(), "the client has it already");
    }
}

#[test]
fn session_cookie_must_not_contain_expiry_attributes() {
    let wire = SessionPersistence { absolute_timeout: Some(wire_duration(SECOND * 60)), ..wire() };
    let cookie = set_cookie(&answered(&session(&wire), &HeaderMap::new(), at(0)));
    let (_, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/a; HttpOnly; SameSite=Lax");
}

#[test]
fn permanent_cookie_must_contain_an_expiry_that_corresponds_to_the_absolute_timeout() {
    let wire = SessionPersistence {
        absolute_timeout: Some(wire_duration(SECOND * 300)),
        idle_timeout: Some(wire_duration(SECOND * 100)),
        permanent: true,
        ..wire()
    };
    let session = session(&wire);
    let first = answered(&session, &HeaderMap::new(), at(0));
    assert!(set_cookie(&first).ends_with("; Max-Age=300"), "{first:?}");
    let second = answered(&session, &returning(&first), at(90));
    assert!(set_cookie(&second).ends_with("; Max-Age=210"), "{second:?}");
    assert_eq!(SessionError::NoEnd, {
        let wire = SessionPersistence { absolute_timeout: None, ..wire };
        Session::compile(&wire, "", "", &[]).unwrap_err()
    });
}

#[test]
fn a_client_that_came_by_tls_sends_the_cookie_by_tls_only() {
    let session = session(&wire());
    let mut answer = HeaderMap::new();
    let visit = session.visit(&HeaderMap::new(), "/a", at(0));
    session.write(&visit, &backend("users", &[], &[]), &instance("users/1"), true, &mut answer);
    assert!(set_cookie(&answer).ends_with("; HttpOnly; SameSite=Lax; Secure"));
}

#[test]
fn once_the_absolute_timeout_has_elapsed_the_session_becomes_invalid_however_busy_it_is() {
    let wire = SessionPersistence {
        absolute_timeout: Some(wire_duration(SECOND * 60)),
        idle_timeout: Some(wire_duration(SECOND * 50)),
        ..wire()
    };
    let session = session(&wire);
    let mut request = HeaderMap::new();
    for second in [0, 20, 40, 59] {
        request = returning(&answered(&session, &request, at(second)));
        assert!(stays(&session, &request, at(second)));
    }
    assert!(stays(&session, &request, at(59)));
    assert!(!stays(&session, &request, at(60)));
}

#[test]
fn once_the_session_has_been_idle_for_more_than_the_idle_timeout_it_becomes_invalid() {
    let session = session(&SessionPersistence { idle_timeout: Some(wire_duration(SECOND * 50)), ..wire() });
    let first = returning(&answered(&session, &HeaderMap::new(), at(0)));
    assert!(stays(&session, &first, at(50)));
    assert!(!stays(&session, &first, at(51)));
    let second = returning(&answered(&session, &first, at(50)));
    assert!(stays(&session, &second, at(100)), "its idle time began anew");
}

#[test]
fn two_backends_of_a_service_are_told_apart_and_keep_their_sessions_whatever_their_weights() {
    let session = session(&wire());
    let backends = [
        backend("users", &[], &[]),
        backend("users", &["v1"], &[]),
        backend("users", &[], &["v1"]),
        backend("users", &["v1", "v2"], &[]),
        backend("users", &["v1"], &["v2"]),
        backend("shop/users", &[], &[]),
        backend("orders", &[], &[]),
    ];
    for (place, backend) in backends.iter().enumerate() {
        let mut answer = HeaderMap::new();
        let key = InstanceKey::new(backend.service.clone(), "1").unwrap();
        session.write(&session.visit(&answer, "/a", at(0)), backend, &key, false, &mut answer);
        let visit = session.visit(&returning(&answer), "/a", at(1));
        let found = backends.iter().position(|one| visit.token().unwrap().is_for(one));
        assert_eq!(found, Some(place));
        assert!(visit.token().unwrap().is(&key));
    }
}

#[test]
fn a_session_that_goes_to_another_instance_begins_anew() {
    let wire = SessionPersistence { absolute_timeout: Some(wire_duration(SECOND * 60)), ..wire() };
    let session = session(&wire);
    let first = returning(&answered(&session, &HeaderMap::new(), at(0)));
    let mut answer = HeaderMap::new();
    let other = instance("users/2");
    session.write(
        &session.visit(&first, "/a", at(40)),
        &backend("users", &[], &[]),
        &other,
        false,
        &mut answer,
    );
    let visit = session.visit(&returning(&answer), "/a", at(99));
    assert!(visit.token().unwrap().is(&other));
}

#[test]
fn route_rules_referencing_the_same_service_must_not_share_persistent_sessions() {
    let compile = |name: &str, route, rule, path| {
        let wire = SessionPersistence { name: name.to_owned(), header: true, ..wire() };
        Session::compile(&wire, route, rule, &[matched(RulePath::Prefix, path)]).unwrap()
    };
    let route = "httproute/default/shop";
    let own = compile("sticky", route, "first", "/a");
    let request = returning(&answered(&own, &HeaderMap::new(), at(0)));
    assert!(stays(&own, &request, at(1)));
    assert!(stays(&compile("sticky", route, "first", "/other"), &request, at(1)), "it is the same rule");
    for other in [
        compile("sticky", route, "second", "/a"),
        compile("sticky", route, "", "/a"),
        compile("sticky", "httproute/default/other", "first", "/a"),
        compile("other", route, "first", "/a"),
    ] {
        assert!(!stays(&other, &request, at(1)));
    }
    let unnamed = compile("sticky", route, "", "/a");
    let request = returning(&answered(&unnamed, &HeaderMap::new(), at(0)));
    assert!(stays(&unnamed, &request, at(1)));
    assert!(!stays(&compile("sticky", route, "", "/b"), &request, at(1)));
}

#[test]
fn the_path_should_be_interpreted_based_on_the_route_path_that_was_matched() {
    let matches = [
        matched(RulePath::Prefix, "/"),
        matched(RulePath::Prefix, "/a"),
        matched(RulePath::Prefix, "/a/b"),
        matched(RulePath::Exact, "/a/b/c"),
        matched(RulePath::Prefix, "/d;e"),
        matched(RulePath::Exact, "/exact"),
    ];
    let session = Session::compile(&wire(), "", "", &matches).unwrap();
    for (path, wanted) in [
        ("/", "/"),
        ("/ab", "/"),
        ("/a", "/a"),
        ("/a/c", "/a"),
        ("/a/b/d", "/a/b"),
        ("/a/b/c", "/a/b/c"),
        ("/a/b/c/d", "/a/b"),
        ("/d;e", "/"),
        ("/exact/not", "/"),
    ] {
        let mut answer = HeaderMap::new();
        let visit = session.visit(&answer, path, at(0));
        session.write(&visit, &backend("users", &[], &[]), &instance("users/1"), false, &mut answer);
        assert!(set_cookie(&answer).contains(&format!("; Path={wanted};")), "{path} {answer:?}");
    }
}

#[test]
fn of_a_regular_expression_the_path_is_the_longest_prefix_that_is_none() {
    for (pattern, wanted) in [
        ("/p1/p2/.*/p3", "/p1/p2"),
        ("/p1/p2/[^/]+", "/p1/p2"),
        ("/p1/p2", "/p1/p2"),
        ("/my-app/v[12]/.*", "/my-app"),
        ("/a/bc?/d", "/a"),
        ("/a/?b", "/"),
        ("/a/{0,1}b", "/"),
        ("/a/b|/c", "/"),
        ("(?i)/a/b", "/"),
        (".*", "/"),
        ("^/a/b/.*$", "/a/b"),
        ("", "/"),
    ] {
        assert_eq!(CookiePath::of(&matched(RulePath::Regex, pattern)).text(), wanted, "{pattern}");
    }
}

#[test]
fn the_implementation_must_be_able_to_handle_multiple_cookies() {
    let session = session(&wire());
    let good = returning(&answered(&session, &HeaderMap::new(), at(0)));
    let good = good.get(COOKIE).unwrap().to_str().unwrap().replace("a=b; ", "").replace("; c=d", "");
    for fields in [
        vec![format!("x=1; {good}")],
        vec![format!("sticky=; sticky=AAAA;{good};")],
        vec!["x=1".to_owned(), good.clone()],
        vec![format!("xsticky={good}; sticky; {good}")],
    ] {
        let mut request = HeaderMap::new();
        for field in &fields {
            request.append(COOKIE, HeaderValue::from_str(field).unwrap());
        }
        assert!(stays(&session, &request, at(1)), "{fields:?}");
    }
    for none in [format!("x{good}"), good.replace("sticky", "Sticky"), good.replace('=', ":")] {
        let mut request = HeaderMap::new();
        request.append(COOKIE, HeaderValue::from_str(&none).unwrap());
        assert!(session.visit(&request, "/a", at(1)).token().is_none(), "{none}");
    }
}

#[test]
fn a_clock_that_is_late_takes_tokens_and_one_that_is_far_off_does_not() {
    let session = session(&SessionPersistence { idle_timeout: Some(wire_duration(SECOND)), ..wire() });
    let request = returning(&answered(&session, &HeaderMap::new(), at(1000)));
    assert!(stays(&session, &request, at(999)));
    assert!(answered(&session, &request, at(999)).is_empty(), "time does not run backwards");
    assert!(!stays(&session, &request, at(0)));
    assert!(!stays(&session, &request, UNIX_EPOCH - SECOND));
}

#[test]
fn neither_the_name_nor_the_address_of_an_instance_is_in_its_token() {
    let session = session(&SessionPersistence { header: true, ..wire() });
    let write = |now| {
        let mut answer = HeaderMap::new();
        let visit = session.visit(&answer, "/a", at(now));
        let instance = instance("users/10.0.0.7:9001");
        session.write(&visit, &backend("users", &[], &[]), &instance, false, &mut answer);
        answer.get("sticky").unwrap().to_str().unwrap().to_owned()
    };
    let (one, other) = (write(0), write(1));
    assert_eq!(one.len(), 34);
    assert_ne!(one[18..], other[18..], "two clients of an instance do not see that they are");
}

#[test]
fn names_and_lengths_that_cannot_be_are_refused() {
    for name in ["", "a b", "a=b", "a;b"] {
        let refused = Session::compile(&SessionPersistence { name: name.to_owned(), ..wire() }, "", "", &[]);
        assert_eq!(refused.unwrap_err(), SessionError::Name(name.to_owned()));
    }
    let mut negative = wire_duration(SECOND);
    negative.seconds = -1;
    let wire = SessionPersistence { idle_timeout: Some(negative), ..wire() };
    assert_eq!(Session::compile(&wire, "", "", &[]).unwrap_err(), SessionError::Timeout);
}

fn key() -> impl Strategy<Value = InstanceKey> {
    ("[ab]", "[ab]{1,2}", "[ab.:0]{1,20}").prop_map(|(namespace, service, id)| {
        InstanceKey::new(ServiceKey::new(&namespace, &service).unwrap(), &id).unwrap()
    })
}

proptest! {
    #[test]
    fn a_token_names_the_instance_that_it_was_written_for_and_no_other(
        keys in proptest::collection::btree_set(key(), 1..20),
        pick in any::<prop::sample::Index>(),
        now in 0..4_000_000_000_000_u64,
    ) {
        let keys = Vec::from_iter(keys);
        let wanted = pick.index(keys.len());
        let now = UNIX_EPOCH + Duration::from_millis(now);
        let session = session(&SessionPersistence { header: true, ..wire() });
        let backend = BackendRef { service: keys[wanted].service().clone(), subset: Subset::default() };
        let mut fields = HeaderMap::new();
        session.write(&session.visit(&fields, "/a", now), &backend, &keys[wanted], false, &mut fields);
        let visit = session.visit(&fields, "/a", now);
        let token = visit.token().unwrap();
        prop_assert!(token.is_for(&backend));
        let named: Vec<usize> = (0..keys.len()).filter(|at| token.is(&keys[*at])).collect();
        prop_assert_eq!(named, [wanted]);
    }

    #[test]
    fn a_token_that_was_changed_names_nothing(place in 0..34_usize, by in 1..64_u8) {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let session = session(&SessionPersistence { header: true, ..wire() });
        let answer = answered(&session, &HeaderMap::new(), at(0));
        let mut text = answer.get("sticky").unwrap().as_bytes().to_vec();
        let old = ALPHABET.iter().position(|byte| *byte == text[place]).unwrap();
        text[place] = ALPHABET[(old + usize::from(by)) % 64];
        let mut request = HeaderMap::new();
        request.insert("sticky", HeaderValue::from_bytes(&text).unwrap());
        prop_assert!(!stays(&session, &request, at(0)));
    }

    #[test]
    fn garbage_is_ignored(text in "[ -~]{0,60}", cookie in any::<bool>()) {
        let session = session(&SessionPersistence { header: !cookie, ..wire() });
        let mut request = HeaderMap::new();
        let (name, text) = if cookie { ("cookie", format!("sticky={text}")) } else { ("sticky", text) };
        request.insert(HeaderName::from_static(name), HeaderValue::from_str(&text).unwrap());
        prop_assert!(!stays(&session, &request, at(0)));
        prop_assert!(!answered(&session, &request, at(0)).is_empty(), "it gets a new one");
    }

    #[test]
    fn a_session_ends_as_a_naive_model_ends_it(
        absolute in proptest::option::of(0..100_u64),
        idle in proptest::option::of(0..100_u64),
        pauses in proptest::collection::vec(0..60_u64, 1..8),
    ) {
        let length = |seconds: Option<u64>| seconds.map(|seconds| wire_duration(Duration::from_secs(seconds)));
        let wire = SessionPersistence { absolute_timeout: length(absolute), idle_timeout: length(idle), ..wire() };
        let session = session(&wire);
        let (mut now, mut begun, mut request) = (0, 0, HeaderMap::new());
        request = returning(&answered(&session, &request, at(now)));
        for pause in pauses {
            now += pause;
            let expected =
                absolute.is_none_or(|most| now - begun < most) && idle.is_none_or(|most| pause <= most);
            prop_assert_eq!(stays(&session, &request, at(now)), expected);
            let answer = answered(&session, &request, at(now));
            if !expected {
                begun = now;
            }
            if !answer.is_empty() {
                request = returning(&answer);
            }
        }
    }
}
