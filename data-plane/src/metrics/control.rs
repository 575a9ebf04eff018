//! What the control thread counts: the subscription, the table, and what is passed over in it.
//!
//! Deliberately absent: what requests count, which is each worker's own.

use prometheus::{IntCounter, IntGauge, Registry};

/// What the control thread counts.
#[derive(Debug)]
pub struct Control {
    /// 1 while a control plane is connected.
    pub connected: IntGauge,
    /// The revision that is served by.
    pub revision: IntGauge,
    /// Services in the table.
    pub services: IntGauge,
    /// Instances in the table, in every state.
    pub instances: IntGauge,
    /// Routes in the table.
    pub routes: IntGauge,
    /// Ports that listeners ask for and that are open.
    pub ports_open: IntGauge,
    /// Ports that listeners ask for and that cannot be opened.
    pub ports_failed: IntGauge,
    /// Entries of listeners and their material that cannot be used.
    pub edge_problems: IntGauge,
    /// Endpoints that are passed over for how they answer.
    pub endpoints_ejected: IntGauge,
    /// Endpoints that are passed over as checks say that they are ill.
    pub endpoints_ill: IntGauge,
    /// Services of which so few endpoints are well that all take requests.
    pub services_panicking: IntGauge,
    /// Services whose circuit breaker is open or half-open.
    pub breakers_open: IntGauge,
    /// Full snapshots applied.
    pub snapshots: IntCounter,
    /// Deltas applied.
    pub deltas: IntCounter,
    /// Changes that could not be applied, and were rejected.
    pub rejections: IntCounter,
    /// Times that everything was asked for again.
    pub resyncs: IntCounter,
    /// Connections to a control plane that were made.
    pub connects: IntCounter,
    /// Times that the state was stored.
    pub state_saves: IntCounter,
    /// Times that the state could not be stored.
    pub state_save_failures: IntCounter,
}

impl Control {
    pub(super) fn registered(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("the name is well formed");
            registry.register(Box::new(counter.clone())).expect("the name is registered once");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the name is well formed");
            registry.register(Box::new(gauge.clone())).expect("the name is registered once");
            gauge
        };
        Self {
            connected: gauge("waypost_control_plane_connected", "1 while a control plane is connected."),
            revision: gauge("waypost_table_revision", "The revision that is served by."),
            services: gauge("waypost_table_services", "Services in the table."),
            instances: gauge("waypost_table_instances", "Instances in the table, in every state."),
            routes: gauge("waypost_table_routes", "Routes in the table."),
            ports_open: gauge("waypost_listener_ports_open", "Ports of declared listeners that are open."),
            ports_failed: gauge(
                "waypost_listener_ports_failed",
                "Ports of declared listeners that cannot be opened.",
            ),
            edge_problems: gauge(
                "waypost_listener_problems",
                "Listeners, certificates, authorities and TLS policies that cannot be used.",
            ),
            endpoints_ejected: gauge(
                "waypost_endpoints_ejected",
                "Endpoints that are passed over for how they answer.",
            ),
            endpoints_ill: gauge(
                "waypost_endpoints_ill",
                "Endpoints that are passed over as their health checks fail.",
            ),
            services_panicking: gauge(
                "waypost_services_panicking",
                "Services of which so few endpoints are well that all take requests.",
            ),
            breakers_open: gauge(
                "waypost_breakers_open",
                "Services whose circuit breaker is open or half-open.",
            ),
            snapshots: counter("waypost_snapshots_applied_total", "Full snapshots applied."),
            deltas: counter("waypost_deltas_applied_total", "Deltas applied."),
            rejections: counter("waypost_changes_rejected_total", "Changes that could not be applied."),
            resyncs: counter("waypost_resyncs_total", "Times that everything was asked for again."),
            connects: counter("waypost_control_plane_connects_total", "Connections made to a control plane."),
            state_saves: counter("waypost_state_saves_total", "Times that the state was stored."),
            state_save_failures: counter(
                "waypost_state_save_failures_total",
                "Times that the state could not be stored.",
            ),
        }
    }
}
