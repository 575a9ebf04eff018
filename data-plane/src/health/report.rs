//! How an endpoint is and why, in words, for those who look at the table.

use waypost_proto::v1::EndpointHealth;

use super::{
    ejection::{Cause, Standing},
    rules::HealthRules,
};

/// The words for a standing. `illness`: why checks say that it is ill.
pub(crate) fn described(standing: Standing, rules: &HealthRules, illness: Option<&str>) -> String {
    let because = |cause: Cause| because(cause, rules);
    match standing {
        Standing::Well => "well".to_owned(),
        Standing::Ejected(cause, remaining) => {
            format!("ejected: {}, for another {} ms", because(cause), remaining.as_millis())
        }
        Standing::Probing(cause) => format!("ejected: {}, one request is to find out", because(cause)),
        Standing::Ill => format!("ill: {}", illness.unwrap_or("its checks fail")),
    }
}

/// Why an endpoint is ejected, in words.
fn because(cause: Cause, rules: &HealthRules) -> String {
    match cause {
        Cause::ConsecutiveErrors => {
            let most = rules.outliers.as_ref().and_then(|outliers| outliers.consecutive_errors);
            most.map_or_else(|| "errors in a row".to_owned(), |most| format!("{most} errors in a row"))
        }
        Cause::SuccessRate => "it fails more often than the others".to_owned(),
        Cause::Latency => "it takes longer than the others".to_owned(),
    }
}

/// How an endpoint is, without how long that lasts: what is told to others once, when it becomes so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It takes requests.
    #[default]
    Well,
    /// It takes none because of how it answers.
    Ejected(Cause),
    /// It takes none until checks succeed.
    Ill,
    /// It takes none for a while after a connection failed.
    CoolingDown,
}

impl Condition {
    /// Of an endpoint that stands so by its service's policy. `cooling`: it cools down.
    pub(crate) fn of(standing: Standing, cooling: bool) -> Self {
        match standing {
            Standing::Ill => Self::Ill,
            Standing::Ejected(cause, _) | Standing::Probing(cause) => Self::Ejected(cause),
            Standing::Well if cooling => Self::CoolingDown,
            Standing::Well => Self::Well,
        }
    }

    /// On the wire.
    pub(crate) fn to_wire(self) -> EndpointHealth {
        match self {
            Self::Well => EndpointHealth::Well,
            Self::Ejected(_) => EndpointHealth::Ejected,
            Self::Ill => EndpointHealth::Ill,
            Self::CoolingDown => EndpointHealth::CoolingDown,
        }
    }

    /// Why, in words; empty where it is well. `rules`: those of its service, if it has any.
    pub(crate) fn reason(self, rules: Option<&HealthRules>, illness: Option<&str>) -> String {
        match self {
            Self::Well => String::new(),
            Self::Ejected(cause) => rules.map(|rules| because(cause, rules)).unwrap_or_default(),
            Self::Ill => illness.unwrap_or("its checks fail").to_owned(),
            Self::CoolingDown => "a connection failed, or closed before an answer".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use waypost_proto::v1::{OutlierDetection, TrafficEntry};

    use super::*;

    #[test]
    fn it_says_why_and_for_how_long() {
        let entry =
            TrafficEntry { outlier_detection: Some(OutlierDetection::default()), ..TrafficEntry::default() };
        let rules = HealthRules::of(&entry);
        let ejected = Standing::Ejected(Cause::ConsecutiveErrors, Duration::from_millis(800));
        for (standing, expected) in [
            (Standing::Well, "well"),
            (ejected, "ejected: 5 errors in a row, for another 800 ms"),
            (
                Standing::Probing(Cause::Latency),
                "ejected: it takes longer than the others, one request is to find out",
            ),
            (Standing::Ill, "ill: GET /up answered 503"),
        ] {
            assert_eq!(described(standing, &rules, Some("GET /up answered 503")), expected);
        }
    }
}
