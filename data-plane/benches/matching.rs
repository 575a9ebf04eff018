//! What it costs to find the rule for a request, and how that grows with the number of declared routes.
//!
//! ```text
//! cargo bench -p waypost-proxy --bench matching
//! ```
//!
//! prints nanoseconds for each look-up among 10 and among 10,000 routes and their ratio, and what it costs to change
//! one route of so many. Requests are drawn at random from those that the routes take, so that among many routes
//! most of what is looked at is not in a processor's cache. What that alone costs shows a peer in the same run: `matchit`,
//! the router of axum, which knows paths and nothing else, and cannot be changed once it is shared.

#![expect(clippy::print_stdout, reason = "this is what a benchmark is run for")]

use std::{hint::black_box, sync::Arc, time::Instant};

use fastrand::Rng;
use hdrhistogram::Histogram;
use http::{HeaderMap, HeaderValue, Method};
use waypost_proto::{
    snapshot::{Change, Snapshot},
    v1::{
        Attachment, DeclaredEntry, RouteRule, RuleMatch, RulePath, RuleRoute, RuleValue, declared_entry::Kind,
    },
};
use waypost_proxy::{
    balance::PolicyName,
    table::{
        Compiler, Found, SharedTable, Source,
        declared::{OWN_LISTENER, RequestView},
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // the proxy's

const FEW: usize = 10;
const MANY: usize = 10_000;
/// Look-ups that are timed together, so that reading the clock does not count.
const BATCH: usize = 50;
const BATCHES: usize = 20_000;

/// How routes differ from each other.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// By a prefix, at any host.
    Prefix,
    /// By an exact path, at any host.
    Exact,
    /// By the hostname.
    Host,
    /// By hostname (a hundredth as many), prefix, and now and then a header field.
    Mixed,
}

fn route(shape: Shape, number: usize) -> (Vec<String>, RuleMatch) {
    let of =
        |kind: RulePath, path: String| RuleMatch { path_kind: kind.into(), path, ..RuleMatch::default() };
    match shape {
        Shape::Prefix => {
            (Vec::new(), of(RulePath::Prefix, format!("/team-{}/service-{number}", number % 100)))
        }
        Shape::Exact => (Vec::new(), of(RulePath::Exact, format!("/team-{}/service-{number}", number % 100))),
        Shape::Host => (vec![format!("service-{number}.example.com")], of(RulePath::Prefix, "/".to_owned())),
        Shape::Mixed => {
            let mut matches = of(RulePath::Prefix, format!("/service-{number}/v1"));
            if number.is_multiple_of(10) {
                let (name, value) = ("x-canary".to_owned(), "true".to_owned());
                matches.headers.push(RuleValue { name, value, regex: false });
            }
            (vec![format!("team-{}.example.com", number / 100)], matches)
        }
    }
}

fn request(shape: Shape, number: usize) -> (String, String) {
    let path = match shape {
        Shape::Prefix => format!("/team-{}/service-{number}/orders/4711", number % 100),
        Shape::Exact => format!("/team-{}/service-{number}", number % 100),
        Shape::Host => "/orders/4711".to_owned(),
        Shape::Mixed => format!("/service-{number}/v1/orders/4711"),
    };
    let host = match shape {
        Shape::Host => format!("service-{number}.example.com"),
        Shape::Mixed => format!("team-{}.example.com", number / 100),
        Shape::Prefix | Shape::Exact => "example.com".to_owned(),
    };
    (host, path)
}

fn entry(shape: Shape, number: usize, rule_name: &str) -> DeclaredEntry {
    let (hostnames, matches) = route(shape, number);
    let rule = RouteRule { name: rule_name.to_owned(), matches: vec![matches], ..RouteRule::default() };
    let route = RuleRoute {
        namespace: "default".to_owned(),
        name: format!("r{number}"),
        attachments: vec![Attachment { listener: OWN_LISTENER.to_owned(), hostnames }],
        rules: vec![rule],
        ..RuleRoute::default()
    };
    DeclaredEntry { id: format!("httproute/default/r{number}"), kind: Some(Kind::Route(route)) }
}

fn compiled(shape: Shape, routes: usize) -> (Compiler, SharedTable, Snapshot) {
    let shared = SharedTable::new();
    let mut compiler = Compiler::new(shared.clone(), PolicyName::default().policy(), Arc::default());
    let declared = (0..routes).map(|number| entry(shape, number, "")).collect();
    let (snapshot, touched) = Snapshot::empty("h")
        .change(Change { declared, ..Change::default() }, 1, true)
        .expect("nothing can dangle");
    compiler.serve(&Source { current: &snapshot, carried: None }, &touched);
    (compiler, shared, snapshot)
}

/// Nanoseconds for each look-up, of which each has to find something.
fn measure(shape: Shape, routes: usize, find: impl Fn(&str, &str) -> bool) -> Histogram<u64> {
    let mut rng = Rng::with_seed(1);
    let asked: Vec<(String, String)> = (0..50_000).map(|_| request(shape, rng.usize(..routes))).collect();
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    let mut requests = asked.iter().cycle();
    for _ in 0..BATCHES {
        let begin = Instant::now();
        for (host, path) in requests.by_ref().take(BATCH) {
            assert!(find(black_box(host), black_box(path)), "{host} {path}");
        }
        let each = begin.elapsed().as_nanos() / BATCH as u128;
        histogram.record(u64::try_from(each).unwrap_or(u64::MAX)).expect("it fits");
    }
    histogram
}

fn ours(shape: Shape, routes: usize) -> Histogram<u64> {
    let (_, shared, _) = compiled(shape, routes);
    let table = shared.load().expect("a table");
    let mut headers = HeaderMap::new();
    headers.insert("x-canary", HeaderValue::from_static("true"));
    measure(shape, routes, |host, path| {
        let request = RequestView { host, ..RequestView::plain(&Method::GET, path, &headers) };
        matches!(black_box(table.find(&request)), Found::Rule { .. })
    })
}

/// The same by `matchit`, where paths are all that differs.
fn peers(shape: Shape, routes: usize) -> Option<Histogram<u64>> {
    let below = match shape {
        Shape::Prefix => "/{*below}",
        Shape::Exact => "",
        Shape::Host | Shape::Mixed => return None,
    };
    let mut router = matchit::Router::new();
    for number in 0..routes {
        let (_, matches) = route(shape, number);
        router.insert(matches.path + below, Arc::new(number)).expect("no two are alike");
    }
    Some(measure(shape, routes, |_, path| black_box(router.at(path)).is_ok()))
}

/// Microseconds to change one route, and have a table that knows it.
fn change_one(shape: Shape, routes: usize) -> Histogram<u64> {
    let (mut compiler, _shared, mut snapshot) = compiled(shape, routes);
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    for revision in 2..500 {
        let number = revision as usize * 7919 % routes;
        let declared = vec![entry(shape, number, &revision.to_string())];
        let change = Change { declared, ..Change::default() };
        let (next, touched) = snapshot.change(change, revision, true).expect("nothing can dangle");
        let begin = Instant::now();
        compiler.serve(&Source { current: &next, carried: None }, &touched);
        histogram.record(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX)).expect("it fits");
        snapshot = next;
    }
    assert_eq!(compiler.routes_compiled(), routes as u64 + 498, "one for each change");
    histogram
}

fn main() {
    println!(
        "routes differ by            {FEW} routes p50/p99   {MANY} routes p50/p99   ratio p50/p99   one change p50/p99"
    );
    for shape in [Shape::Prefix, Shape::Exact, Shape::Host, Shape::Mixed] {
        let [few, many] = [FEW, MANY].map(|routes| ours(shape, routes));
        let change = change_one(shape, MANY);
        let change = format!("{} / {} µs", change.value_at_quantile(0.5), change.value_at_quantile(0.99));
        print_row(&format!("{shape:?}"), &few, &many, &change);
        if let (Some(few), Some(many)) = (peers(shape, FEW), peers(shape, MANY)) {
            print_row(&format!("{shape:?}, by matchit"), &few, &many, "-");
        }
    }
}

fn print_row(name: &str, few: &Histogram<u64>, many: &Histogram<u64>, change: &str) {
    let at = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile);
    let ratio = |quantile| at(many, quantile) as f64 / at(few, quantile) as f64;
    println!(
        "{name:<24} {:>10} / {} ns {:>14} / {} ns {:>12.2} / {:.2} {change:>20}",
        at(few, 0.5),
        at(few, 0.99),
        at(many, 0.5),
        at(many, 0.99),
        ratio(0.5),
        ratio(0.99),
    );
}
