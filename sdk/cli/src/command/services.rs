//! `waypost services`: what is registered.

use std::time::SystemTime;

use waypost_proto::{name::ServiceKey, v1};
use waypost_sdk::{Client, Error};

use super::instances;
use crate::{
    api,
    args::Global,
    failure::{Exit, Failure},
    output::{
        Listed, Output,
        table::{Cell, Colour, Table},
        text,
    },
};

/// How anything gets registered.
pub(super) const REGISTER_ONE: &str =
    "register one with: waypost register --service NAME --address HOST:PORT";

/// Lists services, or shows one.
///
/// # Errors
/// The control plane does not answer, or has no such service.
pub(super) async fn run(global: &Global, output: &Output, name: Option<String>) -> Result<(), Failure> {
    let client = api::client(global)?;
    let Some(name) = name else { return list(&client, api::namespace(global), output).await };
    let key = ServiceKey::from_wire(Some(&api::service(global, &name))).map_err(Error::from)?;
    let answer = client.service(&key).await?;
    if !output.format.is_table() {
        return output.document(&answer);
    }
    let Some(service) = &answer.service else {
        return Err(Failure::new(Exit::Failed, "the control plane's answer holds no service"));
    };
    let now = SystemTime::now();
    output.text(&detail(service, now).render(output.colour()))?;
    output.line("")?;
    output.result(&answer, |wide| instances::table(&answer.instances, now, wide))
}

async fn list(client: &Client, namespace: &str, output: &Output) -> Result<(), Failure> {
    let answer = client.services(namespace).await?;
    if answer.services.is_empty() {
        let within = if namespace.is_empty() { String::new() } else { format!(" in namespace {namespace}") };
        output.note(format!("no services{within}; {REGISTER_ONE}"));
    }
    let document = Listed::new(&answer, "services", answer.services.len());
    output.result(&document, |wide| table(&answer.services, SystemTime::now(), wide))
}

fn table(services: &[v1::Service], now: SystemTime, wide: bool) -> Table {
    let header =
        ["NAME", "UP", "DOWN", "DRAINING", "SUSPECT", "VERSIONS", "AGE", "CONFLICTS", "TAGS", "DESCRIPTION"];
    let columns = if wide { header.len() } else { 8 };
    let mut table = Table::new(&header[..columns]);
    for service in services {
        let mut row: Vec<Cell> = vec![
            text::service(service.key.as_ref()).into(),
            number(service.up, if service.up == 0 { Colour::Red } else { Colour::Green }, true),
            number(service.down, Colour::Red, false),
            number(service.draining, Colour::Yellow, false),
            number(service.suspect, Colour::Yellow, false),
            service.versions.join(",").into(),
            text::age(now, text::stamp(service.since.as_ref())).into(),
            number(u32::try_from(service.conflicts.len()).unwrap_or(u32::MAX), Colour::Red, false),
            service.tags.join(",").into(),
            service.description.as_str().into(),
        ];
        row.truncate(columns);
        table.row(row);
    }
    table
}

fn detail(service: &v1::Service, now: SystemTime) -> Table {
    let mut pairs: Vec<(&'static str, Cell)> = vec![
        ("service", text::service(service.key.as_ref()).into()),
        ("description", service.description.as_str().into()),
        ("instances", states(service).into()),
        ("versions", service.versions.join(", ").into()),
        ("tags", service.tags.join(", ").into()),
        ("age", text::age(now, text::stamp(service.since.as_ref())).into()),
    ];
    for conflict in &service.conflicts {
        pairs.push(("conflict", Cell::coloured(conflict_text(conflict), Some(Colour::Red))));
    }
    Table::of_pairs(pairs)
}

fn states(service: &v1::Service) -> String {
    let counts = [
        (service.up, "up"),
        (service.down, "down"),
        (service.draining, "draining"),
        (service.suspect, "suspect"),
    ];
    let present =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}"));
    present.collect::<Vec<_>>().join(", ")
}

/// A lost claim in words.
pub(super) fn conflict_text(conflict: &v1::Conflict) -> String {
    let (winner, loser) = (text::service(conflict.winner.as_ref()), text::service(conflict.loser.as_ref()));
    format!("{} belongs to {winner}, whose claim is older than that of {loser}", conflict.route)
}

/// A count that only stands out where it is not zero, or always.
fn number(count: u32, colour: Colour, always: bool) -> Cell {
    Cell::coloured(count.to_string(), Some(if count > 0 || always { colour } else { Colour::Grey }))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use waypost_proto::time::timestamp;

    use super::*;

    #[test]
    fn services_are_summed_up_in_a_line() {
        let service = v1::Service {
            key: Some(v1::ServiceKey { namespace: "default".into(), name: "users".into() }),
            description: "Who is who".into(),
            up: 2,
            draining: 1,
            versions: vec!["1".into(), "2".into()],
            since: Some(timestamp(UNIX_EPOCH)),
            ..Default::default()
        };
        let now = UNIX_EPOCH + Duration::from_secs(180);
        let other = v1::Service {
            key: Some(v1::ServiceKey { namespace: "shop".into(), name: "cart".into() }),
            ..Default::default()
        };
        assert_eq!(
            table(&[service.clone(), other], now, false).render(false),
            "NAME       UP  DOWN  DRAINING  SUSPECT  VERSIONS  AGE  CONFLICTS\n\
             users      2   0     1         0        1,2       3m   0\n\
             shop/cart  0   0     0         0        -         -    0\n"
        );
        assert!(table(&[service], now, true).render(false).contains("Who is who"));
    }
}
