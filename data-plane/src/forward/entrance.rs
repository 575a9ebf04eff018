//! Whether a request came in by the listener that its host belongs to.
//!
//! A connection over TLS was let in for one listener: by that listener's certificate, and by what it asks of clients.
//! Browsers use one connection for all hosts that a certificate covers (RFC 9113, section 9.1.1), and whoever was let
//! in for one host must not get at another one that asks for more. So a request for a host that belongs to another
//! listener is answered with 421 (RFC 9110, section 15.5.20; Gateway API, `Listener.hostname`: "if another Listener
//! matches the Host, the Gateway SHOULD return a 421"), upon which clients ask again over a connection of its own.
//! A host that belongs to none is left to the routes, which answer 404.

use waypost_proto::reason::Reason;

use crate::{answer::Answer, serve::ClientConnection, table::Edge};

/// Checks a request's host against the connection that it came over. Where a port speaks no TLS that costs a look at
/// a flag.
///
/// # Errors
/// It belongs to another listener.
pub(super) fn check(client: &ClientConnection, edge: &Edge, host: &str) -> Result<(), Answer> {
    let Some(port) = edge.tls_port(client.port()) else { return Ok(()) };
    let Some(tls) = client.tls() else {
        return match port.site(host) {
            Some(site) if !site.is_plain => Err(Answer::new(Reason::BadRequest, https_only(host))),
            _ => Ok(()),
        };
    };
    if tls.is_direct && tls.server_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    match port.site(host) {
        Some(site) if site.hostname != tls.hostname => Err(Answer::new(
            Reason::Misdirected,
            format!(
                "this connection is not for {host}, which belongs to another listener; ask again over a new one"
            ),
        )),
        _ => Ok(()),
    }
}

/// Why plain HTTP for a host is refused whose listeners speak TLS alone.
pub(crate) fn https_only(host: &str) -> String {
    format!("{host} is served over HTTPS only, and this is plain HTTP; ask again with https://")
}
