//! Matching against a naive matcher, which sorts all that fits by the specification's precedence.

use std::time::{Duration, UNIX_EPOCH};

use waypost_proto::time;

use super::*;

const HOSTNAMES: [&str; 6] = ["", "*.ex", "a.ex", "*.a.ex", "b.a.ex", "*.x.a.ex"];
const HOSTS: [&str; 8] = ["", "ex", "a.ex", "A.eX:80", "b.a.ex", "c.a.ex", "b.x.a.ex", "other"];
const PORTS: [u32; 4] = [0, 80, 81, 82];
const REQUEST_METHOD: &str = "access-control-request-method";
const REGEXES: [&str; 4] = ["/[ab]+", "/a(/b)*", ".*b", "/(a|ab)/"];

fn value(name: &str, value: &str, regex: bool) -> RuleValue {
    RuleValue { name: name.to_owned(), value: value.to_owned(), regex }
}

fn path_text() -> impl Strategy<Value = String> {
    (vec(select(vec!["a", "b", "ab", ""]), 0..4), any::<bool>())
        .prop_map(|(segments, slash)| format!("/{}{}", segments.join("/"), if slash { "/" } else { "" }))
}

fn matches() -> impl Strategy<Value = RuleMatch> {
    let path = prop_oneof![
        2 => path_text().prop_map(|path| (RulePath::Exact, path)),
        4 => path_text().prop_map(|path| (RulePath::Prefix, path.trim_end_matches('/').to_owned())),
        1 => select(REGEXES.to_vec()).prop_map(|path| (RulePath::Regex, path.to_owned())),
        1 => select(vec!["a", "b", "ab"]).prop_map(|method| (RulePath::GrpcMethod, method.to_owned())),
    ];
    let header = (select(vec!["x-a", "x-b"]), select(vec!["1", "2", "1,2"]), any::<bool>())
        .prop_map(|(name, text, regex)| value(name, text, regex));
    let query =
        (select(vec!["p", "q"]), select(vec!["1", "2"])).prop_map(|(name, text)| value(name, text, false));
    let method = select(vec!["", "", "GET", "POST", "OPTIONS"]);
    (path, method, vec(header, 0..3), vec(query, 0..3)).prop_map(|((kind, path), method, headers, query)| {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        RuleMatch { path_kind: kind.into(), path, method: method.to_owned(), headers, query }
    })
}

fn route() -> impl Strategy<Value = RuleRoute> {
    let names = || vec(select(HOSTNAMES.to_vec()), 0..3);
    let attachment = (0..5_usize, names()).prop_map(|(listener, hostnames)| Attachment {
        listener: if listener == 4 {
            OWN_LISTENER.to_owned()
        } else {
            format!("listener/default/gw/l{listener}")
        },
        hostnames: hostnames.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    });
    let rule = (vec(matches(), 1..3), any::<bool>()).prop_map(|(matches, cors)| RouteRule {
        matches,
        filters: if cors { vec![cors_filter()] } else { Vec::new() },
        ..RouteRule::default()
    });
    (option::of(0..3_u64), vec(attachment, 0..3), vec(rule, 1..4)).prop_map(
        |(created_at, attachments, rules)| {
            let created_at =
                created_at.map(|seconds| time::timestamp(UNIX_EPOCH + Duration::from_secs(seconds)));
            RuleRoute { created_at, attachments, rules, ..RuleRoute::default() }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Route(usize, RuleRoute),
    RemoveRoute(usize),
    Listener(usize, u32, &'static str),
    RemoveListener(usize),
    ListenOn(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_usize, route()).prop_map(|(number, route)| Step::Route(number, route)),
        2 => (0..6_usize).prop_map(Step::RemoveRoute),
        4 => (0..4_usize, select(PORTS.to_vec()), select(HOSTNAMES.to_vec()))
            .prop_map(|(number, port, hostname)| Step::Listener(number, port, hostname)),
        1 => (0..4_usize).prop_map(Step::RemoveListener),
        1 => select(vec![0, 80, 81]).prop_map(Step::ListenOn),
    ]
}

#[derive(Clone, Debug)]
struct Asked {
    port: u16,
    host: &'static str,
    path: String,
    method: Method,
    headers: Vec<(&'static str, &'static str)>,
    query: Option<&'static str>,
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        select(vec![0, 80, 81]),
        select(HOSTS.to_vec()),
        path_text(),
        select(vec![Method::GET, Method::POST, Method::OPTIONS]),
        (
            vec((select(vec!["x-a", "x-b"]), select(vec!["1", "2"])), 0..3),
            option::of(Just(("origin", "https://a.ex"))),
            option::of(select(vec!["GET", "POST", "OPTIONS"]).prop_map(|it| (REQUEST_METHOD, it))),
        )
            .prop_map(|(some, origin, announced)| some.into_iter().chain(origin).chain(announced).collect()),
        select(vec![None, Some("p=1"), Some("q=2&p=1"), Some("p=2&p=1&q=1")]),
    )
        .prop_map(|(port, host, path, method, headers, query)| Asked {
            port,
            host,
            path,
            method,
            headers,
            query,
        })
}

/// How closely a hostname fits a host: exact ones first, then longer ones.
fn closeness(hostname: &str, host: &str) -> Option<(bool, usize)> {
    match hostname.strip_prefix('*') {
        _ if hostname.is_empty() => Some((false, 0)),
        Some(end) => (host.len() > end.len() && host.ends_with(end)).then_some((false, hostname.len())),
        None => (hostname == host).then_some((true, hostname.len())),
    }
}

/// The rank of the way in which a path fits, and how much of it a prefix takes.
fn path_fits(wanted: &RuleMatch, path: &str) -> Option<(u8, usize)> {
    match wanted.path_kind() {
        RulePath::Exact => (wanted.path == path).then_some((0, 0)),
        RulePath::Regex => regex::Regex::new(&format!("^(?:{})$", wanted.path))
            .expect("sound")
            .is_match(path)
            .then_some((1, 0)),
        RulePath::Prefix | RulePath::Unspecified => {
            let prefix = wanted.path.trim_end_matches('/');
            let (wanted, given): (Vec<&str>, Vec<&str>) =
                (prefix.split('/').collect(), path.split('/').collect());
            let rank = if prefix.is_empty() { 4 } else { 2 };
            given.starts_with(&wanted).then_some((rank, prefix.len()))
        }
        RulePath::GrpcMethod => {
            let segments: Vec<&str> = path.split('/').collect();
            let fits =
                matches!(*segments, ["", service, method] if !service.is_empty() && method == wanted.path);
            fits.then_some((3, 0))
        }
    }
}

/// The first value of each name.
fn firsts(values: &[RuleValue]) -> BTreeMap<&str, &RuleValue> {
    values.iter().rev().map(|value| (value.name.as_str(), value)).collect()
}

/// The methods as which a request is matched by a rule.
fn methods(rule: &RouteRule, asked: &Asked) -> Vec<String> {
    let mut methods = vec![asked.method.to_string()];
    let find = |wanted: &str| asked.headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    if let (true, Some(_), Some(announced)) = (!rule.filters.is_empty(), find("origin"), find(REQUEST_METHOD))
        && asked.method == Method::OPTIONS
    {
        methods.push(announced.to_owned());
    }
    methods
}

fn rest_fits(rule: &RouteRule, wanted: &RuleMatch, asked: &Asked) -> bool {
    let header = |name: &str| {
        let values: Vec<&str> =
            asked.headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let parameter = |name: &str| {
        let mut pairs = asked.query?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    (wanted.method.is_empty() || methods(rule, asked).contains(&wanted.method))
        && firsts(&wanted.headers).iter().all(|(name, value)| header(name).as_ref() == Some(&value.value))
        && firsts(&wanted.query).iter().all(|(name, value)| parameter(name).as_ref() == Some(&value.value))
}

/// The route, the rule's and the match's place, and what the prefix has taken.
type Answer = (String, (usize, usize), usize);

/// Looks at everything.
fn naive(snapshot: &Snapshot, own_port: u16, asked: &Asked) -> Option<Answer> {
    let host = asked.host.split(':').next().unwrap_or_default().to_lowercase();
    let own = |port: u32| if port == u32::from(own_port) { 0 } else { port };
    let mut listeners = vec![(OWN_LISTENER.to_owned(), 0, String::new())];
    listeners.extend(snapshot.declared().filter_map(|entry| match &entry.kind {
        Some(Kind::Listener(listener)) => Some((entry.id.clone(), listener.port, listener.hostname.clone())),
        _ => None,
    }));
    listeners.retain(|(_, port, name)| {
        own(*port) == own(u32::from(asked.port)) && closeness(name, &host).is_some()
    });
    let best = listeners.iter().map(|(_, _, name)| closeness(name, &host)).max()?;
    listeners.retain(|(_, _, name)| closeness(name, &host) == best);

    let mut fitting = Vec::new();
    for entry in snapshot.declared() {
        let Some(Kind::Route(route)) = &entry.kind else { continue };
        let attachments =
            route.attachments.iter().filter(|one| listeners.iter().any(|(id, _, _)| *id == one.listener));
        let names = attachments.flat_map(|attachment| {
            let any = attachment.hostnames.is_empty().then_some("");
            attachment.hostnames.iter().map(String::as_str).chain(any)
        });
        let Some(close) = names.map(|name| closeness(name, &host)).max().flatten() else { continue };
        for (at, rule) in route.rules.iter().enumerate() {
            for (place, wanted) in rule.matches.iter().enumerate() {
                let Some((kind, taken)) = path_fits(wanted, &asked.path) else { continue };
                if rest_fits(rule, wanted, asked) {
                    let length = if kind == 2 {
                        taken
                    } else if kind == 4 {
                        0
                    } else {
                        wanted.path.len()
                    };
                    let created_at = route.created_at.as_ref().map_or(0, |stamp| stamp.seconds);
                    let (headers, query) = (firsts(&wanted.headers).len(), firsts(&wanted.query).len());
                    let rank = (
                        (Reverse(close), kind, Reverse(length), wanted.method.is_empty()),
                        (Reverse(headers), Reverse(query), created_at),
                        (entry.id.clone(), at, place),
                    );
                    fitting.push((rank, (entry.id.clone(), (at, place), taken)));
                }
            }
        }
    }
    fitting.into_iter().min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, answer)| answer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_finds_what_a_naive_matcher_finds_after_each_change(
        steps in vec(step(), 1..16), requests in vec(asked(), 1..16),
    ) {
        let (mut scene, mut own_port) = (Scene::new(), 0);
        for step in steps {
            let change = match step {
                Step::Route(number, route) => {
                    Change { declared: vec![route_entry(&format!("r{number}"), route)], ..Change::default() }
                }
                Step::RemoveRoute(number) => {
                    let gone = vec![Arc::from(format!("httproute/default/r{number}"))];
                    Change { removed_declared: gone, ..Change::default() }
                }
                Step::Listener(number, port, hostname) => {
                    Change { declared: vec![listener_entry(&format!("l{number}"), port, hostname)], ..Change::default() }
                }
                Step::RemoveListener(number) => {
                    let gone = vec![Arc::from(format!("listener/default/gw/l{number}"))];
                    Change { removed_declared: gone, ..Change::default() }
                }
                Step::ListenOn(port) => {
                    own_port = port;
                    scene.compiler.listen_on(port);
                    Change::default()
                }
            };
            let table = scene.change(change);
            for asked in &requests {
                let mut headers = HeaderMap::new();
                for (name, value) in &asked.headers {
                    headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                let Asked { port, host, path, method, query, .. } = asked;
                let request =
                    RequestView { method, host, path, query: *query, headers: &headers, port: *port };
                let found = table.declared.search(&request, &mut ());
                let found = found.map(|(placed, taken)| {
                    (placed.candidate.route_id.to_string(), placed.candidate.place, taken)
                });
                prop_assert_eq!(found, naive(&scene.snapshot, own_port, asked), "{:?}", asked);
            }
        }
    }
}
