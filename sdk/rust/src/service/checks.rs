//! The service's own word on its health: its path, asked over its own port as anybody else would ask.
//!
//! What results mean is decided by [`Health`], as it is for the agent.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::health::{Health, Thresholds, Transition, http};

/// From the start of one check to the start of the next.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);
const THRESHOLDS: Thresholds = Thresholds { healthy_after: 1, unhealthy_after: 3 };
const USER_AGENT: &str = concat!("waypost-sdk/", env!("CARGO_PKG_VERSION"));

/// The checks of one server.
#[derive(Debug)]
pub(super) struct Checks {
    address: String,
    path: Option<String>,
    health: Health,
}

impl Checks {
    /// Checks of the server whose listener is at `local`; without a path they always pass.
    pub(super) fn new(local: SocketAddr, path: Option<String>) -> Self {
        let ip = match local {
            SocketAddr::V4(local) if local.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(local) if local.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            local => local.ip(),
        };
        let address = SocketAddr::new(ip, local.port()).to_string();
        Self { address, path, health: Health::new(THRESHOLDS, Instant::now()) }
    }

    /// Waits until the service can answer.
    pub(super) async fn passed(&mut self) {
        let mut said = None;
        loop {
            let began = Instant::now();
            let result = self.check().await;
            if self.health.observe(result.is_ok(), began).is_some() {
                return;
            }
            let reason = result.err();
            if reason != said {
                tracing::info!(reason, "not registered before the health check passes");
                said = reason;
            }
            tokio::time::sleep_until(self.health.next_check(began, INTERVAL).into()).await;
        }
    }

    /// Checks once, and says what has changed: whether it is well now, and why.
    pub(super) async fn turn(&mut self) -> Option<(bool, String)> {
        let result = self.check().await;
        let transition = self.health.observe(result.is_ok(), Instant::now())?;
        Some((transition == Transition::Up, result.err().unwrap_or_default()))
    }

    async fn check(&self) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let check = tokio::time::timeout(TIMEOUT, http::check(&self.address, path, USER_AGENT));
        check.await.unwrap_or_else(|_| Err(format!("GET {path} was not answered within {TIMEOUT:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_loopback() {
        for (local, asked) in
            [("0.0.0.0:81", "127.0.0.1:81"), ("[::]:81", "[::1]:81"), ("10.0.0.7:81", "10.0.0.7:81")]
        {
            assert_eq!(Checks::new(local.parse().expect("an address"), None).address, asked);
        }
    }
}
