//! How a service is doing, for `/status` and `/readyz`.

use serde::Serialize;
use waypost_sdk::{
    LeaseStatus, Registered,
    health::{Health, Phase},
};

use crate::config::ServiceConfig;

/// How a service is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// The service, as `name` or `namespace/name`.
    pub service: String,
    /// The instance's id.
    pub instance: String,
    /// Where proxies reach it.
    pub address: String,
    /// How it is checked.
    pub check: String,
    /// `starting`, `healthy` or `unhealthy`.
    pub health: &'static str,
    /// Why the last check failed, if it did.
    pub reason: Option<String>,
    /// `none`, `active`, `reconnecting`, `superseded` or `left`.
    pub lease: &'static str,
    /// Why the lease is not active, if that is known.
    pub lease_reason: Option<String>,
    /// The lease's epoch, if there is one.
    pub epoch: Option<u64>,
    /// Whether it is on its way out.
    pub leaving: bool,
}

impl MemberStatus {
    pub(super) fn of(config: &ServiceConfig) -> Self {
        Self {
            service: config.spec.key.service().to_string(),
            instance: config.spec.key.id().to_owned(),
            address: config.spec.address.to_string(),
            check: config.probe.to_string(),
            health: Phase::Starting.name(),
            reason: None,
            lease: "none",
            lease_reason: None,
            epoch: None,
            leaving: false,
        }
    }

    pub(super) fn with(
        mut self,
        health: &Health,
        reason: Option<&String>,
        registered: Option<&Registered>,
    ) -> Self {
        (self.health, self.reason) = (health.phase().name(), reason.cloned());
        if let Some(registered) = registered {
            self.epoch = Some(registered.epoch());
            (self.lease, self.lease_reason) = match &*registered.status().borrow() {
                LeaseStatus::Active => ("active", None),
                LeaseStatus::Reconnecting(reason) => ("reconnecting", Some(reason.clone())),
                LeaseStatus::Superseded => {
                    ("superseded", Some("another process has registered under the same name".to_owned()))
                }
                LeaseStatus::Left => ("left", None),
            };
        }
        self
    }

    /// Whether it is registered and its lease is active.
    pub fn is_registered(&self) -> bool {
        self.lease == "active"
    }
}
