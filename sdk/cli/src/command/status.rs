//! `waypost status`: the control plane at a glance.

use std::time::SystemTime;

use waypost_proto::v1;

use super::services::conflict_text;
use crate::{
    api,
    args::Global,
    failure::Failure,
    output::{
        Output,
        table::{Cell, Colour, Table},
        text,
    },
};

/// Shows the status.
///
/// # Errors
/// The control plane does not answer.
pub(super) async fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let client = api::client(global)?;
    let answer = client.status().await?;
    output.result(&answer, |_| table(&answer, SystemTime::now()))
}

fn table(status: &v1::GetStatusResponse, now: SystemTime) -> Table {
    let head = status.head.as_ref().map(|head| head.revision).unwrap_or_default();
    let settled = if status.settled {
        Cell::coloured("yes", Some(Colour::Green))
    } else {
        Cell::coloured(
            "not yet: registrations from before its start may still be missing",
            Some(Colour::Yellow),
        )
    };
    let behind = head.saturating_sub(status.watermark);
    let applied = match (status.proxies, behind) {
        (0, _) => Cell::coloured("no proxy is connected", Some(Colour::Yellow)),
        (_, 0) => Cell::coloured(format!("{} by all proxies", status.watermark), Some(Colour::Green)),
        _ => Cell::coloured(format!("{} by all proxies, of {head}", status.watermark), Some(Colour::Yellow)),
    };
    let mut pairs: Vec<(&'static str, Cell)> = vec![
        ("version", status.version.as_str().into()),
        ("uptime", text::age(now, text::stamp(status.started_at.as_ref())).into()),
        ("store", status.store.as_str().into()),
        ("settled", settled),
        ("revision", status.revision.to_string().into()),
        ("applied", applied),
        ("services", status.services.to_string().into()),
        ("instances", status.instances.to_string().into()),
        ("routes", status.routes.to_string().into()),
        ("proxies", status.proxies.to_string().into()),
        ("commit to applied", propagation(status.propagation.as_ref()).into()),
    ];
    if let Some(since) = &status.store_lost_since {
        let away = text::age(now, text::stamp(Some(since)));
        let cell = format!("away for {away}: {}", status.store_lost_reason);
        pairs.push(("store lost", Cell::coloured(cell, Some(Colour::Red))));
    }
    for replica in &status.replicas {
        pairs.push(("control plane", replica_cell(replica, status)));
    }
    for conflict in &status.conflicts {
        pairs.push(("conflict", Cell::coloured(conflict_text(conflict), Some(Colour::Red))));
    }
    Table::of_pairs(pairs)
}

/// One of the control planes that share the store.
fn replica_cell(replica: &v1::ReplicaStatus, status: &v1::GetStatusResponse) -> Cell {
    let this = if replica.id == status.replica { ", this one" } else { "" };
    let stands = format!(
        "{} at {}{this}: {} proxies, revision {}",
        replica.id, replica.address, replica.proxies, replica.revision
    );
    if replica.reachable && replica.reason.is_empty() {
        return Cell::coloured(stands, Some(Colour::Green));
    }
    Cell::coloured(format!("{stands}; {}", replica.reason), Some(Colour::Red))
}

fn propagation(measured: Option<&v1::Propagation>) -> String {
    let Some(measured) = measured.filter(|measured| measured.samples > 0) else {
        return "nothing measured yet".to_owned();
    };
    let [p50, p99, max] =
        [&measured.p50, &measured.p99, &measured.max].map(|wire| text::short_wire(wire.as_ref()));
    format!("p50 {p50}, p99 {p99}, max {max}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use waypost_proto::time::{timestamp, wire_duration};

    use super::*;

    #[test]
    fn control_planes_that_share_the_store_are_listed() {
        let replica = |id: &str, reachable: bool, reason: &str| v1::ReplicaStatus {
            id: id.into(),
            address: format!("{id}:7400"),
            reachable,
            reason: reason.into(),
            proxies: 2,
            revision: 7,
            ..Default::default()
        };
        let status = v1::GetStatusResponse {
            replica: "one".into(),
            replicas: vec![replica("one", true, ""), replica("two", false, "it does not answer")],
            store_lost_since: Some(timestamp(UNIX_EPOCH)),
            store_lost_reason: "the cable is out".into(),
            ..Default::default()
        };
        let shown = table(&status, UNIX_EPOCH + Duration::from_secs(5)).render(false);
        for line in [
            "away for 5s: the cable is out",
            "one at one:7400, this one: 2 proxies, revision 7",
            "two at two:7400: 2 proxies, revision 7; it does not answer",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
    }

    #[test]
    fn the_status_says_what_is_not_as_it_should_be() {
        let key = |name: &str| Some(v1::ServiceKey { namespace: String::new(), name: name.into() });
        let status = v1::GetStatusResponse {
            version: "0.1.0".into(),
            started_at: Some(timestamp(UNIX_EPOCH)),
            head: Some(v1::Position { revision: 9, ..Default::default() }),
            revision: 10,
            watermark: 8,
            store: "memory".into(),
            proxies: 1,
            conflicts: vec![v1::Conflict { route: "/a".into(), winner: key("old"), loser: key("new") }],
            propagation: Some(v1::Propagation {
                samples: 3,
                p50: Some(wire_duration(Duration::from_micros(1_500))),
                p99: Some(wire_duration(Duration::from_micros(2_000))),
                max: Some(wire_duration(Duration::from_micros(2_100))),
            }),
            ..Default::default()
        };
        assert_eq!(
            table(&status, UNIX_EPOCH + Duration::from_secs(5)).render(false),
            "version            0.1.0\n\
             uptime             5s\n\
             store              memory\n\
             settled            not yet: registrations from before its start may still be missing\n\
             revision           10\n\
             applied            8 by all proxies, of 9\n\
             services           0\n\
             instances          0\n\
             routes             0\n\
             proxies            1\n\
             commit to applied  p50 1.5 ms, p99 2.0 ms, max 2.1 ms\n\
             conflict           /a belongs to old, whose claim is older than that of new\n"
        );
    }
}
