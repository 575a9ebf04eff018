//! What the agent counts, for `/metrics`.

use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// The agent's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Checks by service, instance and result (`pass`, `fail`).
    pub checks: IntCounterVec,
    /// 1 where an instance's checks pass.
    pub healthy: IntGaugeVec,
    /// 1 where an instance's lease is active.
    pub registered: IntGaugeVec,
    /// How instances left, by outcome.
    pub departures: IntCounterVec,
}

impl Metrics {
    /// New metrics, all 0.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels).expect("the name is valid");
            registry.register(Box::new(metric.clone())).expect("the name is unique");
            metric
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGaugeVec::new(Opts::new(name, help), &["service", "instance"]);
            let metric = metric.expect("the name is valid");
            registry.register(Box::new(metric.clone())).expect("the name is unique");
            metric
        };
        let checks = counter(
            "waypost_agent_checks_total",
            "Checks by service, instance and result.",
            &["service", "instance", "result"],
        );
        let departures = counter(
            "waypost_agent_departures_total",
            "Instances that left, by how it ended.",
            &["service", "outcome"],
        );
        let healthy = gauge("waypost_agent_healthy", "1 where an instance's checks pass.");
        let registered = gauge("waypost_agent_registered", "1 where an instance's lease is active.");
        Self { registry, checks, healthy, registered, departures }
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("a buffer takes everything");
        String::from_utf8(text).expect("the format is UTF-8")
    }

    /// Drops the gauges of an instance that has left.
    pub fn forget(&self, service: &str, instance: &str) {
        for gauge in [&self.healthy, &self.registered] {
            let _ = gauge.remove_label_values(&[service, instance]);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
