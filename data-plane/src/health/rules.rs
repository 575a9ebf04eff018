//! What a service's policy says of the health of its endpoints, with what is absent filled in.
//!
//! The control plane has checked the values; one that does not fit is as if it were absent.
//!
//! | | default | as in |
//! | --- | --- | --- |
//! | errors in a row | 5 | Envoy, `consecutive_5xx` |
//! | interval of comparisons | 10 s | Envoy, `interval` |
//! | ejection | 1 s, doubling up to 30 s | our cooldowns; Envoy: 30 s, growing up to 300 s |
//! | most that are ejected by comparison | 10 % | Envoy, `max_ejection_percent` |
//! | requests for a comparison | 100 | Envoy, `success_rate_request_volume` |
//! | check: interval, timeout | 5 s, 1 s | |
//! | check: failures, successes in a row | 3, 1 | Kubernetes, readiness probes |

use std::{num::NonZeroU32, ops::RangeInclusive, sync::Arc, time::Duration};

use waypost_proto::{
    time::duration,
    v1::{ActiveHealthCheck, OutlierDetection, TrafficEntry, active_health_check::Kind},
};

use super::{ejection::Heed, illness::Thresholds, panic};
use crate::table::Lengths;

/// The shortest interval and timeout, whatever is declared: checks are no load test.
const SHORTEST: Duration = Duration::from_millis(10);

/// What a policy says of health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthRules {
    /// Of 100 endpoints, how many must be well for the others to be passed over.
    pub(crate) panic_below_percent: u32,
    /// Who is passed over for how it answers.
    pub(crate) outliers: Option<OutlierRules>,
    /// How the proxy finds out by itself who is well.
    pub(crate) checks: Option<Arc<CheckRules>>,
}

/// Who is passed over for how it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutlierRules {
    /// So many errors in a row eject; `None`: they do not.
    pub(crate) consecutive_errors: Option<NonZeroU32>,
    /// For how long.
    pub(crate) lengths: Lengths,
    /// How endpoints are compared with each other; `None`: they are not.
    pub(crate) comparison: Option<Comparison>,
}

/// How endpoints are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// How often.
    pub(crate) interval: Duration,
    /// Who succeeds less often than the mean by so many thousandths of the standard deviation.
    pub(crate) stdev_thousandths: Option<NonZeroU32>,
    /// Who takes longer than so many hundredths of the median endpoint's time.
    pub(crate) percent_of_median: Option<NonZeroU32>,
    /// With fewer requests in an interval an endpoint is not compared.
    pub(crate) minimum_requests: u64,
    /// Of 100 endpoints, at most so many are ejected so; one may always be.
    pub(crate) most_percent: u32,
}

/// How the proxy finds out by itself who is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckRules {
    /// What is asked.
    pub(crate) kind: CheckKind,
    /// From one check of an endpoint to its next, on average.
    pub(crate) interval: Duration,
    /// How long all of a check may take.
    pub(crate) timeout: Duration,
    /// How many results in a row count.
    pub(crate) thresholds: Thresholds,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckKind {
    /// `GET` of a path.
    Http {
        /// The path with its query.
        path: String,
        /// The host; `None`: the endpoint's address.
        host: Option<String>,
        /// The status codes that are good.
        expected: Vec<RangeInclusive<u16>>,
    },
    /// `grpc.health.v1.Health/Check` of a service; empty is the server.
    Grpc(String),
    /// A connection.
    Tcp,
}

impl HealthRules {
    /// What an entry says.
    pub(crate) fn of(entry: &TrafficEntry) -> Self {
        Self {
            panic_below_percent: entry.panic_threshold_percent.unwrap_or(panic::DEFAULT_PERCENT).min(100),
            outliers: entry.outlier_detection.as_ref().map(OutlierRules::of),
            checks: entry.health_check.as_ref().and_then(CheckRules::of).map(Arc::new),
        }
    }

    /// What endpoints are passed over for.
    pub(crate) fn heed(&self) -> Heed {
        Heed { ejections: self.outliers.is_some(), illness: self.checks.is_some() }
    }
}

impl OutlierRules {
    fn of(declared: &OutlierDetection) -> Self {
        let first = length(declared.base_ejection_time.as_ref().and_then(duration), Duration::from_secs(1));
        let longest = length(declared.max_ejection_time.as_ref().and_then(duration), Duration::from_secs(30))
            .max(first);
        let comparison = Comparison {
            interval: length(declared.interval.as_ref().and_then(duration), Duration::from_secs(10)),
            stdev_thousandths: NonZeroU32::new(declared.success_rate_stdev_factor),
            percent_of_median: NonZeroU32::new(declared.latency_percent_of_median),
            minimum_requests: declared.minimum_requests.map_or(100, u64::from),
            most_percent: declared.max_ejection_percent.unwrap_or(10),
        };
        let compares = comparison.stdev_thousandths.is_some() || comparison.percent_of_median.is_some();
        Self {
            consecutive_errors: NonZeroU32::new(declared.consecutive_errors.unwrap_or(5)),
            lengths: Lengths { first: millis(first), longest: millis(longest) },
            comparison: compares.then_some(comparison),
        }
    }

    /// Whether it matters how long answers take.
    pub(crate) fn times_answers(&self) -> bool {
        self.comparison.is_some_and(|comparison| comparison.percent_of_median.is_some())
    }
}

impl CheckRules {
    /// `None`: a check of a kind that this version does not know.
    fn of(declared: &ActiveHealthCheck) -> Option<Self> {
        let kind = match declared.kind.as_ref()? {
            Kind::Http(check) => CheckKind::Http {
                path: check.path.clone(),
                host: Some(check.hostname.clone()).filter(|host| !host.is_empty()),
                expected: expected(&check.expected_statuses),
            },
            Kind::Grpc(check) => CheckKind::Grpc(check.service.clone()),
            Kind::Tcp(_) => CheckKind::Tcp,
        };
        let or = |declared: u32, default: u32| if declared == 0 { default } else { declared };
        Some(Self {
            kind,
            interval: length(declared.interval.as_ref().and_then(duration), Duration::from_secs(5)),
            timeout: length(declared.timeout.as_ref().and_then(duration), Duration::from_secs(1)),
            thresholds: Thresholds {
                unhealthy: or(declared.unhealthy_threshold, 3),
                healthy: or(declared.healthy_threshold, 1),
            },
        })
    }
}

fn expected(statuses: &[u32]) -> Vec<RangeInclusive<u16>> {
    if statuses.is_empty() {
        return vec![200..=299];
    }
    let codes = statuses.iter().filter_map(|status| u16::try_from(*status).ok());
    codes.map(|code| code..=code).collect()
}

/// A declared length, or the default where there is none that makes sense.
fn length(declared: Option<Duration>, default: Duration) -> Duration {
    declared.filter(|length| !length.is_zero()).unwrap_or(default).max(SHORTEST)
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX >> 24)
}

#[cfg(test)]
mod tests {
    use waypost_proto::{
        time::wire_duration,
        v1::{GrpcCheck, HttpCheck},
    };

    use super::*;

    #[test]
    fn what_is_absent_is_as_documented() {
        let nothing = HealthRules::of(&TrafficEntry::default());
        assert_eq!(nothing, HealthRules { panic_below_percent: 50, outliers: None, checks: None });
        assert_eq!(nothing.heed(), Heed::default());
        let entry = TrafficEntry {
            outlier_detection: Some(OutlierDetection::default()),
            health_check: Some(ActiveHealthCheck { kind: Some(Kind::Tcp(true)), ..Default::default() }),
            panic_threshold_percent: Some(0),
            ..TrafficEntry::default()
        };
        let rules = HealthRules::of(&entry);
        let outliers = OutlierRules {
            consecutive_errors: NonZeroU32::new(5),
            lengths: Lengths { first: 1_000, longest: 30_000 },
            comparison: None,
        };
        let checks = CheckRules {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            thresholds: Thresholds { unhealthy: 3, healthy: 1 },
        };
        assert_eq!(rules.heed(), Heed { ejections: true, illness: true });
        let expected =
            HealthRules { panic_below_percent: 0, outliers: Some(outliers), checks: Some(Arc::new(checks)) };
        assert_eq!(rules, expected);
    }

    #[test]
    fn what_is_declared_counts() {
        let declared = OutlierDetection {
            consecutive_errors: Some(0),
            base_ejection_time: Some(wire_duration(Duration::from_secs(60))),
            latency_percent_of_median: 300,
            ..OutlierDetection::default()
        };
        let rules = OutlierRules::of(&declared);
        assert_eq!((rules.consecutive_errors, rules.times_answers()), (None, true));
        assert_eq!(rules.lengths, Lengths { first: 60_000, longest: 60_000 }, "never shorter than the first");
        let kind = |kind| CheckRules::of(&ActiveHealthCheck { kind: Some(kind), ..Default::default() });
        let http = HttpCheck { path: "/up".to_owned(), expected_statuses: vec![204], ..HttpCheck::default() };
        assert_eq!(
            kind(Kind::Http(http)).map(|rules| rules.kind),
            Some(CheckKind::Http { path: "/up".to_owned(), host: None, expected: vec![204..=204] })
        );
        let grpc = GrpcCheck { service: "shop".to_owned() };
        assert_eq!(kind(Kind::Grpc(grpc)).map(|rules| rules.kind), Some(CheckKind::Grpc("shop".to_owned())));
        assert!(CheckRules::of(&ActiveHealthCheck::default()).is_none());
    }
}
