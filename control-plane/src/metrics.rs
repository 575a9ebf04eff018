//! What the control plane measures, for `/metrics`.
//!
//! Names follow OpenTelemetry's semantic conventions where there is one (`rpc.server.call.duration`), as
//! Prometheus writes them. Counters count where a thing happens; gauges that are read from state are set by
//! whoever renders, just before.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};
use waypost_proto::{resource::Kind, v1};

use crate::registry::{Held, View};

mod store;

pub use self::store::StoreMetrics;

/// From 100 µs to 60 s.
const PROPAGATION_BUCKETS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];
const OPERATION_BUCKETS: [f64; 14] =
    [0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
const CALL_BUCKETS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0];

/// All metrics of a control plane.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The newest revision of the registry.
    revision: IntGauge,
    /// The lowest revision applied by all live proxies.
    watermark: IntGauge,
    /// Instances, by state.
    instances: IntGaugeVec,
    /// Services.
    services: IntGauge,
    /// Routes in force.
    routes: IntGauge,
    /// Claims that lost.
    conflicts: IntGauge,
    /// Declared resources, by kind.
    resources: IntGaugeVec,
    /// How often a declared resource was compiled.
    resources_compiled: IntCounter,
    /// Proxies whose stream is open.
    proxies: IntGauge,
    /// 1 when all that was registered before the start is known.
    settled: IntGauge,
    /// Frames sent to proxies, by kind (`delta`, `chunk`).
    pub frames: IntCounterVec,
    /// Bytes sent to proxies, by kind.
    pub frame_bytes: IntCounterVec,
    /// How often something was encoded for proxies, by kind (`delta`, `full`).
    pub encodes: IntCounterVec,
    /// How often a proxy was sent everything again because its digest differed.
    pub resyncs: IntCounter,
    /// Changes that a proxy could not take.
    pub rejections: IntCounter,
    /// From commit until a proxy served by it.
    pub commit_to_applied: Histogram,
    /// Beats, by outcome.
    pub heartbeats: IntCounterVec,
    events: IntCounterVec,
    events_counted: Mutex<u64>,
    calls: HistogramVec,
    requests: HistogramVec,
    store: store::All,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            revision: gauge(r, "waypost_revision", "the newest revision of the registry"),
            watermark: gauge(
                r,
                "waypost_watermark_revision",
                "the lowest revision applied by all live proxies",
            ),
            instances: gauges(r, "waypost_instances", "registered instances by state", &["state"]),
            services: gauge(r, "waypost_services", "registered services"),
            routes: gauge(r, "waypost_routes", "routes in force"),
            conflicts: gauge(r, "waypost_route_conflicts", "claims on routes that an older claim holds"),
            resources: gauges(r, "waypost_resources", "declared resources by kind", &["kind"]),
            resources_compiled: counter(
                r,
                "waypost_resources_compiled_total",
                "how often a declared resource was compiled, because it or what it refers to has changed",
            ),
            proxies: gauge(r, "waypost_proxies_connected", "proxies whose stream is open"),
            settled: gauge(r, "waypost_settled", "1 when registrations from before the start are known"),
            frames: counters(r, "waypost_snapshot_frames_total", "frames sent to proxies by kind", &["kind"]),
            frame_bytes: counters(
                r,
                "waypost_snapshot_frame_bytes_total",
                "bytes of frames sent to proxies by kind",
                &["kind"],
            ),
            encodes: counters(
                r,
                "waypost_snapshot_encodes_total",
                "how often something was encoded for proxies, once for all of a scope",
                &["kind"],
            ),
            resyncs: counter(
                r,
                "waypost_resyncs_total",
                "how often a proxy needed everything again because its digest differed",
            ),
            rejections: counter(r, "waypost_rejections_total", "changes that a proxy could not take"),
            commit_to_applied: commit_to_applied(r),
            heartbeats: counters(r, "waypost_heartbeats_total", "beats by outcome", &["outcome"]),
            events: counters(
                r,
                "waypost_events_total",
                "what happened to instances by kind, leases that ran out (expired) among them",
                &["kind"],
            ),
            events_counted: Mutex::new(0),
            calls: calls(r),
            requests: requests(r),
            store: store::All::new(r),
            registry,
        }
    }

    /// A frame goes to a proxy.
    pub fn sent(&self, kind: &str, bytes: usize) {
        self.frames.with_label_values(&[kind]).inc();
        self.frame_bytes.with_label_values(&[kind]).inc_by(bytes as u64);
    }

    /// A gRPC call has ended.
    pub fn called(&self, method: &str, status: &str, took: Duration) {
        self.calls.with_label_values(&[method, status]).observe(took.as_secs_f64());
    }

    /// An HTTP request is answered.
    pub fn answered(&self, method: &str, route: &str, status: &str, took: Duration) {
        self.requests.with_label_values(&[method, route, status]).observe(took.as_secs_f64());
    }

    /// What is measured of a store.
    pub fn store(&self, kind: &str) -> StoreMetrics {
        self.store.of(kind)
    }

    /// What happened up to `revision` was before our time and is not counted.
    pub fn start_counting_events_after(&self, revision: u64) {
        *self.events_counted.lock() = revision;
    }

    /// Sets what is read from state: `status`, and what `view` holds.
    pub fn observe(&self, status: &v1::GetStatusResponse, view: &View) {
        self.revision.set(signed(status.revision));
        self.watermark.set(signed(status.watermark));
        self.services.set(status.services.into());
        self.routes.set(status.routes.into());
        self.conflicts.set(signed(status.conflicts.len() as u64));
        self.proxies.set(status.proxies.into());
        self.settled.set(status.settled.into());
        let mut states = [("up", 0), ("down", 0), ("draining", 0), ("suspect", 0)];
        let services = view.list_services(&v1::ListServicesRequest::default()).unwrap_or_default();
        for service in &services.services {
            let counts = [service.up, service.down, service.draining, service.suspect];
            states.iter_mut().zip(counts).for_each(|((_, sum), count)| *sum += i64::from(count));
        }
        for (state, count) in states {
            self.instances.with_label_values(&[state]).set(count);
        }
        for kind in Kind::ALL {
            let declared = |held: &&Held| held.resource.key.kind() == kind && !held.resource.is_deleted();
            let count = view.resources().filter(declared).count();
            self.resources.with_label_values(&[kind.name()]).set(signed(count as u64));
        }
        let mut counted = self.events_counted.lock();
        // A registry that begins anew counts anew: then this stands still until that is more.
        let compiled = view.gateway().compiled();
        let known = self.resources_compiled.get();
        self.resources_compiled.inc_by(compiled.saturating_sub(known));
        let new = v1::ListEventsRequest { after_revision: *counted, limit: 10_000, ..Default::default() };
        for event in view.list_events(&new).unwrap_or_default().events {
            let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_ascii_lowercase();
            self.events.with_label_values(&[&kind]).inc();
            *counted = (*counted).max(event.revision);
        }
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// A metric cannot be written, which is a defect.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn commit_to_applied(registry: &Registry) -> Histogram {
    let name = "waypost_commit_to_applied_seconds";
    let options = HistogramOpts::new(name, "from commit until a proxy served by it, per change and proxy");
    register(registry, Histogram::with_opts(options.buckets(PROPAGATION_BUCKETS.to_vec())))
}

fn calls(registry: &Registry) -> HistogramVec {
    let name = "rpc_server_call_duration_seconds";
    let options = HistogramOpts::new(name, "gRPC calls by method and status; of a stream, its whole length");
    let labels = ["rpc_method", "rpc_response_status_code"];
    register(registry, HistogramVec::new(options.buckets(CALL_BUCKETS.to_vec()), &labels))
}

fn requests(registry: &Registry) -> HistogramVec {
    let name = "http_server_request_duration_seconds";
    let options = HistogramOpts::new(name, "HTTP requests by method, route and status");
    let labels = ["http_request_method", "http_route", "http_response_status_code"];
    register(registry, HistogramVec::new(options.buckets(CALL_BUCKETS.to_vec()), &labels))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("the names above are valid");
    registry.register(Box::new(metric.clone())).expect("each name above is used once");
    metric
}
