//! `waypost events`: who registered or left, when and why.
//!
//! Following asks again every second from the last revision on. A control plane that has lost its memory
//! counts from the beginning, which shows as a revision that went back; then so do we.

use std::time::{Duration, SystemTime};

use waypost_proto::{
    time::timestamp,
    v1::{self, ListEventsRequest},
};
use waypost_sdk::Client;

use crate::{
    api,
    args::{EventsArgs, Global},
    failure::{Exit, Failure},
    output::{
        Format, Listed, Output,
        table::{Cell, Table},
        text,
    },
};

const INTERVAL: Duration = Duration::from_secs(1);

/// Shows events.
///
/// # Errors
/// The control plane does not answer, or refuses a filter.
pub(super) async fn run(global: &Global, output: &Output, args: EventsArgs) -> Result<(), Failure> {
    let client = api::client(global)?;
    let mut request = request(api::namespace(global), &args, SystemTime::now())?;
    let answer = client.events(request.clone()).await?;
    if args.follow {
        request.since = None;
        return tokio::select! {
            ended = follow(&client, output, request, answer) => ended,
            _ = waypost_sdk::launch::shutdown() => Ok(()),
        };
    }
    if answer.events.is_empty() {
        output.note("no events that match; the history is kept in the control plane's memory");
    }
    let document = Listed::new(&answer, "events", answer.events.len());
    output.result(&document, |wide| table(&answer.events, wide, true))
}

async fn follow(
    client: &Client,
    output: &Output,
    mut request: ListEventsRequest,
    mut answer: v1::ListEventsResponse,
) -> Result<(), Failure> {
    let mut header = true;
    let mut away = false;
    loop {
        if output.format.is_table() {
            let table = table(&answer.events, output.format == Format::Wide, header);
            output.text(&table.render(output.colour()))?;
            header = header && answer.events.is_empty();
        } else {
            answer.events.iter().try_for_each(|event| output.streamed(event))?;
        }
        let newest = answer.events.iter().map(|event| event.revision).max();
        request.after_revision = newest.unwrap_or(request.after_revision);
        answer = loop {
            tokio::time::sleep(INTERVAL).await;
            match client.events(request.clone()).await {
                Ok(answer) => break answer,
                Err(error) if error.is_retryable() => {
                    if !away {
                        output.note(format!("{}; asking again until one does", Failure::from(error)));
                    }
                    away = true;
                }
                Err(error) => return Err(error.into()),
            }
        };
        away = false;
        if answer.revision < request.after_revision {
            request.after_revision = 0;
            answer.events.clear();
        }
    }
}

fn request(namespace: &str, args: &EventsArgs, now: SystemTime) -> Result<ListEventsRequest, Failure> {
    let mut request = ListEventsRequest {
        namespace: namespace.to_owned(),
        service: args.service.clone().unwrap_or_default(),
        instance: args.instance.clone().unwrap_or_default(),
        since: args.since.map(|since| timestamp(since.time(now))),
        limit: args.limit,
        ..Default::default()
    };
    let parts: Vec<&str> = args.instance.as_deref().unwrap_or_default().split('/').collect();
    let (namespace, service, id) = match parts[..] {
        [namespace, service, id] => (Some(namespace), service, id),
        [service, id] => (None, service, id),
        _ => return Ok(request),
    };
    if !request.service.is_empty() && request.service != service {
        let message =
            format!("--instance {} is not an instance of --service {}", parts.join("/"), request.service);
        return Err(Failure::new(Exit::Usage, message).way_out("leave --service away"));
    }
    request.service = service.to_owned();
    request.instance = id.to_owned();
    if let Some(namespace) = namespace {
        request.namespace = namespace.to_owned();
    }
    Ok(request)
}

fn table(events: &[v1::Event], wide: bool, header: bool) -> Table {
    let names = ["TIME (UTC)", "EVENT", "INSTANCE", "ADDRESS", "BY", "REASON", "REVISION", "EPOCH"];
    let columns = if wide { names.len() } else { 6 };
    let mut table = Table::new(if header { &names[..columns] } else { &[] });
    for event in events {
        let mut row: Vec<Cell> = vec![
            text::stamp(event.time.as_ref()).map(text::clock).unwrap_or_default().into(),
            text::event(event.kind()),
            text::instance(event.instance.as_ref()).into(),
            event.address.as_str().into(),
            event.actor.as_str().into(),
            event.reason.as_str().into(),
            event.revision.to_string().into(),
            event.epoch.to_string().into(),
        ];
        row.truncate(columns);
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn args() -> EventsArgs {
        EventsArgs { service: None, instance: None, since: None, limit: 100, follow: false }
    }

    #[test]
    fn an_instance_is_asked_for_by_its_whole_name_or_its_id() {
        let of = |instance: &str, service: Option<&str>| {
            let args =
                EventsArgs { instance: Some(instance.into()), service: service.map(Into::into), ..args() };
            request("", &args, UNIX_EPOCH).map(|asked| (asked.namespace, asked.service, asked.instance))
        };
        let expected =
            |namespace: &str, service: &str, id: &str| Ok((namespace.into(), service.into(), id.into()));
        assert_eq!(of("a", None), expected("", "", "a"));
        assert_eq!(of("users/a", None), expected("", "users", "a"));
        assert_eq!(of("shop/users/a", Some("users")), expected("shop", "users", "a"));
        assert_eq!(of("users/a", Some("carts")).expect_err("they disagree").exit, Exit::Usage);
    }

    #[test]
    fn an_event_is_a_line() {
        let event = v1::Event {
            revision: 7,
            time: Some(timestamp(UNIX_EPOCH + Duration::from_secs(3_600))),
            kind: v1::EventKind::Expired.into(),
            instance: Some(v1::InstanceKey {
                namespace: "default".into(),
                service: "users".into(),
                id: "a".into(),
            }),
            address: "10.0.0.7:9001".into(),
            reason: "no heartbeat for 10s".into(),
            actor: "control-plane".into(),
            epoch: 3,
        };
        assert_eq!(
            table(&[event], false, true).render(false),
            "TIME (UTC)           EVENT    INSTANCE  ADDRESS        BY             REASON\n\
             1970-01-01 01:00:00  expired  users/a   10.0.0.7:9001  control-plane  no heartbeat for 10s\n"
        );
    }
}
