//! Why a request goes where it goes: the matcher itself, watched at work.
//!
//! Deliberately absent: a second matcher. What is reported is what the search told its observer; only the nearest
//! misses, where nothing matched, are looked for among all routes.

mod nearest;
mod report;

use super::{
    Backend, BackendRef, Candidate, Declared, Failed, Host, Hostname, Listener, Observer, Placed,
    RequestView, Site, candidate::announces, host_name,
};
use crate::table::{Found, Table};
pub use report::{
    BackendReport, Considered, EndpointReport, Explanation, ListenerReport, Miss, Outcome, RequestReport,
    RouteReport, RuleReport,
};

/// How many matches are reported at most, of those that were looked at.
const MOST: usize = 100;

/// Takes notes of a search.
#[derive(Debug, Default)]
struct Notes {
    chosen: Vec<String>,
    /// The hostnames of the chosen listeners' routes that take the host, in the order in which they are tried.
    hostnames: Vec<Hostname>,
    /// How many of those have been begun.
    begun: usize,
    considered: Vec<Considered>,
    more: usize,
}

struct Watch<'a> {
    host: &'a Host,
    request: &'a RequestView<'a>,
    notes: Notes,
}

impl Observer for Watch<'_> {
    fn chosen(&mut self, site: &Site) {
        self.notes.chosen = site.listeners.iter().map(|listener| listener.id.to_string()).collect();
        self.notes.hostnames = site.hosts.names_matching(self.host);
    }

    fn hostname(&mut self) {
        self.notes.begun += 1;
    }

    fn considered(&mut self, placed: &Placed, failed: Option<Failed<'_>>) {
        if self.notes.considered.len() == MOST {
            self.notes.more += 1;
            // The winner is never left out.
            if failed.is_some() {
                return;
            }
            self.notes.considered.pop();
        }
        let hostname = self.notes.begun.checked_sub(1).and_then(|at| self.notes.hostnames.get(at));
        let rejected = failed.map(|failed| failed.describe(&placed.candidate, self.request));
        self.notes.considered.push(Considered::of(placed, hostname, rejected));
    }
}

/// Says why a request goes where it goes. The path must be [normalised](crate::table::path::normalised).
pub fn explain(table: &Table, request: &RequestView<'_>) -> Explanation {
    let declared = &table.declared;
    let host = Host::of(host_name(request.host));
    let mut watch = Watch { host: &host, request, notes: Notes::default() };
    let hit = declared.search(request, &mut watch);
    let notes = watch.notes;
    let outcome = match hit {
        Some((placed, taken)) => Outcome::Rule(Box::new(RuleReport::of(table, placed, taken, request))),
        None => match table.automatic(request) {
            Found::Route(target) => Outcome::Automatic(RouteReport::of(&target, request.path)),
            Found::MethodNotAllowed { allow } => {
                Outcome::MethodNotAllowed { allow: allow.into_iter().map(str::to_owned).collect() }
            }
            Found::Rule { .. } | Found::None => Outcome::NoRoute {
                why: why_not(declared, &notes, request, host.as_str()),
                nearest: nearest::misses(declared, request, &host),
            },
        },
    };
    Explanation {
        request: RequestReport::of(request, declared.is_own(request.port)),
        listeners: listeners(declared, request, &host, &notes.chosen),
        hostnames: notes.hostnames.iter().take(notes.begun).map(ToString::to_string).collect(),
        considered: notes.considered,
        more: notes.more,
        outcome,
    }
}

/// Whether plain HTTP for a host is refused at a port, since the listeners for it speak TLS alone.
pub(crate) fn is_https_only(table: &Table, port: u16, host: &str) -> bool {
    let (declared, host) = (&table.declared, Host::of(host_name(host)));
    let site = declared.sites.get(&declared.port(port)).and_then(|sites| sites.matching(&host).next());
    site.is_some_and(|site| site.listeners.iter().all(|listener| listener.is_tls()))
}

/// Why no rule took it, in a sentence.
fn why_not(declared: &Declared, notes: &Notes, request: &RequestView<'_>, host: &str) -> String {
    let automatic = if declared.is_own(request.port) {
        ", and no automatic route has a prefix or template for it"
    } else {
        ""
    };
    if notes.chosen.is_empty() {
        return format!("no listener on this port takes the host {host:?}");
    }
    if notes.hostnames.is_empty() {
        return format!("no route at this listener takes the host {host:?}{automatic}");
    }
    if notes.considered.is_empty() {
        return format!(
            "no rule of a route for this host has a path that takes {:?}{automatic}",
            request.path
        );
    }
    format!("every rule whose path could take it asks for something else{automatic}")
}

/// All listeners: which were chosen, and why the others were not.
fn listeners(
    declared: &Declared,
    request: &RequestView<'_>,
    host: &Host,
    chosen: &[String],
) -> Vec<ListenerReport> {
    let port = declared.port(request.port);
    let mut reports: Vec<ListenerReport> = declared
        .listeners()
        .map(|listener| {
            let is_chosen = chosen.iter().any(|id| **id == *listener.id);
            let rejected = (!is_chosen).then(|| not_chosen(listener, port, host));
            ListenerReport::of(listener, rejected)
        })
        .collect();
    reports.sort_by(|a, b| (!a.chosen, &a.id).cmp(&(!b.chosen, &b.id)));
    reports
}

fn not_chosen(listener: &Listener, port: u16, host: &Host) -> String {
    if listener.port != port {
        match listener.port {
            0 => "it is the proxy's own port".to_owned(),
            port => format!("its port is {port}"),
        }
    } else if listener.hostname.takes(host) {
        "another listener's hostname is more specific".to_owned()
    } else {
        format!("its hostname does not take {:?}", host.as_str())
    }
}

impl Failed<'_> {
    /// What the request has, and what is asked for.
    fn describe(self, candidate: &Candidate, request: &RequestView<'_>) -> String {
        match self {
            Self::Path => format!("the path does not fit {}", candidate.path),
            Self::Method => {
                let Some(wanted) = &candidate.method else { return String::new() };
                let preflight = if announces(request, wanted) {
                    "; the rule has no CORS filter that answers preflights for that"
                } else {
                    ""
                };
                format!("the method is {}, and {wanted} is asked for{preflight}", request.method)
            }
            Self::Header(header) => {
                let wanted = header.pattern.wanted();
                if header.is_host() {
                    return format!("the host is no header field, and {wanted} is asked for; use hostnames");
                }
                match header.value(request.headers).map(|has| String::from_utf8_lossy(&has).into_owned()) {
                    Some(has) => format!("header {} is {has:?}, and {wanted} is asked for", header.name),
                    None => format!("header {} is missing, and {wanted} is asked for", header.name),
                }
            }
            Self::Query(query) => {
                let wanted = query.pattern.wanted();
                match query.value(request.query) {
                    Some(has) => {
                        format!("query parameter {} is {has:?}, and {wanted} is asked for", query.name)
                    }
                    None => format!("query parameter {} is missing, and {wanted} is asked for", query.name),
                }
            }
        }
    }
}

/// What a rule's backend stands for, for the report.
fn resolve<'a>(table: &'a Table, backend: &waypost_proto::v1::RouteBackend) -> Option<Backend<'a>> {
    table.backend(&BackendRef::of(backend).ok()?)
}

#[cfg(test)]
mod tests;
