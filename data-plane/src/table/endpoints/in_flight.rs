//! A request that an endpoint counts.
//!
//! Deliberately absent: counting it in, which is [`EndpointState::begin`]'s.

use std::sync::{Arc, atomic::Ordering};

use super::EndpointState;

/// A request that has begun and counts as in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointState>,
}

impl InFlight {
    /// One that was just counted in.
    pub(super) fn counted(endpoint: Arc<EndpointState>) -> Self {
        Self { endpoint }
    }

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
