//! TLS towards clients and towards instances.
//!
//! ```text
//! certificate/…, authorities/… ─▶ material ─▶ server: a listener's settings ─▶ handshakes with clients
//!                                         └─▶ client: a service's settings  ─▶ handshakes with instances
//! ```
//!
//! Settings are made when a table is compiled, not when a connection comes: what is malformed is found and said then,
//! and a handshake takes the settings of the table of that moment.
//!
//! Deliberately absent: revocation lists and OCSP; raw public keys; 0-RTT, whose requests can be replayed.

mod client;
mod material;
mod names;
mod refusal;
mod server;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub(crate) use self::{
    client::{BackendTls, HandshakeFailure},
    material::{Certificate, authorities},
    names::{Asterisk, Names, canonical},
    refusal::Refusal,
    server::{Demand, ListenerTls},
};

/// What goes by ALPN (RFC 7301) for HTTP/2 and for HTTP/1.1.
pub(crate) const H2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// The cryptography, the same everywhere whatever a process's default is.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}
