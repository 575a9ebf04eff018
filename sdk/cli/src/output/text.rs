//! Times, states and names as people read them.
//!
//! Plain functions of their arguments; `now` comes from the caller.

use std::time::{Duration, SystemTime};

use waypost_proto::{
    time,
    v1::{self, EventKind, InstanceState, Protocol},
};

use super::table::{Cell, Colour};

/// How long ago: `3m`. A missing time is empty.
pub(crate) fn age(now: SystemTime, stamp: Option<SystemTime>) -> String {
    stamp.map(|stamp| span(now.duration_since(stamp).unwrap_or_default())).unwrap_or_default()
}

/// A length of time in its one or two leading units: `45s`, `3m`, `2h5m`, `4d`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, small: u64, units: [&str; 2]| match small {
        0 => format!("{large}{}", units[0]),
        _ => format!("{large}{}{small}{}", units[0], units[1]),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / 60, seconds % 60, ["m", "s"]),
        600..7_200 => format!("{}m", seconds / 60),
        7_200..86_400 => two(seconds / 3_600, seconds % 3_600 / 60, ["h", "m"]),
        86_400..864_000 => two(seconds / 86_400, seconds % 86_400 / 3_600, ["d", "h"]),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A short length of time: `850 µs`, `3.2 ms`, `1.4 s`.
pub(crate) fn short(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// A wire length of time, shortly; a missing one is empty.
pub(crate) fn short_wire(wire: Option<&pbjson_types::Duration>) -> String {
    wire.and_then(time::duration).map(short).unwrap_or_default()
}

/// A point in time from its wire form.
pub(crate) fn stamp(wire: Option<&pbjson_types::Timestamp>) -> Option<SystemTime> {
    wire.map(time::system_time)
}

/// The time in UTC, to the second: `2026-11-03 09:12:44`.
pub(crate) fn clock(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', "")
}

/// `service/id`, or `namespace/service/id` outside the default namespace.
pub(crate) fn instance(key: Option<&v1::InstanceKey>) -> String {
    key.map(|key| format!("{}/{}", qualified(&key.namespace, &key.service), key.id)).unwrap_or_default()
}

/// `service`, or `namespace/service` outside the default namespace.
pub(crate) fn service(key: Option<&v1::ServiceKey>) -> String {
    key.map(|key| qualified(&key.namespace, &key.name)).unwrap_or_default()
}

/// `Kind namespace/name`, as messages have it.
pub(crate) fn resource(key: Option<&v1::ResourceKey>) -> String {
    key.map(|key| format!("{} {}/{}", key.kind, key.namespace, key.name)).unwrap_or_default()
}

fn qualified(namespace: &str, name: &str) -> String {
    match namespace {
        "" | "default" => name.to_owned(),
        _ => format!("{namespace}/{name}"),
    }
}

/// A state in its colour.
pub(crate) fn state(state: InstanceState) -> Cell {
    Cell::coloured(state_name(state), state_colour(state))
}

/// A state's colour.
pub(crate) fn state_colour(state: InstanceState) -> Option<Colour> {
    Some(match state {
        InstanceState::Up => Colour::Green,
        InstanceState::Down => Colour::Red,
        InstanceState::Draining | InstanceState::Suspect => Colour::Yellow,
        InstanceState::Unspecified => Colour::Grey,
    })
}

/// A state in a word.
pub(crate) fn state_name(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Up => "up",
        InstanceState::Down => "down",
        InstanceState::Draining => "draining",
        InstanceState::Suspect => "suspect",
        InstanceState::Unspecified => "unknown",
    }
}

/// A protocol in a word.
pub(crate) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unspecified | Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
    }
}

/// A kind of event in a word.
pub(crate) fn event(kind: EventKind) -> Cell {
    let (name, colour) = match kind {
        EventKind::Registered => ("registered", Some(Colour::Green)),
        EventKind::Replaced => ("replaced", Some(Colour::Green)),
        EventKind::Deregistered => ("deregistered", Some(Colour::Grey)),
        EventKind::Expired => ("expired", Some(Colour::Red)),
        EventKind::Health => ("health", None),
        EventKind::Draining => ("draining", Some(Colour::Yellow)),
        EventKind::Override => ("override", Some(Colour::Yellow)),
        EventKind::Suspect => ("suspect", Some(Colour::Yellow)),
        EventKind::Share => ("share", Some(Colour::Yellow)),
        EventKind::Updated => ("updated", None),
        EventKind::Unspecified => ("unknown", None),
    };
    Cell::coloured(name, colour)
}

/// `one instance`, `2 instances`.
pub(crate) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn spans_have_one_or_two_units() {
        let spans = [(0, "0s"), (119, "119s"), (185, "3m5s"), (180, "3m"), (660, "11m"), (7_500, "2h5m")];
        for (seconds, text) in spans.into_iter().chain([(90_000, "1d1h"), (8_640_000, "100d")]) {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        let shorts = [(850, "850 µs"), (3_240, "3.2 ms"), (450_000, "450 ms"), (1_400_000, "1.4 s")];
        for (micros, text) in shorts {
            assert_eq!(short(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn an_age_of_the_future_is_zero() {
        let later = UNIX_EPOCH + Duration::from_secs(60);
        assert_eq!(age(UNIX_EPOCH, Some(later)), "0s");
        assert_eq!(age(later, Some(UNIX_EPOCH)), "60s");
        assert_eq!(age(later, None), "");
    }
}
