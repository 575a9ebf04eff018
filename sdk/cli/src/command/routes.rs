//! `waypost routes`: which requests go where, and which claims lost.

use std::time::SystemTime;

use waypost_proto::v1::{self, PathMatch};

use super::services::REGISTER_ONE;
use crate::{
    api,
    args::Global,
    failure::Failure,
    output::{
        Listed, Output,
        table::{Cell, Colour, Table},
        text,
    },
};

/// Lists routes.
///
/// # Errors
/// The control plane does not answer.
pub(super) async fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let client = api::client(global)?;
    let answer = client.routes(api::namespace(global)).await?;
    if answer.routes.is_empty() {
        output.note(format!("no routes; a service makes its own: {REGISTER_ONE}"));
    }
    let document = Listed::new(&answer, "routes", answer.routes.len());
    output.result(&document, |_| table(&answer.routes, SystemTime::now()))
}

fn table(routes: &[v1::Route], now: SystemTime) -> Table {
    let mut table = Table::new(&["METHOD", "PATH", "SERVICE", "FORWARDED", "VERSIONS", "AGE", "LOST CLAIMS"]);
    let none = v1::RouteEntry::default();
    for route in routes {
        let entry = route.entry.as_ref().unwrap_or(&none);
        let losers: Vec<String> = route.shadowed.iter().map(|key| text::service(Some(key))).collect();
        table.row(vec![
            if entry.method.is_empty() { "any" } else { &entry.method }.into(),
            path(entry).into(),
            text::service(entry.service.as_ref()).into(),
            if entry.strip_prefix { "without the prefix" } else { "as it is" }.into(),
            if entry.versions.is_empty() { "any".to_owned() } else { entry.versions.join(",") }.into(),
            text::age(now, text::stamp(route.claimed_at.as_ref())).into(),
            Cell::coloured(losers.join(", "), (!losers.is_empty()).then_some(Colour::Red)),
        ]);
    }
    table
}

/// The path, so that a prefix can be told from a template: `/users/*`.
fn path(entry: &v1::RouteEntry) -> String {
    match entry.r#match() {
        PathMatch::Prefix => format!("{}/*", entry.path.trim_end_matches('/')),
        PathMatch::Template | PathMatch::Unspecified => entry.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_prefix_and_a_template_look_different() {
        let service = |name: &str| v1::ServiceKey { namespace: "default".into(), name: name.into() };
        let entry = |path: &str, method: &str, kind: PathMatch| v1::RouteEntry {
            service: Some(service("users")),
            path: path.into(),
            method: method.into(),
            r#match: kind.into(),
            strip_prefix: kind == PathMatch::Prefix,
            ..Default::default()
        };
        let routes = [
            v1::Route {
                entry: Some(entry("/users", "", PathMatch::Prefix)),
                shadowed: vec![service("old")],
                ..Default::default()
            },
            v1::Route { entry: Some(entry("/users/{id}", "GET", PathMatch::Template)), ..Default::default() },
        ];
        assert_eq!(
            table(&routes, UNIX_EPOCH).render(false),
            "METHOD  PATH         SERVICE  FORWARDED           VERSIONS  AGE  LOST CLAIMS\n\
             any     /users/*     users    without the prefix  any       -    old\n\
             GET     /users/{id}  users    as it is            any       -    -\n"
        );
    }
}
