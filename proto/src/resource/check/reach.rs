//! Rules that no request can reach, since another one takes all that they could.
//!
//! At one listener and hostname, exact paths go first, then regular expressions, then the longest prefix, then a gRPC
//! method of any service, then what takes every path; among those with one path a method, more header fields, more query
//! parameters, the older route, its name, its rules in order. So what takes all of a match is the same match in a route that
//! goes first, or a regular expression for every path.
//!
//! A rule all of whose matches another rule of its own route takes is an error: no other route's change would ever have
//! it reached. What another route takes is a warning, since that one may go. So is such a rule of a GRPCRoute: the specification's
//! own conformance suite has one (`grpcroute-request-header-modifier.yaml`).
//!
//! Deliberately absent: whether one regular expression takes all that another one does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use super::{
    Member,
    attach::Spot,
    problem::{Cause, Problem},
    route::{self, Route, Rules},
};
use crate::resource::{
    FieldPath, Finding, Kind,
    route::{GrpcMatch, HttpMatch, PathMatchType, ValueMatch, ValueMatchType},
};

/// Regular expressions that take every path.
const EVERY_PATH: [&str; 3] = ["/.*", ".*", ".+"];

/// Why such a one goes first.
const TAKES_EVERY_PATH: &str = "takes every path, and a regular expression goes before all but an exact path";

/// What a request must be like, as far as it decides who takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape<'a> {
    path: Path,
    method: Option<&'static str>,
    /// Sorted.
    headers: Vec<(String, &'a str, bool)>,
    /// Sorted.
    query: Vec<(&'a str, &'a str, bool)>,
}

/// In the order in which they are looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Path {
    Exact(String),
    Regex(String),
    /// Without a slash at the end; not empty.
    Prefix(String),
    /// A gRPC method of any service.
    GrpcMethod(String),
    Every,
}

impl Path {
    fn prefix(text: &str) -> Self {
        match text.trim_end_matches('/') {
            "" => Self::Every,
            text => Self::Prefix(text.to_owned()),
        }
    }

    fn rank(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(text) => (0, Reverse(text.len())),
            Self::Regex(text) => (1, Reverse(text.len())),
            Self::Prefix(text) => (2, Reverse(text.len())),
            Self::GrpcMethod(text) => (3, Reverse(text.len())),
            Self::Every => (4, Reverse(0)),
        }
    }
}

impl<'a> Shape<'a> {
    fn http(of: &'a HttpMatch) -> Self {
        let value = of.path.value.as_str();
        let path = match of.path.r#type {
            PathMatchType::Exact => Path::Exact(value.to_owned()),
            PathMatchType::PathPrefix => Path::prefix(value),
            PathMatchType::RegularExpression => Path::Regex(value.to_owned()),
        };
        let mut query: Vec<_> =
            of.query_params.iter().map(|it| (it.name.as_str(), it.value.as_str(), is_regex(it))).collect();
        query.sort_unstable();
        Self { path, method: of.method.map(|method| method.name()), headers: headers(&of.headers), query }
    }

    fn grpc(of: &'a GrpcMatch) -> Self {
        let path = match &of.method {
            None => Path::Every,
            Some(of) => match (of.r#type, &of.service, &of.method) {
                (_, None, None) => Path::Every,
                (ValueMatchType::Exact, Some(service), Some(method)) => {
                    Path::Exact(format!("/{service}/{method}"))
                }
                (ValueMatchType::Exact, Some(service), None) => Path::Prefix(format!("/{service}")),
                (ValueMatchType::Exact, None, Some(method)) => Path::GrpcMethod(method.clone()),
                (ValueMatchType::RegularExpression, service, method) => {
                    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "[^/]+".to_owned());
                    Path::Regex(format!("/{}/{}", part(service), part(method)))
                }
            },
        };
        Self { path, method: None, headers: headers(&of.headers), query: Vec::new() }
    }

    /// Whether it takes all requests that the other one takes, whose path it takes.
    fn covers_beside_path(&self, other: &Self) -> bool {
        (self.method.is_none() || self.method == other.method)
            && self.headers.iter().all(|header| other.headers.contains(header))
            && self.query.iter().all(|parameter| other.query.contains(parameter))
    }

    fn rank(&self) -> impl Ord + use<> {
        let (headers, query) = (Reverse(self.headers.len()), Reverse(self.query.len()));
        (self.path.rank(), self.method.is_none(), headers, query)
    }

    fn takes_every_path(&self) -> bool {
        matches!(&self.path, Path::Regex(text) if EVERY_PATH.contains(&text.as_str()))
    }
}

fn is_regex(value: &ValueMatch) -> bool {
    value.r#type == ValueMatchType::RegularExpression
}

fn headers(of: &[ValueMatch]) -> Vec<(String, &str, bool)> {
    let mut headers: Vec<_> =
        of.iter().map(|it| (it.name.to_ascii_lowercase(), it.value.as_str(), is_regex(it))).collect();
    headers.sort_unstable();
    headers
}

/// A match of a rule of a route.
struct Entry<'a> {
    route: Member<'a>,
    /// The rule, and the match in it.
    place: (usize, usize),
    shape: Shape<'a>,
}

impl Entry<'_> {
    fn precedence(&self) -> impl Ord + use<> {
        (self.shape.rank(), self.route.precedence(), self.place)
    }

    fn field(&self) -> FieldPath {
        route::field(self.place.0).item("matches", self.place.1)
    }
}

/// A listener's Gateway and name, and a hostname there.
type Site<'a> = ((&'a str, &'a str), &'a str, String);

/// All matches of all routes.
#[derive(Default)]
pub(super) struct Reach<'a> {
    entries: Vec<Entry<'a>>,
    sites: HashMap<Site<'a>, Vec<usize>>,
    /// The matches of rules that their own routes never let anything reach, each with who takes its requests.
    dead: BTreeMap<usize, usize>,
}

impl<'a> Reach<'a> {
    /// A route, at the listeners that take requests for it.
    pub(super) fn add(&mut self, route: &Route<'a>, spots: Vec<Spot<'a>>) {
        let first = self.entries.len();
        let mut add = |rule: usize, index: usize, shape: Shape<'a>| {
            self.entries.push(Entry { route: route.member, place: (rule, index), shape });
        };
        match route.rules {
            Rules::Http(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    rule.matches.iter().enumerate().for_each(|(at, it)| add(index, at, Shape::http(it)));
                }
            }
            Rules::Grpc(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    if rule.matches.is_empty() {
                        let (headers, query) = (Vec::new(), Vec::new());
                        let shape = Shape { path: Path::Every, method: None, headers, query };
                        add(index, 0, shape);
                    }
                    rule.matches.iter().enumerate().for_each(|(at, it)| add(index, at, Shape::grpc(it)));
                }
            }
        }
        let added: Vec<usize> = (first..self.entries.len()).collect();
        self.note_dead(&added);
        for mut spot in spots {
            if spot.hostnames.is_empty() {
                spot.hostnames.push(String::new());
            }
            for hostname in spot.hostnames {
                let site = (spot.gateway, spot.listener, hostname);
                self.sites.entry(site).or_default().extend(&added);
            }
        }
    }

    /// Takes down which rules of a route lose all of their matches to others of it. As all have the route's hostnames
    /// and listeners, these are of no account.
    fn note_dead(&mut self, entries: &[usize]) {
        // Of a single rule, one match goes first.
        if entries.last().is_none_or(|last| self.entries[*last].place.0 == 0) {
            return;
        }
        let taken: BTreeMap<usize, usize> = self.taken_at(entries).into_iter().collect();
        let rule = |entry: usize| self.entries[entry].place.0;
        let alive: HashSet<usize> =
            entries.iter().filter(|entry| !taken.contains_key(entry)).map(|entry| rule(*entry)).collect();
        let dead: Vec<(usize, usize)> =
            taken.into_iter().filter(|(loser, _)| !alive.contains(&rule(*loser))).collect();
        self.dead.extend(dead);
    }

    /// The rules and matches that no request reaches, at all or at some hostnames.
    pub(super) fn problems(self) -> Vec<Problem<'a>> {
        let mut problems: Vec<Problem<'a>> =
            self.dead.iter().filter_map(|(loser, winner)| self.dead_rule(*loser, *winner)).collect();
        // By match: at how many hostnames it is, and at which it is taken by whom.
        let mut seen: HashMap<usize, usize> = HashMap::new();
        let mut taken: BTreeMap<usize, Vec<(&Site<'a>, usize)>> = BTreeMap::new();
        for (site, entries) in &self.sites {
            let told = |(loser, _): &(usize, usize)| !self.dead.contains_key(loser);
            for (loser, winner) in self.taken_at(entries).into_iter().filter(told) {
                taken.entry(loser).or_default().push((site, winner));
            }
            entries.iter().for_each(|entry| *seen.entry(*entry).or_default() += 1);
        }
        for (loser, mut by) in taken {
            by.sort_unstable_by(|left, right| left.0.cmp(right.0));
            let everywhere = seen.get(&loser).is_some_and(|sites| *sites == by.len());
            if let Some((site, winner)) = by.first() {
                problems.push(self.problem(&self.entries[loser], &self.entries[*winner], site, everywhere));
            }
        }
        problems
    }

    /// Of the matches at one listener and hostname, those that are taken, each with who takes it.
    fn taken_at(&self, entries: &[usize]) -> Vec<(usize, usize)> {
        let mut first: HashMap<&Shape<'a>, usize> = HashMap::with_capacity(entries.len());
        let goes_first =
            |one: usize, other: usize| self.entries[one].precedence() < self.entries[other].precedence();
        for entry in entries {
            let held = first.entry(&self.entries[*entry].shape).or_insert(*entry);
            if goes_first(*entry, *held) {
                *held = *entry;
            }
        }
        let widest: Vec<usize> =
            first.values().copied().filter(|entry| self.entries[*entry].shape.takes_every_path()).collect();
        let taken = |entry: usize| {
            let shape = &self.entries[entry].shape;
            let same = first.get(shape).copied().filter(|winner| *winner != entry);
            same.or_else(|| {
                let wide = widest.iter().copied().filter(|wide| {
                    *wide != entry
                        && self.entries[*wide].shape.covers_beside_path(shape)
                        && goes_first(*wide, entry)
                });
                wide.min()
            })
        };
        entries.iter().filter_map(|entry| taken(*entry).map(|winner| (*entry, winner))).collect()
    }

    /// A rule that no request reaches, told at the first of its matches.
    fn dead_rule(&self, loser: usize, winner: usize) -> Option<Problem<'a>> {
        let (loser, winner) = (&self.entries[loser], &self.entries[winner]);
        if loser.place.1 > 0 {
            return None;
        }
        let same = winner.shape == loser.shape;
        let (who, why) =
            (winner.field(), if same { "is the same and comes first" } else { TAKES_EVERY_PATH });
        let reason = format!("is never reached: {who} {why}");
        let how = if same {
            "delete it or change its matches; to share requests among backends, list them in one rule's backendRefs"
                .to_owned()
        } else {
            narrower(&who, loser, winner)
        };
        let (key, field) = (loser.route.manifest.key(), route::field(loser.place.0));
        let is_http = key.kind() == Kind::HttpRoute;
        let finding = if is_http { Finding::error(field, reason) } else { Finding::warning(field, reason) };
        Some(Problem::own(key, finding.suggest(how)))
    }

    fn problem(
        &self,
        loser: &Entry<'a>,
        winner: &Entry<'a>,
        site: &Site<'a>,
        everywhere: bool,
    ) -> Problem<'a> {
        let (subject, other) = (loser.route.manifest.key(), winner.route.manifest.key());
        let who = if subject == other {
            winner.field().to_string()
        } else {
            format!("{} of {other}", winner.field())
        };
        let (why, how) = if winner.shape != loser.shape {
            (TAKES_EVERY_PATH, narrower(&who, loser, winner))
        } else if subject == other {
            ("is the same and comes first", "delete it".to_owned())
        } else {
            let why = if winner.route.created_at == loser.route.created_at {
                "is the same, and of two routes that are equally old the first by name counts"
            } else {
                "is the same and older"
            };
            (why, "change the matches or the hostnames of one of the two, or delete one".to_owned())
        };
        let reason = if everywhere {
            format!("is never reached: {who} {why}")
        } else {
            let ((namespace, gateway), listener, hostname) = site;
            let host = if hostname.is_empty() { "any host" } else { hostname };
            format!(
                "is not reached at {host}, listener {listener} of Gateway {namespace}/{gateway}: {who} {why}"
            )
        };
        Problem::with(subject, Finding::warning(loser.field(), reason).suggest(how), Cause::of(other))
    }
}

/// How a match that takes every path leaves another one its own.
fn narrower(who: impl fmt::Display, loser: &Entry<'_>, winner: &Entry<'_>) -> String {
    let last = Shape { path: Path::Every, ..winner.shape.clone() };
    if last == loser.shape {
        return format!("delete it, or have {who} take less");
    }
    format!("write the path of {who} as \"{{type: PathPrefix, value: /}}\", which goes last")
}
