//! How long a rule's requests may take (Gateway API, `HTTPRouteTimeouts`; GEP-1742) and when they are tried again
//! (`HTTPRouteRetry`; GEP-1731); and what a service's policy says of time beside these.

use std::{fmt, time::Duration};

use http::StatusCode;
use waypost_proto::{
    time::{WireDuration, duration},
    v1::{RouteRetry, RouteRule, TrafficRetry, TrafficTimeouts},
};

use super::RuleError;

/// How many times the shortest pause the longest one is, where nothing else is declared.
const LONGEST: u32 = 10;

/// Longer than anybody waits, and short enough to be added to a time.
pub(crate) const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a rule's requests may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// From the request's head to the answer's end; none means no limit.
    pub(crate) request: Option<Duration>,
    /// For each attempt, from its begin to the answer's head; none means no limit.
    pub(crate) attempt: Option<Duration>,
    /// Whether either was declared, be it as none: then the proxy's own limit for answers does not hold.
    pub(crate) are_declared: bool,
}

/// A limit of time, and where it was set: what is said when it has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit {
    pub(crate) length: Duration,
    /// The flag or the field, in words.
    whose: &'static str,
}

/// How long parts of a request may take by its service's policy, whatever a route says; none: the proxy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// Until there is a connection.
    pub(crate) connect: Option<TimeLimit>,
    /// Between two pieces of an answer.
    pub(crate) idle: Option<TimeLimit>,
}

/// When to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    /// The most tries after the first; none: as many as the proxy makes by itself.
    pub(crate) attempts: Option<usize>,
    /// Answers with these are tried again; sorted.
    codes: Box<[u16]>,
    /// The shortest pause before a try.
    backoff: Duration,
    /// The longest one, jitter aside.
    longest: Duration,
}

impl Limits {
    pub(super) fn compile(rule: &RouteRule) -> Result<Self, RuleError> {
        let (request, attempt) = (rule.request_timeout.as_ref(), rule.backend_request_timeout.as_ref());
        let limit = |field: &str, declared: Option<Option<Duration>>| {
            Ok(checked(field, declared)?.filter(|limit| !limit.is_zero()))
        };
        Ok(Self {
            request: limit("request_timeout", request.map(duration))?,
            attempt: limit("backend_request_timeout", attempt.map(duration))?,
            are_declared: rule.request_timeout.is_some() || rule.backend_request_timeout.is_some(),
        })
    }

    /// What a policy says for all requests to a service.
    pub(crate) fn of_service(declared: &TrafficTimeouts) -> Self {
        let limit = |wire: Option<&WireDuration>| wire.and_then(duration).filter(|limit| !limit.is_zero());
        Self {
            request: limit(declared.request.as_ref()),
            attempt: limit(declared.per_try.as_ref()),
            are_declared: declared.request.is_some() || declared.per_try.is_some(),
        }
    }
}

impl TimeLimit {
    pub(crate) const fn new(length: Duration, whose: &'static str) -> Self {
        Self { length, whose }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} ({})", self.length, self.whose)
    }
}

impl Waits {
    /// What a policy says; zero is no limit.
    pub(crate) fn of_service(declared: &TrafficTimeouts) -> Self {
        let limit = |wire: Option<&WireDuration>, whose| {
            let length = wire.and_then(duration)?;
            Some(TimeLimit::new(if length.is_zero() { NO_LIMIT } else { length }, whose))
        };
        Self {
            connect: limit(declared.connect.as_ref(), "timeouts.connect of the service's policy"),
            idle: limit(declared.idle.as_ref(), "timeouts.idle of the service's policy"),
        }
    }
}

impl Retry {
    pub(super) fn compile(retry: &RouteRetry) -> Result<Self, RuleError> {
        let code = |code: &u32| {
            let status = u16::try_from(*code).ok().filter(|code| StatusCode::from_u16(*code).is_ok());
            status
                .ok_or_else(|| RuleError::new("retry.codes", format!("has {code}, which is no status code")))
        };
        let mut codes = retry.codes.iter().map(code).collect::<Result<Vec<_>, _>>()?;
        codes.sort_unstable();
        let backoff = checked("retry.backoff", retry.backoff.as_ref().map(duration))?.unwrap_or_default();
        Ok(Self {
            attempts: Some(usize::try_from(retry.attempts).unwrap_or(usize::MAX)),
            codes: codes.into(),
            backoff,
            longest: backoff.saturating_mul(LONGEST),
        })
    }

    /// What a policy says for all requests to a service; `None` where it speaks of the budget alone.
    pub(crate) fn of_service(declared: &TrafficRetry) -> Option<Self> {
        let says = declared.attempts.is_some() || !declared.codes.is_empty() || declared.backoff.is_some();
        let backoff = declared.backoff.as_ref().and_then(duration).unwrap_or_default();
        let longest = declared.max_backoff.as_ref().and_then(duration);
        let mut codes: Vec<u16> =
            declared.codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect();
        codes.sort_unstable();
        says.then(|| Self {
            attempts: declared.attempts.and_then(|attempts| usize::try_from(attempts).ok()),
            codes: codes.into(),
            backoff,
            longest: longest.unwrap_or(backoff.saturating_mul(LONGEST)).max(backoff),
        })
    }

    /// Whether an answer with this status is tried again.
    pub(crate) fn is_for(&self, status: StatusCode) -> bool {
        self.codes.binary_search(&status.as_u16()).is_ok()
    }

    /// The pause before a try, of which there were `made` before: the shortest one, twice as long with each further
    /// try up to the longest, and up to half of the shortest on top. `draw` gives a number from 0 to 1.
    pub(crate) fn pause(&self, made: usize, draw: impl FnOnce() -> f64) -> Duration {
        if self.backoff.is_zero() {
            return Duration::ZERO;
        }
        let doubled = 1 << made.saturating_sub(1).min(30);
        self.backoff
            .saturating_mul(doubled)
            .min(self.longest)
            .saturating_add(self.backoff.mul_f64(draw().clamp(0.0, 1.0) / 2.0))
    }
}

/// A length of time that may be absent, and malformed where it is not.
fn checked(field: &str, declared: Option<Option<Duration>>) -> Result<Option<Duration>, RuleError> {
    declared
        .map(|duration| duration.ok_or_else(|| RuleError::new(field, "is negative or malformed")))
        .transpose()
}

#[cfg(test)]
mod tests {
    use waypost_proto::time::wire_duration;

    use super::*;

    #[test]
    fn zero_disables_a_timeout_and_an_absent_one_leaves_it_to_the_proxy() {
        let limits = |request_timeout, backend_request_timeout| {
            let wire = |limit: Option<u64>| limit.map(|limit| wire_duration(Duration::from_secs(limit)));
            let (request_timeout, backend_request_timeout) =
                (wire(request_timeout), wire(backend_request_timeout));
            let rule = RouteRule { request_timeout, backend_request_timeout, ..RouteRule::default() };
            let limits = Limits::compile(&rule).expect("sound");
            (limits.request, limits.attempt, limits.are_declared)
        };
        let of = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(limits(None, None), (None, None, false));
        assert_eq!(limits(Some(0), None), (None, None, true));
        assert_eq!(limits(Some(9), Some(0)), (of(9), None, true));
        assert_eq!(limits(None, Some(3)), (None, of(3), true));
    }

    #[test]
    fn a_policy_s_zero_is_no_limit_and_what_is_absent_is_the_proxy_s() {
        let waits = Waits::of_service(&TrafficTimeouts {
            connect: Some(wire_duration(Duration::from_millis(250))),
            idle: Some(wire_duration(Duration::ZERO)),
            ..TrafficTimeouts::default()
        });
        assert_eq!(waits.idle.map(|idle| idle.length), Some(NO_LIMIT));
        let said = waits.connect.map(|connect| connect.to_string());
        assert_eq!(said.as_deref(), Some("250ms (timeouts.connect of the service's policy)"));
        assert_eq!(Waits::of_service(&TrafficTimeouts::default()), Waits::default());
    }

    #[test]
    fn answers_with_the_codes_that_are_named_are_tried_again() {
        let retry = Retry::compile(&RouteRetry {
            attempts: 2,
            codes: vec![503, 500],
            backoff: Some(wire_duration(Duration::from_secs(1))),
        });
        let retry = retry.expect("sound");
        let at_once = Retry::compile(&RouteRetry::default()).expect("sound");
        assert_eq!(at_once.pause(3, || 1.0), Duration::ZERO);
        let pauses = [1, 2, 3, 4, 5, usize::MAX].map(|made| retry.pause(made, || 0.0).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(retry.pause(1, || 1.0), Duration::from_millis(1500));
        let tried = [500, 502, 503].map(|code| retry.is_for(StatusCode::from_u16(code).expect("a code")));
        assert_eq!(tried, [true, false, true]);
        let error =
            Retry::compile(&RouteRetry { codes: vec![99], ..RouteRetry::default() }).expect_err("no code");
        assert_eq!(error.field, "retry.codes");
    }
}
