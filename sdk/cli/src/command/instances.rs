//! `waypost instances`: every address of every service, why it is in its state, and what proxies say of it.

use std::time::SystemTime;

use waypost_proto::v1::{self, ListInstancesRequest};

use crate::{
    api,
    args::{Global, InstancesArgs},
    failure::Failure,
    output::{
        Listed, Output,
        table::{Cell, Table},
        text,
    },
};

/// Lists instances.
///
/// # Errors
/// The control plane does not answer or refuses a filter.
pub(super) async fn run(global: &Global, output: &Output, args: InstancesArgs) -> Result<(), Failure> {
    let client = api::client(global)?;
    let filtered = args.version.is_some() || args.state.is_some() || !args.tags.is_empty();
    let asked = api::service(global, args.service.as_deref().unwrap_or_default());
    let filter = ListInstancesRequest {
        namespace: asked.namespace,
        service: asked.name.clone(),
        version: args.version.unwrap_or_default(),
        tags: args.tags,
        state: args.state.map(|state| v1::InstanceState::from(state).into()).unwrap_or_default(),
    };
    let answer = client.instances(filter).await?;
    if answer.instances.is_empty() {
        output.note(nothing(&asked.name, filtered));
    }
    let document = Listed::new(&answer, "instances", answer.instances.len());
    output.result(&document, |wide| table(&answer.instances, SystemTime::now(), wide))
}

fn nothing(service: &str, filtered: bool) -> String {
    match (service, filtered) {
        ("", false) => format!("no instances; {}", super::services::REGISTER_ONE),
        ("", true) => "no instance matches; see all with: waypost instances".to_owned(),
        (_, true) => format!("no instance of {service} matches; see all with: waypost instances {service}"),
        (_, false) => format!("no instances of {service}; see what there is with: waypost services"),
    }
}

/// The table of instances.
pub(super) fn table(instances: &[v1::Instance], now: SystemTime, wide: bool) -> Table {
    let header = [
        "INSTANCE", "ADDRESS", "STATE", "VERSION", "AGE", "REASON", "ZONE", "WEIGHT", "PROTOCOL", "TAGS",
        "EPOCH", "TTL", "RENEWED", "OVERRIDE", "CLIENT", "ANSWERED", "REQUESTS",
    ];
    let columns = if wide { header.len() } else { 6 };
    let mut table = Table::new(&header[..columns]);
    let none = v1::InstanceSpec::default();
    for instance in instances {
        let spec = instance.spec.as_ref().unwrap_or(&none);
        let ago = |stamp| text::age(now, text::stamp(stamp));
        let mut row: Vec<Cell> = vec![
            text::instance(instance.key.as_ref()).into(),
            spec.address.as_str().into(),
            text::state(instance.state()),
            spec.version.as_str().into(),
            ago(instance.registered_at.as_ref()).into(),
            reason(instance).into(),
            spec.zone.as_str().into(),
            spec.weight.unwrap_or(1).to_string().into(),
            text::protocol(spec.protocol()).into(),
            spec.tags.join(",").into(),
            instance.epoch.to_string().into(),
            text::short_wire(instance.ttl.as_ref()).into(),
            ago(instance.renewed_at.as_ref()).into(),
            instance.r#override.as_ref().map(|forced| override_text(forced, now)).unwrap_or_default().into(),
            instance.client.as_str().into(),
            answered(instance.sightings.as_ref()).into(),
            requests(instance.sightings.as_ref()).into(),
        ];
        row.truncate(columns);
        table.row(row);
    }
    table
}

/// Why it is in its state, and which proxies do not send it requests all the same: `ejected at 2 of 3 proxies: 5 errors
/// in a row`.
fn reason(instance: &v1::Instance) -> String {
    let mut said = vec![instance.reason.clone()];
    if let Some(sightings) = &instance.sightings {
        let all = sightings.connected.max(sightings.proxies);
        said.extend(sightings.passed_over.iter().map(|group| {
            let (what, plural) = (health(group.health()), if all == 1 { "proxy" } else { "proxies" });
            let why = if group.reason.is_empty() { String::new() } else { format!(": {}", group.reason) };
            format!("{what} at {} of {all} {plural}{why}", group.count)
        }));
    }
    said.retain(|part| !part.is_empty());
    said.join("; ")
}

fn health(health: v1::EndpointHealth) -> &'static str {
    match health {
        v1::EndpointHealth::Unspecified | v1::EndpointHealth::Well => "well",
        v1::EndpointHealth::Ejected => "ejected",
        v1::EndpointHealth::Ill => "ill",
        v1::EndpointHealth::CoolingDown => "cooling down",
    }
}

/// Since when proxies saw no good answer, where there was one lately: `0.4 s ago, at 2 proxies`.
fn answered(sightings: Option<&v1::Sightings>) -> String {
    let Some(sightings) = sightings.filter(|sightings| sightings.answering > 0) else { return String::new() };
    let plural = if sightings.answering == 1 { "proxy" } else { "proxies" };
    format!("{} ago, at {} {plural}", text::short_wire(sightings.answered_ago.as_ref()), sightings.answering)
}

/// What became of requests by the last reports: `120 ok, 3 failed`.
fn requests(sightings: Option<&v1::Sightings>) -> String {
    let counted = sightings.filter(|sightings| sightings.succeeded + sightings.failed > 0);
    counted.map(|counts| format!("{} ok, {} failed", counts.succeeded, counts.failed)).unwrap_or_default()
}

/// An override in words: `down for 45m: maintenance`.
pub(super) fn override_text(forced: &v1::Override, now: SystemTime) -> String {
    let left = text::stamp(forced.expires_at.as_ref()).and_then(|end| end.duration_since(now).ok());
    let left = text::span(left.unwrap_or_default());
    match forced.reason.as_str() {
        "" => format!("{} for {left}", text::state_name(forced.state())),
        reason => format!("{} for {left}: {reason}", text::state_name(forced.state())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use waypost_proto::time::{timestamp, wire_duration};

    use super::*;

    #[test]
    fn an_instance_is_named_as_other_commands_take_it() {
        let instance = v1::Instance {
            key: Some(v1::InstanceKey {
                namespace: "default".into(),
                service: "users".into(),
                id: "a".into(),
            }),
            spec: Some(v1::InstanceSpec {
                address: "10.0.0.7:9001".into(),
                version: "2".into(),
                ..Default::default()
            }),
            state: v1::InstanceState::Down.into(),
            reason: "GET /health answered 500".into(),
            registered_at: Some(timestamp(UNIX_EPOCH)),
            r#override: Some(v1::Override {
                state: v1::InstanceState::Down.into(),
                expires_at: Some(timestamp(UNIX_EPOCH + Duration::from_secs(100))),
                reason: "maintenance".into(),
            }),
            ..Default::default()
        };
        let now = UNIX_EPOCH + Duration::from_secs(40);
        assert_eq!(
            table(std::slice::from_ref(&instance), now, false).render(false),
            "INSTANCE  ADDRESS        STATE  VERSION  AGE  REASON\n\
             users/a   10.0.0.7:9001  down   2        40s  GET /health answered 500\n"
        );
        assert!(table(&[instance], now, true).render(false).contains("down for 60s: maintenance"));
    }

    #[test]
    fn what_proxies_say_stands_beside_the_reason() {
        let group = |health: v1::EndpointHealth, count, reason: &str| v1::PassedOver {
            health: health.into(),
            reason: reason.into(),
            count,
            ..Default::default()
        };
        let instance = v1::Instance {
            reason: "its lease is alive".into(),
            sightings: Some(v1::Sightings {
                proxies: 3,
                connected: 3,
                succeeded: 120,
                failed: 3,
                answering: 1,
                answered_ago: Some(wire_duration(Duration::from_millis(400))),
                passed_over: vec![
                    group(v1::EndpointHealth::Ejected, 2, "5 errors in a row"),
                    group(v1::EndpointHealth::Ill, 1, "GET /healthz answered 503"),
                ],
            }),
            ..Default::default()
        };
        let said = table(&[instance], UNIX_EPOCH, true).render(false);
        for part in [
            "its lease is alive; ejected at 2 of 3 proxies: 5 errors in a row; ill at 1 of 3 proxies: GET /healthz",
            "400 ms ago, at 1 proxy",
            "120 ok, 3 failed",
        ] {
            assert!(said.contains(part), "{part:?} in\n{said}");
        }
    }
}
