//! The namespace that belongs to Waypost itself: its control planes stand there, so that they find each other
//! in the registry that they share.
//!
//! What is there is kept and watched like everything else, but it is never routed nor pushed to proxies, and
//! lists leave it out unless they are asked for it by name.
//!
//! Deliberately absent: who puts something there (see `replicas`).

use waypost_proto::{
    error::Violation,
    name::{InstanceKey, ServiceKey},
};

/// The namespace.
pub const NAMESPACE: &str = "waypost";
/// The service whose instances are the control planes.
const CONTROL_PLANE: &str = "control-plane";

/// The service whose instances are the control planes.
pub fn control_planes() -> ServiceKey {
    ServiceKey::new(NAMESPACE, CONTROL_PLANE).expect("both are good names")
}

/// Whether a service is Waypost's own.
pub fn is_reserved(service: &ServiceKey) -> bool {
    service.namespace() == NAMESPACE
}

/// Refuses an instance that only Waypost itself may touch.
///
/// # Errors
/// It is in the reserved namespace.
pub fn check(key: &InstanceKey) -> Result<(), Violation> {
    if is_reserved(key.service()) {
        let rule = "must be another one: this namespace is reserved for Waypost's own control planes";
        return Err(Violation::new("namespace", NAMESPACE, rule));
    }
    Ok(())
}
