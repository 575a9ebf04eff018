//! `waypost proxies`: which revision each proxy serves by, and whether its table is the control plane's.

use std::time::SystemTime;

use waypost_proto::v1;

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

/// Lists proxies.
///
/// # Errors
/// The control plane does not answer.
pub(super) async fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let client = api::client(global)?;
    let answer = client.proxies().await?;
    if answer.proxies.is_empty() {
        output.note("no proxies; start one with: waypost-proxy --control-plane URL");
    }
    for replica in &answer.unreachable {
        output.note(format!("control plane {replica} does not answer; its proxies are missing here"));
    }
    let document = Listed::new(&answer, "proxies", answer.proxies.len());
    output.result(&document, |wide| table(&answer.proxies, SystemTime::now(), wide))
}

fn table(proxies: &[v1::Proxy], now: SystemTime, wide: bool) -> Table {
    let header = [
        "PROXY",
        "STATE",
        "SINCE",
        "APPLIED",
        "SENT",
        "DIGEST",
        "LISTENS ON",
        "REJECTION",
        "ADMIN",
        "VERSION",
        "ZONE",
        "NAMESPACES",
        "SNAPSHOTS",
        "DELTAS",
        "RESYNCS",
        "CONTROL PLANE",
    ];
    let columns = if wide { header.len() } else { 8 };
    let mut table = Table::new(&header[..columns]);
    for proxy in proxies {
        let (state, colour) =
            if proxy.connected { ("connected", Colour::Green) } else { ("away", Colour::Red) };
        let applied =
            proxy.applied.as_ref().map(|position| position.revision.to_string()).unwrap_or_default();
        let (digest, digest_colour) =
            if proxy.digest_ok { ("same", Colour::Green) } else { ("differs", Colour::Red) };
        let mut row: Vec<Cell> = vec![
            proxy.id.as_str().into(),
            Cell::coloured(state, Some(colour)),
            text::age(now, text::stamp(proxy.since.as_ref())).into(),
            applied.into(),
            proxy.sent_revision.to_string().into(),
            Cell::coloured(digest, Some(digest_colour)),
            proxy.listen_address.as_str().into(),
            Cell::coloured(&proxy.last_rejection, Some(Colour::Red)),
            proxy.admin_address.as_str().into(),
            proxy.version.as_str().into(),
            proxy.zone.as_str().into(),
            if proxy.namespaces.is_empty() { "all".to_owned() } else { proxy.namespaces.join(",") }.into(),
            proxy.full_snapshots.to_string().into(),
            proxy.deltas.to_string().into(),
            proxy.resyncs.to_string().into(),
            proxy.replica.as_str().into(),
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

    #[test]
    fn a_proxy_shows_what_it_serves_by() {
        let proxy = v1::Proxy {
            id: "proxy-1".into(),
            connected: true,
            since: Some(waypost_proto::time::timestamp(UNIX_EPOCH)),
            applied: Some(v1::Position { revision: 41, ..Default::default() }),
            sent_revision: 42,
            digest_ok: true,
            listen_address: "127.0.0.1:8080".into(),
            ..Default::default()
        };
        assert_eq!(
            table(&[proxy], UNIX_EPOCH, false).render(false),
            "PROXY    STATE      SINCE  APPLIED  SENT  DIGEST  LISTENS ON      REJECTION\n\
             proxy-1  connected  0s     41       42    same    127.0.0.1:8080  -\n"
        );
    }
}
