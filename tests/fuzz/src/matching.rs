//! Declared routing: after whatever changes, a table finds what a table that was made at once finds.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use arbitrary::{Arbitrary, Unstructured};
use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};
use waypost_proto::{
    snapshot::{Change, Snapshot},
    time::timestamp,
    v1::{
        Attachment, Cors, DeclaredEntry, ListenerEntry, RouteFilter, RouteRule, RuleMatch, RulePath,
        RuleRoute, RuleValue, declared_entry::Kind, route_filter,
    },
};
use waypost_proxy::{
    balance::PolicyName,
    table::{
        Compiler, Found, SharedTable, Source, Table,
        declared::{OWN_LISTENER, RequestView},
        path::normalised,
    },
};

const HOSTS: [&str; 6] = ["", "a.test", "b.a.test", "*.test", "*.a.test", "test"];
const METHODS: [Method; 3] = [Method::GET, Method::PUT, Method::OPTIONS];
const SEGMENTS: [&str; 8] = ["a", "b", "ab", "", "%61", "a;b", "%2f", "%c3%a9"];
const REGEXES: [&str; 4] = ["/.*", "/[ab]/.*", "/a", ".+b"];
/// Of what a round has at most.
const MANY: usize = 12;

/// What happens before requests come.
#[derive(Debug)]
enum Step {
    Route { number: u8, age: u8, at: u8, hosts: Vec<u8>, matches: Vec<Match> },
    Listener { number: u8, port: u8, host: u8 },
    RouteGoes(u8),
    ListenerGoes(u8),
}

#[derive(Debug)]
struct Match {
    kind: u8,
    path: String,
    method: u8,
    headers: u8,
    query: Option<String>,
    cors: bool,
}

#[derive(Debug)]
struct Request {
    host: u8,
    port: u8,
    path: String,
    query: Option<String>,
    method: u8,
    headers: u8,
    /// What it is a preflight for, if its method is OPTIONS.
    announced: Option<u8>,
}

impl Arbitrary<'_> for Step {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(match input.int_in_range(0..=7)? {
            0 => Self::RouteGoes(input.arbitrary()?),
            1 => Self::ListenerGoes(input.arbitrary()?),
            2 | 3 => Self::Listener {
                number: input.arbitrary()?,
                port: input.arbitrary()?,
                host: input.arbitrary()?,
            },
            _ => Self::Route {
                number: input.arbitrary()?,
                age: input.arbitrary()?,
                at: input.arbitrary()?,
                hosts: input.arbitrary()?,
                matches: input.arbitrary()?,
            },
        })
    }
}

impl Arbitrary<'_> for Match {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(Self {
            kind: input.arbitrary()?,
            path: path(input)?,
            method: input.arbitrary()?,
            headers: input.arbitrary()?,
            query: input.arbitrary()?,
            cors: input.arbitrary()?,
        })
    }
}

impl Arbitrary<'_> for Request {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(Self {
            host: input.arbitrary()?,
            port: input.arbitrary()?,
            path: path(input)?,
            query: input.arbitrary()?,
            method: input.arbitrary()?,
            headers: input.arbitrary()?,
            announced: input.arbitrary()?,
        })
    }
}

/// A path without its first slash: mostly of few segments, so that rules and requests meet.
fn path(input: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    if input.ratio(1, 8)? {
        return input.arbitrary();
    }
    let segments: Vec<&str> = (0..input.int_in_range(0..=3)?)
        .map(|_| input.choose(&SEGMENTS).copied())
        .collect::<Result<_, _>>()?;
    Ok(segments.join("/"))
}

/// A CORS filter.
fn cors() -> RouteFilter {
    let cors = Cors { allow_origins: vec!["https://a.test".to_owned()], ..Cors::default() };
    RouteFilter { kind: Some(route_filter::Kind::Cors(cors)) }
}

fn pick<'a>(from: &[&'a str], number: u8) -> &'a str {
    from[usize::from(number) % from.len()]
}

fn listener_id(number: u8) -> String {
    match number % 4 {
        0 => OWN_LISTENER.to_owned(),
        number => format!("listener/default/gw/{number}"),
    }
}

fn headers(bits: u8) -> impl Iterator<Item = &'static str> {
    ["x-a", "x-b"].into_iter().enumerate().filter(move |(bit, _)| bits & 1 << bit != 0).map(|(_, name)| name)
}

fn rule_match(of: &Match) -> RuleMatch {
    let path = format!("/{}", of.path);
    // Few regular expressions: compiling one takes longer than all else of a match.
    let (kind, path) = match of.kind % 8 {
        0..=2 => (RulePath::Exact, path),
        3..=5 => (RulePath::Prefix, path.trim_end_matches('/').to_owned()),
        6 => (RulePath::GrpcMethod, pick(&["a", "b", "ab", "a;b"], of.kind / 8).to_owned()),
        _ => (RulePath::Regex, pick(&REGEXES, of.kind / 8).to_owned()),
    };
    let value =
        |name: &str, value: &str| RuleValue { name: name.to_owned(), value: value.to_owned(), regex: false };
    RuleMatch {
        path_kind: kind.into(),
        path: if path.is_empty() { "/".to_owned() } else { path },
        method: pick(&["", "GET", "PUT", "OPTIONS"], of.method).to_owned(),
        headers: headers(of.headers).map(|name| value(name, "1")).collect(),
        query: of.query.iter().map(|wanted| value("q", wanted)).collect(),
    }
}

fn entry(step: &Step) -> Result<DeclaredEntry, String> {
    match step {
        Step::Route { number, age, at, hosts, matches } => {
            let name = format!("r{}", number % 8);
            let rule = |(index, of): (usize, &Match)| RouteRule {
                name: format!("{name}/{index}"),
                matches: vec![rule_match(of)],
                filters: if of.cors { vec![cors()] } else { Vec::new() },
                ..RouteRule::default()
            };
            let hostnames = hosts.iter().take(3).map(|host| pick(&HOSTS[1..], *host).to_owned());
            let route = RuleRoute {
                namespace: "default".to_owned(),
                name: name.clone(),
                created_at: Some(timestamp(UNIX_EPOCH + Duration::from_secs((*age).into()))),
                attachments: vec![Attachment { listener: listener_id(*at), hostnames: hostnames.collect() }],
                rules: matches.iter().take(MANY).enumerate().map(rule).collect(),
                ..RuleRoute::default()
            };
            let id = format!("httproute/default/{name}");
            Ok(DeclaredEntry { id, kind: Some(Kind::Route(route)) })
        }
        Step::Listener { number, port, host } => {
            let listener = ListenerEntry {
                port: u32::from(port % 3),
                hostname: pick(&HOSTS, *host).to_owned(),
                ..ListenerEntry::default()
            };
            Ok(DeclaredEntry { id: listener_id(*number), kind: Some(Kind::Listener(listener)) })
        }
        Step::RouteGoes(number) => Err(format!("httproute/default/r{}", number % 8)),
        Step::ListenerGoes(number) => Err(listener_id(*number)),
    }
}

struct Proxy {
    snapshot: Snapshot,
    shared: SharedTable,
    compiler: Compiler,
}

impl Proxy {
    fn new() -> Self {
        let shared = SharedTable::new();
        let compiler = Compiler::new(shared.clone(), PolicyName::default().policy(), Arc::default());
        let mut proxy = Self { snapshot: Snapshot::empty("h"), shared, compiler };
        // There is a table from now on, even where nothing comes.
        proxy.change(Change::default());
        proxy
    }

    fn change(&mut self, change: Change) {
        let revision = self.snapshot.revision() + 1;
        let (next, touched) = self.snapshot.change(change, revision, true).expect("nothing can dangle");
        self.snapshot = next;
        self.compiler.serve(&Source { current: &self.snapshot, carried: None }, &touched);
    }

    fn table(&self) -> Arc<Table> {
        self.shared.load().expect("a table")
    }
}

fn found(table: &Table, request: &RequestView<'_>) -> Option<(String, usize, String)> {
    match table.find(request) {
        Found::Rule { rule, matched_prefix_len, listener } => {
            assert!(matched_prefix_len <= request.path.len());
            Some((rule.name.to_string(), matched_prefix_len, listener.id.to_string()))
        }
        _ => None,
    }
}

/// Holds the promise for steps and requests.
pub fn run(bytes: &[u8]) {
    let Ok((steps, requests)) = <(Vec<Step>, Vec<Request>)>::arbitrary_take_rest(Unstructured::new(bytes))
    else {
        return;
    };
    let mut step_by_step = Proxy::new();
    let mut last: BTreeMap<String, DeclaredEntry> = BTreeMap::new();
    for step in steps.iter().take(MANY) {
        let change = match entry(step) {
            Ok(entry) => {
                last.insert(entry.id.clone(), entry.clone());
                Change { declared: vec![entry], ..Change::default() }
            }
            Err(id) => {
                last.remove(&id);
                Change { removed_declared: vec![Arc::from(id)], ..Change::default() }
            }
        };
        step_by_step.change(change);
    }
    let mut at_once = Proxy::new();
    at_once.change(Change { declared: last.into_values().collect(), ..Change::default() });
    let (one, other) = (step_by_step.table(), at_once.table());
    for request in requests.iter().take(MANY) {
        let path = format!("/{}", request.path);
        let Ok(path) = normalised(&path) else { continue };
        let method = METHODS[usize::from(request.method) % METHODS.len()].clone();
        let mut fields = HeaderMap::new();
        if let Some(announced) = request.announced {
            fields.insert(ORIGIN, HeaderValue::from_static("https://a.test"));
            let announced = pick(&["GET", "PUT", "OPTIONS"], announced);
            fields.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static(announced));
        }
        for name in headers(request.headers) {
            fields.insert(name, HeaderValue::from_static("1"));
        }
        let query = request.query.as_ref().map(|value| format!("q={value}"));
        let view = RequestView {
            method: &method,
            host: pick(&["", "a.test", "A.test:80", "b.a.test", "c.test", "test"], request.host),
            path: &path,
            query: query.as_deref(),
            headers: &fields,
            port: u16::from(request.port % 3),
        };
        assert_eq!(found(&one, &view), found(&other, &view), "{view:?}");
    }
}
