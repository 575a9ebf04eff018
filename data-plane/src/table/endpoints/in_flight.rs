//! A request that counts as in flight to an endpoint: the count's other half, which falls when this is dropped.
//!
//! Deliberately absent: the rule of the drain barrier, which [`super`] tells.

use std::sync::{Arc, atomic::Ordering};

use super::EndpointState;

/// A request that has begun and counts as in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    pub(super) endpoint: Arc<EndpointState>,
}

impl InFlight {
    /// Where it goes.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.hot.requests.fetch_sub(1, Ordering::SeqCst);
        if self.endpoint.is_draining() {
            self.endpoint.reporter.notify_one();
        }
    }
}
