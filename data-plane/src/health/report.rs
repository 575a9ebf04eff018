//! How an endpoint is and why, in words, for those who look at the table.

use super::{
    ejection::{Cause, Standing},
    rules::HealthRules,
};

/// The words for a standing. `illness`: why checks say that it is ill.
pub(crate) fn described(standing: Standing, rules: &HealthRules, illness: Option<&str>) -> String {
    let because = |cause: Cause| match cause {
        Cause::ConsecutiveErrors => {
            let most = rules.outliers.as_ref().and_then(|outliers| outliers.consecutive_errors);
            most.map_or_else(|| "errors in a row".to_owned(), |most| format!("{most} errors in a row"))
        }
        Cause::SuccessRate => "it fails more often than the others".to_owned(),
        Cause::Latency => "it takes longer than the others".to_owned(),
    };
    match standing {
        Standing::Well => "well".to_owned(),
        Standing::Ejected(cause, remaining) => {
            format!("ejected: {}, for another {} ms", because(cause), remaining.as_millis())
        }
        Standing::Probing(cause) => format!("ejected: {}, one request is to find out", because(cause)),
        Standing::Ill => format!("ill: {}", illness.unwrap_or("its checks fail")),
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
