//! What a policy may say by the rules of its fields, and proxies do not do yet. It is refused where something is to be
//! declared, since a field that is silently without effect would mislead.
//!
//! Deliberately absent: the rules of these fields, which hold already.

use super::BackendTrafficPolicy;
use crate::resource::{FieldPath, Finding, Manifest, Spec};

/// Why, and what to do.
const REASON: &str = "is not done by Waypost's proxies yet";
const WAY_OUT: &str = "leave it out";

/// What of a manifest cannot be declared yet.
pub fn later(manifest: &Manifest) -> Vec<Finding> {
    let Spec::BackendTrafficPolicy(policy) = manifest.spec() else { return Vec::new() };
    let found = |field: &'static str| {
        Finding::error(FieldPath::spec().keys(field), REASON).suggest(WAY_OUT).of(manifest.key())
    };
    fields(policy).map(found).collect()
}

fn fields(policy: &BackendTrafficPolicy) -> impl Iterator<Item = &'static str> {
    let named = [("adaptiveConcurrency", policy.adaptive_concurrency.is_some())];
    named.into_iter().filter(|(_, is_there)| *is_there).map(|(field, _)| field)
}

#[cfg(test)]
mod tests {
    use crate::resource::parse;

    use super::*;

    #[test]
    fn what_proxies_do_not_do_yet_is_named_field_by_field() {
        let documents = [crate::v1::Document {
            source: "policy.yaml".to_owned(),
            text: "apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: shop}]
  loadBalancer: {type: PeakEwma}
  retry: {attempts: 2, budget: {percent: 10}}
  timeouts: {request: 5s, idle: 1s}
  circuitBreaker: {failurePercent: 50, maxRequests: 10, maxConnections: 2}
  adaptiveConcurrency: {minimum: 3}
  hedging: {delay: 10ms}
"
            .to_owned(),
        }];
        let parsed = parse(&documents).expect("its fields keep their rules");
        let found: Vec<String> =
            later(&parsed[0].manifest).iter().map(|finding| finding.field.to_string()).collect();
        assert_eq!(found, ["spec.adaptiveConcurrency"]);
    }
}
