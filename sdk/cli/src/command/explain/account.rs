//! An explanation, as people read it: the listener, what was looked at, what takes the request, who answers.
//!
//! Reads the proxy's JSON by its names, so that a proxy of a later version, which may say more, is understood.

use std::fmt::Write as _;

use serde_json::Value;

use crate::output::table::{self, Cell, Colour, Table};

/// Tells it in full. `asked` is the revision that was asked for, if one was.
pub(super) fn told(explanation: &Value, asked: Option<u64>, colour: bool) -> String {
    let mut said = head(explanation, asked, colour);
    let considered = considered(list(&explanation["considered"]));
    section(&mut said, "looked at, in this order", &considered.render(colour));
    if let Some(more) = explanation["more"].as_u64().filter(|more| *more > 0) {
        let _ = writeln!(said, "  and {more} more");
    }
    let outcome = &explanation["outcome"];
    if outcome["kind"] == "no_route" {
        section(&mut said, "closest", &misses(list(&outcome["nearest"])).render(colour));
    }
    for (at, filter) in list(&outcome["filters"]).iter().enumerate() {
        if at == 0 {
            said.push_str("\nfilters, in this order\n");
        }
        let _ = writeln!(said, "  {}", table::harmless(&filter.to_string()));
    }
    for backend in list(&outcome["backends"]) {
        self::backend(&mut said, backend, colour);
    }
    if outcome["kind"] == "automatic" {
        section(&mut said, "instances", &endpoints(list(&outcome["endpoints"])).render(colour));
    }
    said
}

/// The request, the listener, and what it comes to.
fn head(explanation: &Value, asked: Option<u64>, colour: bool) -> String {
    let request = &explanation["request"];
    let query = request["query"].as_str().map(|query| format!("?{query}")).unwrap_or_default();
    let host = text(&request["host"]);
    let host = if host.is_empty() { "no host".to_owned() } else { format!("host {host}") };
    let listeners = list(&explanation["listeners"]);
    let chosen: Vec<&str> =
        listeners.iter().filter(|one| one["chosen"] == true).map(|one| text(&one["id"])).collect();
    let outcome = &explanation["outcome"];
    let (verdict, shade) = verdict(outcome);
    let mut pairs: Vec<(&'static str, Cell)> = Vec::new();
    // A proxy of an older version does not say.
    if explanation["revision"].is_u64() {
        pairs.push(("revision", answers_by(explanation, asked)));
    }
    pairs.extend([
        ("request", format!("{} {}{query}, {host}", text(&request["method"]), text(&request["path"])).into()),
        ("listener", Cell::coloured(chosen.join(", "), None)),
        ("outcome", Cell::coloured(verdict, Some(shade))),
    ]);
    for (name, field) in [
        ("takes", "asks"),
        ("preflight for", "preflight"),
        ("service", "service"),
        ("forwarded", "path"),
        ("balancer", "balancer"),
    ] {
        if !text(&outcome[field]).is_empty() {
            pairs.push((name, text(&outcome[field]).into()));
        }
    }
    pairs.extend(standing(outcome));
    let mut said = Table::of_pairs(pairs).render(colour);
    let others: Vec<&Value> = listeners.iter().filter(|one| one["chosen"] != true).collect();
    let mut rejected = Table::new(&["LISTENER", "NOT CHOSEN BECAUSE"]);
    for listener in others {
        rejected.row(vec![text(&listener["id"]).into(), text(&listener["rejected"]).into()]);
    }
    section(&mut said, "other listeners", &rejected.render(colour));
    said
}

/// By what the proxy answers.
fn answers_by(explanation: &Value, asked: Option<u64>) -> Cell {
    let revision = number(&explanation["revision"]);
    let preview = &explanation["preview"];
    if preview.is_object() {
        let (changed, removed) = (list(&preview["changed"]).len(), list(&preview["removed"]).len());
        let mut said = match changed + removed {
            0 => format!("{revision}; applying the manifests would change no routing"),
            _ => format!("{revision} as if the manifests were applied: {changed} changed, {removed} removed"),
        };
        let base = preview["revision"].as_u64().unwrap_or_default();
        if explanation["revision"].as_u64() != Some(base) {
            let _ = write!(said, "; the control plane is at {base}, ask again once the proxy is there too");
        }
        return Cell::coloured(said, Some(Colour::Yellow));
    }
    if explanation["current"] == true {
        return format!("{revision}, the current one").into();
    }
    let since = match asked.filter(|asked| Some(*asked) != explanation["revision"].as_u64()) {
        Some(asked) => format!(", with the routing of {asked}; instances may have been others by then"),
        None => String::new(),
    };
    Cell::coloured(format!("{revision}, not the current one{since}"), Some(Colour::Yellow))
}

fn verdict(outcome: &Value) -> (String, Colour) {
    match text(&outcome["kind"]) {
        "rule" => {
            let name = text(&outcome["name"]);
            let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
            (format!("{}, rule {}{name}", text(&outcome["route"]), number(&outcome["rule"])), Colour::Green)
        }
        "automatic" => (format!("automatic route {}", text(&outcome["route"])), Colour::Green),
        "method_not_allowed" => {
            let allow: Vec<&str> = list(&outcome["allow"]).iter().map(text).collect();
            (format!("405: the path takes only {}", allow.join(", ")), Colour::Red)
        }
        "no_route" => (format!("404: {}", text(&outcome["why"])), Colour::Red),
        other => (other.to_owned(), Colour::Yellow),
    }
}

fn considered(looked_at: &[Value]) -> Table {
    let mut table = Table::new(&["ROUTE", "RULE", "ASKS FOR", "HOSTNAME", "VERDICT"]);
    for one in looked_at {
        let verdict = match one["rejected"].as_str() {
            Some(why) => Cell::coloured(why, Some(Colour::Grey)),
            None => Cell::coloured("takes it", Some(Colour::Green)),
        };
        table.row(vec![
            text(&one["route"]).into(),
            number(&one["rule"]).into(),
            text(&one["asks"]).into(),
            text(&one["hostname"]).into(),
            verdict,
        ]);
    }
    table
}

fn misses(nearest: &[Value]) -> Table {
    let mut table = Table::new(&["ROUTE", "RULE", "ASKS FOR", "IN THE WAY"]);
    for miss in nearest {
        let missed: Vec<&str> = list(&miss["missed"]).iter().map(text).collect();
        table.row(vec![
            text(&miss["route"]).into(),
            number(&miss["rule"]).into(),
            text(&miss["asks"]).into(),
            Cell::coloured(missed.join("; "), Some(Colour::Red)),
        ]);
    }
    table
}

fn backend(said: &mut String, backend: &Value, colour: bool) {
    let mut title = format!("backend {}", text(&backend["service"]));
    if let Some(share) = backend["share"].as_f64() {
        let _ = write!(title, ", {:.1} % of the requests", share * 100.0);
    }
    for (name, field) in [("versions", "versions"), ("tags", "tags")] {
        let values: Vec<&str> = list(&backend[field]).iter().map(text).collect();
        if !values.is_empty() {
            let _ = write!(title, ", {name} {}", values.join(","));
        }
    }
    if let Some(balancer) = backend["balancer"].as_str() {
        let _ = write!(title, ", balanced by {balancer}");
    }
    let _ = writeln!(said, "\n{}", table::harmless(&title));
    if let Some(problem) = backend["problem"].as_str() {
        let _ = writeln!(said, "  {}", table::paint(&table::harmless(problem), Some(Colour::Red), colour));
    }
    for filter in list(&backend["filters"]) {
        let _ = writeln!(said, "  filter {}", table::harmless(&filter.to_string()));
    }
    indented(said, &Table::of_pairs(standing(backend)).render(colour));
    indented(said, &endpoints(list(&backend["endpoints"])).render(colour));
}

/// How the service stands at this proxy: what its breaker does, how much of each limit is used, and whether it panics. A
/// proxy of an older version says less.
fn standing(service: &Value) -> Vec<(&'static str, Cell)> {
    let mut pairs: Vec<(&'static str, Cell)> = Vec::new();
    if service["panic"] == true {
        let why = match text(&service["panic_because"]) {
            "" => "too few instances are well",
            why => why,
        };
        let said = format!("{why}; so those that are ejected or ill take requests, too");
        pairs.push(("panic", Cell::coloured(said, Some(Colour::Red))));
    }
    let breaker = text(&service["breaker"]);
    if !breaker.is_empty() {
        let shade = if breaker == "closed" { None } else { Some(Colour::Red) };
        pairs.push(("breaker", Cell::coloured(breaker, shade)));
    }
    if let Some(left) = service["retries_left"].as_u64() {
        let shade = if left == 0 { Some(Colour::Red) } else { None };
        pairs.push(("retries left", Cell::coloured(left.to_string(), shade)));
    }
    pairs.extend(limits(service).map(|limits| ("limits used", limits)));
    pairs
}

/// How much of each limit is used: `maxRequests 7 of 10`.
fn limits(service: &Value) -> Option<Cell> {
    let declared = list(&service["limits"]).iter();
    let declared = declared.map(|limit| (text(&limit["limit"]), &limit["used"], &limit["most"]));
    let concurrency = Some(&service["concurrency"]).filter(|concurrency| concurrency.is_object());
    let followed = concurrency.map(|now| ("adaptiveConcurrency", &now["under_way"], &now["limit"]));
    let (mut said, mut shade) = (Vec::new(), None);
    for (name, used, most) in declared.chain(followed) {
        said.push(format!("{name} {} of {}", number(used), number(most)));
        if used.as_u64() >= most.as_u64() {
            shade = Some(Colour::Red);
        }
    }
    (!said.is_empty()).then(|| Cell::coloured(said.join(", "), shade))
}

fn endpoints(endpoints: &[Value]) -> Table {
    let mut table =
        Table::new(&["INSTANCE", "ADDRESS", "STATE", "PICKED", "WEIGHT", "IN FLIGHT", "SCORE", "HEALTH"]);
    for endpoint in endpoints {
        let state = text(&endpoint["state"]).to_lowercase();
        let shade = if state == "up" { Colour::Green } else { Colour::Yellow };
        table.row(vec![
            text(&endpoint["id"]).into(),
            text(&endpoint["address"]).into(),
            Cell::coloured(state, Some(shade)),
            if endpoint["selected"] == false { "never" } else { "yes" }.into(),
            weight(endpoint).into(),
            number(&endpoint["in_flight"]).into(),
            number(&endpoint["score"]).into(),
            health(endpoint),
        ]);
    }
    table
}

/// Its weight, and how much of that it gets where it is busy: `1, of which 25 %`.
fn weight(endpoint: &Value) -> String {
    let weight = number(&endpoint["weight"]);
    match endpoint["share_percent"].as_u64() {
        Some(share) if share < 100 => format!("{weight}, of which {share} %"),
        _ => weight,
    }
}

/// How the proxy finds an endpoint, and why it skips it where it does.
fn health(endpoint: &Value) -> Cell {
    let (said, cooling) =
        (text(&endpoint["health"]), endpoint["cooling_down_ms"].as_u64().unwrap_or_default());
    if cooling > 0 {
        let also = if said.is_empty() || said == "well" { String::new() } else { format!("{said}; ") };
        let cooling = format!("{also}cooling down: connections failed, for another {cooling} ms");
        return Cell::coloured(cooling, Some(Colour::Yellow));
    }
    Cell::coloured(said, if said.is_empty() || said == "well" { None } else { Some(Colour::Yellow) })
}

fn section(said: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        let _ = writeln!(said, "\n{title}");
        indented(said, body);
    }
}

fn indented(said: &mut String, body: &str) {
    for line in body.lines() {
        let _ = writeln!(said, "  {line}");
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> String {
    if value.is_number() { value.to_string() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_told_with_its_listener_its_rivals_and_its_instances() {
        let explanation = json!({
            "request": { "method": "GET", "host": "shop.example", "path": "/cart", "query": "a=b", "port": 0 },
            "listeners": [
                { "id": "listener/default/waypost/http", "port": 0, "hostname": "*", "chosen": true },
                { "id": "listener/default/edge/tls", "port": 443, "hostname": "*", "chosen": false,
                  "rejected": "its port is 443" },
            ],
            "considered": [
                { "route": "httproute/default/beta", "rule": 0, "match": 0, "asks": "/cart header x-beta=1",
                  "hostname": "*", "rejected": "header x-beta is missing" },
                { "route": "httproute/default/shop", "rule": 1, "match": 0, "asks": "/cart*", "hostname": "*" },
            ],
            "more": 2,
            "outcome": {
                "kind": "rule", "route": "httproute/default/shop", "rule": 1, "name": "cart", "asks": "/cart*",
                "path": "/cart", "filters": [{ "request_headers": { "set": [] } }],
                "backends": [{
                    "service": "default/cart", "weight": 3, "share": 0.75, "balancer": "peak_ewma",
                    "endpoints": [
                        { "id": "a", "address": "10.0.0.7:1", "state": "UP", "selected": true, "weight": 1,
                          "in_flight": 2, "score": 2.0, "cooling_down_ms": 0, "health": "well" },
                        { "id": "b", "address": "10.0.0.8:1", "state": "UP", "selected": true, "weight": 1,
                          "in_flight": 0, "score": 0.0, "cooling_down_ms": 0,
                          "health": "ejected: 5 errors in a row, for another 800 ms" },
                        { "id": "c", "address": "10.0.0.9:1", "state": "UP", "selected": true, "weight": 1,
                          "in_flight": 0, "score": 0.0, "cooling_down_ms": 700 },
                    ],
                }],
            },
        });
        let said = told(&explanation, None, false);
        for part in [
            "request    GET /cart?a=b, host shop.example\n",
            "listener   listener/default/waypost/http\n",
            "outcome    httproute/default/shop, rule 1 (cart)\n",
            "its port is 443",
            "header x-beta is missing",
            "takes it",
            "and 2 more",
            "filters, in this order\n  {\"request_headers\"",
            "backend default/cart, 75.0 % of the requests, balanced by peak_ewma\n",
            "10.0.0.7:1  up",
            "2.0    well\n",
            "ejected: 5 errors in a row, for another 800 ms\n",
            "cooling down: connections failed, for another 700 ms\n",
        ] {
            assert!(said.contains(part), "{part:?} in\n{said}");
        }
    }

    #[test]
    fn how_a_service_stands_is_told_of_backends_and_of_automatic_routes() {
        let standing = json!({
            "service": "cart", "balancer": "least-request", "endpoints": [],
            "panic": true, "panic_because": "1 of 3 instances are well, and the policy asks for 50 %",
            "breaker": "open for another 3s", "retries_left": 12,
            "limits": [{ "limit": "maxRequests", "used": 7, "most": 10 }],
            "concurrency": { "limit": 24, "under_way": 24 },
        });
        let mut automatic = standing.clone();
        automatic["kind"] = "automatic".into();
        for outcome in [automatic, json!({ "kind": "rule", "backends": [standing] })] {
            let said = told(&json!({ "outcome": outcome }), None, false);
            for parts in [
                [
                    "panic ",
                    "1 of 3 instances are well, and the policy asks for 50 %; so those that are ejected",
                ],
                ["breaker ", "open for another 3s\n"],
                ["retries left ", "12\n"],
                ["limits used ", "maxRequests 7 of 10, adaptiveConcurrency 24 of 24\n"],
            ] {
                let line =
                    said.split_inclusive('\n').find(|line| parts.iter().all(|part| line.contains(part)));
                assert!(line.is_some(), "{parts:?} in\n{said}");
            }
        }
        let older = json!({ "outcome": { "kind": "automatic", "service": "cart", "panic": false } });
        let said = told(&older, None, false);
        for absent in ["panic", "breaker", "retries left", "limits"] {
            assert!(!said.contains(absent), "{absent:?} in\n{said}");
        }
    }

    #[test]
    fn what_nothing_takes_is_told_with_the_closest_misses() {
        let explanation = json!({ "outcome": {
            "kind": "no_route", "why": "every rule whose path could take it asks for something else",
            "nearest": [{ "route": "httproute/default/shop", "rule": 0, "asks": "POST /cart", "listener": "l",
                          "missed": ["the method is GET, and POST is asked for"] }],
        }});
        let said = told(&explanation, None, false);
        assert!(said.contains("404: every rule") && said.contains("POST is asked for"), "{said}");
    }
}
