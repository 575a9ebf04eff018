//! The workers' counters, summed and written as Prometheus' text format.

use std::sync::Arc;

use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use waypost_proto::reason::Reason;

use super::{BOUNDS_US, Count, Mirrored, Worker};
use crate::{
    health::Cause,
    overload::{self, Priority},
    tls::Refusal,
};

/// The text of all families: those given, and the workers'.
pub(super) fn render(workers: &[Arc<Worker>], mut families: Vec<MetricFamily>) -> String {
    let sums = Sums { workers };
    families.extend(sums.families());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    TextEncoder::new()
        .encode_to_string(&families)
        .expect("the families are complete, and memory does not fail")
}

struct Sums<'a> {
    workers: &'a [Arc<Worker>],
}

impl Sums<'_> {
    fn sum(&self, count: impl Fn(&Worker) -> &Count) -> u64 {
        self.workers.iter().map(|worker| count(worker).get()).fold(0, u64::wrapping_add)
    }

    fn families(&self) -> Vec<MetricFamily> {
        let opened = self.sum(|worker| &worker.connections_opened);
        let closed = self.sum(|worker| &worker.connections_closed);
        let begun = self.sum(|worker| &worker.begun);
        let finished = self.sum(|worker| &worker.finished);
        vec![
            self.durations(),
            self.answers(),
            self.counter("waypost_tls_handshakes_total", "TLS handshakes of clients.", |worker| {
                &worker.tls_accepted
            }),
            self.refusals(),
            gauge("http_server_active_requests", "Requests in flight.", begun.saturating_sub(finished)),
            gauge(
                "http_server_open_connections",
                "Open connections of clients.",
                opened.saturating_sub(closed),
            ),
            counter("http_server_connections_total", "Connections of clients.", opened),
            self.counter("http_server_upgrades_total", "Connections upgraded.", |worker| &worker.upgrades),
            self.counter("http_server_request_body_bytes_total", "Bytes of request bodies.", |worker| {
                &worker.bytes_received
            }),
            self.counter("http_server_response_body_bytes_total", "Bytes of response bodies.", |worker| {
                &worker.bytes_sent
            }),
            self.counter("waypost_upstream_connects_total", "Connections made to instances.", |worker| {
                &worker.upstream_connects
            }),
            self.counter(
                "waypost_upstream_connect_failures_total",
                "Connections to instances that could not be made.",
                |worker| &worker.upstream_connect_failures,
            ),
            self.counter(
                "waypost_upstream_reuses_total",
                "Requests sent over a connection that was there.",
                |worker| &worker.upstream_reuses,
            ),
            self.counter("waypost_upstream_retries_total", "Requests sent again.", |worker| &worker.retries),
            self.counter(
                "waypost_upstream_retries_refused_total",
                "Requests not sent again because of the service's retry budget or its limit of retries.",
                |worker| &worker.retries_refused,
            ),
            self.counter(
                "waypost_hedges_total",
                "Second requests, sent as the first took long to be answered.",
                |worker| &worker.hedges,
            ),
            self.counter(
                "waypost_hedges_won_total",
                "Second requests whose answer was the one that counts.",
                |worker| &worker.hedges_won,
            ),
            self.counter(
                "waypost_hedges_refused_total",
                "Second requests not sent because of the service's retry budget or a limit of its policy.",
                |worker| &worker.hedges_refused,
            ),
            self.counter(
                "waypost_breakers_opened_total",
                "Times that too many requests to a service failed and its circuit breaker opened.",
                |worker| &worker.breakers_opened,
            ),
            self.mirrored(),
            self.shed(),
            gauge(
                "waypost_shedding_level",
                "How much the worker that is most behind refuses: 0 nothing, 4 all of low priority, 11 the most.",
                self.workers.iter().map(|worker| worker.shedding_level()).max().unwrap_or_default(),
            ),
            self.ejections(),
            self.checks(),
            self.counter(
                "waypost_health_checks_late_total",
                "Health checks that began an interval too late or more, as too many were due.",
                |worker| &worker.checks_late,
            ),
        ]
    }

    fn counter(&self, name: &str, help: &str, count: impl Fn(&Worker) -> &Count) -> MetricFamily {
        counter(name, help, self.sum(count))
    }

    fn durations(&self) -> MetricFamily {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let metrics = classes.into_iter().enumerate().map(|(class, name)| {
            let mut cumulative = 0;
            let bounds = BOUNDS_US.into_iter().map(|bound| float(bound) / 1e6);
            let buckets = bounds.enumerate().map(|(at, bound)| {
                cumulative += self.sum(|worker| &worker.durations[class].buckets[at]);
                let mut bucket = Bucket::default();
                bucket.set_cumulative_count(cumulative);
                bucket.set_upper_bound(bound);
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            // The encoder adds the bucket without a bound, from the count of all.
            let beyond = self.sum(|worker| &worker.durations[class].buckets[BOUNDS_US.len()]);
            histogram.set_sample_count(cumulative + beyond);
            histogram.set_sample_sum(float(self.sum(|worker| &worker.durations[class].sum_ns)) / 1e9);
            let mut metric = Metric::from_label(vec![label("http_response_status_class", name)]);
            metric.set_histogram(histogram);
            metric
        });
        let help = "From a request's head to the end of its answer.";
        family("http_server_request_duration_seconds", help, MetricType::HISTOGRAM, metrics.collect())
    }

    fn answers(&self) -> MetricFamily {
        let metrics = Reason::ALL.into_iter().enumerate().map(|(at, reason)| {
            let metric = Metric::from_label(vec![label("reason", reason.name())]);
            counted(metric, self.sum(|worker| &worker.answers[at]))
        });
        let help = "Answers of the proxy's own, by reason.";
        family("waypost_own_answers_total", help, MetricType::COUNTER, metrics.collect())
    }
}

impl Sums<'_> {
    fn refusals(&self) -> MetricFamily {
        let metrics = Refusal::ALL.into_iter().enumerate().map(|(at, why)| {
            let metric = Metric::from_label(vec![label("reason", why.name())]);
            counted(metric, self.sum(|worker| &worker.tls_refused[at]))
        });
        let help = "Clients that were refused in their TLS handshake, by reason.";
        family("waypost_tls_refusals_total", help, MetricType::COUNTER, metrics.collect())
    }

    fn mirrored(&self) -> MetricFamily {
        let metrics = Mirrored::ALL.into_iter().map(|outcome| {
            let metric = Metric::from_label(vec![label("outcome", outcome.name())]);
            counted(metric, self.sum(|worker| &worker.mirrored[outcome as usize]))
        });
        let help = "Copies of requests for mirrors, by what became of them.";
        family("waypost_mirrored_requests_total", help, MetricType::COUNTER, metrics.collect())
    }

    fn shed(&self) -> MetricFamily {
        let each = Priority::ALL
            .into_iter()
            .flat_map(|priority| overload::Cause::ALL.into_iter().map(move |cause| (priority, cause)));
        let metrics = each.map(|(priority, cause)| {
            let labels = vec![label("priority", priority.name()), label("cause", cause.name())];
            let count = self.sum(|worker| &worker.shed[priority as usize][cause as usize]);
            counted(Metric::from_label(labels), count)
        });
        let help = "Requests refused because the proxy had too much to do, by priority and cause.";
        family("waypost_shed_requests_total", help, MetricType::COUNTER, metrics.collect())
    }

    fn checks(&self) -> MetricFamily {
        let metrics = [("passed", true), ("failed", false)].map(|(name, passed)| {
            let metric = Metric::from_label(vec![label("result", name)]);
            let count = |worker: &Worker| {
                if passed { worker.checks_passed.get() } else { worker.checks_failed.get() }
            };
            counted(metric, self.workers.iter().map(|worker| count(worker)).fold(0, u64::wrapping_add))
        });
        let help = "Health checks of endpoints, by result.";
        family("waypost_health_checks_total", help, MetricType::COUNTER, metrics.into())
    }

    fn ejections(&self) -> MetricFamily {
        let metrics = Cause::ALL.into_iter().map(|cause| {
            let metric = Metric::from_label(vec![label("cause", cause.name())]);
            counted(metric, self.sum(|worker| &worker.ejections[cause as usize]))
        });
        let help = "Times that an endpoint was ejected for how it answers, by cause.";
        family("waypost_ejections_total", help, MetricType::COUNTER, metrics.collect())
    }
}

pub(super) fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter(name: &str, help: &str, value: u64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![counted(Metric::default(), value)])
}

fn gauge(name: &str, help: &str, value: u64) -> MetricFamily {
    let mut gauge = Gauge::default();
    gauge.set_value(float(value));
    family(name, help, MetricType::GAUGE, vec![Metric::from_gauge(gauge)])
}

fn counted(mut metric: Metric, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(float(value));
    metric.set_counter(counter);
    metric
}

pub(super) fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

/// Prometheus knows no integers; above 2^53 a count loses its last digits.
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use waypost_proto::reason::Reason;

    use crate::metrics::Metrics;

    #[test]
    fn workers_are_summed() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            let worker = metrics.worker();
            worker.request_began();
            worker.request_began();
            worker.request_ended(StatusCode::OK, Duration::from_millis(1));
            worker.answered(Reason::NoRoute);
            worker.received(7);
        }
        let text = metrics.render();
        for line in [
            "http_server_active_requests 2",
            "http_server_request_body_bytes_total 14",
            "waypost_own_answers_total{reason=\"no_route\"} 2",
            "http_server_request_duration_seconds_bucket{http_response_status_class=\"2xx\",le=\"0.0005\"} 0",
            "http_server_request_duration_seconds_bucket{http_response_status_class=\"2xx\",le=\"0.001\"} 2",
            "http_server_request_duration_seconds_bucket{http_response_status_class=\"2xx\",le=\"+Inf\"} 2",
            "http_server_request_duration_seconds_sum{http_response_status_class=\"2xx\"} 0.002",
            "http_server_request_duration_seconds_count{http_response_status_class=\"5xx\"} 0",
            "waypost_resyncs_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
