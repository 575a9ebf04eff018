//! `waypost watch`: instances as they come, change and go.
//!
//! A lost stream is opened again by the SDK; the first step after that holds everything, and is shown as
//! such. Deliberately absent: what happened in between; `waypost events` knows.

use std::time::SystemTime;

use futures_util::StreamExt as _;
use waypost_proto::v1::{self, WatchRequest};
use waypost_sdk::{WatchEvent, WatchStream};

use crate::{
    api,
    args::Global,
    failure::Failure,
    output::{Output, table, text},
};

/// Watches until Ctrl-C.
///
/// # Errors
/// The control plane cannot be reached at first, or refuses.
pub(super) async fn run(global: &Global, output: &Output, service: Option<String>) -> Result<(), Failure> {
    let asked = api::service(global, service.as_deref().unwrap_or_default());
    let steps = api::client(global)?.watch(WatchRequest { namespace: asked.namespace, service: asked.name });
    tokio::select! {
        ended = watch(output, steps) => ended,
        _ = waypost_sdk::launch::shutdown() => Ok(()),
    }
}

async fn watch(output: &Output, mut steps: WatchStream) -> Result<(), Failure> {
    let mut connected = false;
    while let Some(event) = steps.next().await {
        let step = match event? {
            WatchEvent::Initial { instances, revision } => {
                v1::WatchResponse { initial: true, changed: instances, removed: Vec::new(), revision }
            }
            WatchEvent::Changed { changed, removed, revision } => {
                let removed = removed.iter().map(|key| key.to_wire()).collect();
                v1::WatchResponse { initial: false, changed, removed, revision }
            }
            WatchEvent::Interrupted(error) if !connected => return Err(error.into()),
            WatchEvent::Interrupted(error) => {
                output.note(format!("{}; asking again until one does", Failure::from(error)));
                continue;
            }
        };
        connected = true;
        if output.format.is_table() {
            output.text(&lines(&step, SystemTime::now(), output.colour()))?;
        } else {
            output.streamed(&step)?;
        }
    }
    Ok(())
}

fn lines(step: &v1::WatchResponse, now: SystemTime, colour: bool) -> String {
    let time = text::clock(now);
    let mut lines = String::new();
    if step.initial {
        let what = text::count(step.changed.len(), "instance");
        lines.push_str(&format!("{time}  {what} at revision {}\n", step.revision));
    }
    for instance in &step.changed {
        let spec = instance.spec.clone().unwrap_or_default();
        let name = text::instance(instance.key.as_ref());
        let state =
            table::paint(text::state_name(instance.state()), text::state_colour(instance.state()), colour);
        let mut line = format!("{time}  {name}  {state}  {}", spec.address);
        for (label, value) in [("version ", &spec.version), ("", &instance.reason)] {
            if !value.is_empty() {
                line.push_str(&format!("  {label}{}", table::harmless(value)));
            }
        }
        lines.push_str(&line);
        lines.push('\n');
    }
    for key in &step.removed {
        let gone = table::paint("gone", Some(table::Colour::Red), colour);
        lines.push_str(&format!("{time}  {}  {gone}\n", text::instance(Some(key))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_step_is_a_line_for_each_instance() {
        let key =
            |id: &str| v1::InstanceKey { namespace: String::new(), service: "users".into(), id: id.into() };
        let step = v1::WatchResponse {
            initial: true,
            changed: vec![v1::Instance {
                key: Some(key("a")),
                spec: Some(v1::InstanceSpec {
                    address: "10.0.0.7:1".into(),
                    version: "2".into(),
                    ..Default::default()
                }),
                state: v1::InstanceState::Up.into(),
                ..Default::default()
            }],
            removed: vec![key("b")],
            revision: 12,
        };
        assert_eq!(
            lines(&step, UNIX_EPOCH, false),
            "1970-01-01 00:00:00  1 instance at revision 12\n\
             1970-01-01 00:00:00  users/a  up  10.0.0.7:1  version 2\n\
             1970-01-01 00:00:00  users/b  gone\n"
        );
    }
}
