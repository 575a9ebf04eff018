//! What a resource must keep by itself, whatever else is declared: the rules of the CRDs' schemas and of their CEL
//! expressions.
//!
//! What its types already say is not said again here. What depends on other resources is in `check`.

mod filter;
mod gateway;
mod policy;
mod route;
pub(super) mod text;
mod traffic;

use std::{collections::HashMap, fmt, hash::Hash};

use self::text::Refusal;
use super::{
    Spec,
    finding::{FieldPath, Finding},
    key::{ResourceKey, is_label, is_subdomain},
};

/// All that is wrong with a resource.
pub(super) fn spec(key: &ResourceKey, spec: &Spec) -> Vec<Finding> {
    let mut rules = Rules::default();
    let path = FieldPath::spec();
    match spec {
        Spec::BackendTlsPolicy(policy) => policy::backend_tls(&mut rules, &path, policy),
        Spec::BackendTrafficPolicy(policy) => traffic::policy(&mut rules, &path, policy),
        Spec::ConfigMap(map) => policy::config_map(&mut rules, map),
        Spec::ExternalService(service) => policy::external_service(&mut rules, &path, key, service),
        Spec::GrpcRoute(route) => route::grpc(&mut rules, &path, route),
        Spec::Gateway(gateway) => gateway::gateway(&mut rules, &path, gateway),
        Spec::HttpRoute(route) => route::http(&mut rules, &path, route),
        Spec::ReferenceGrant(grant) => policy::grant(&mut rules, &path, grant),
        Spec::Secret(secret) => policy::secret(&mut rules, secret),
    }
    rules.findings
}

/// Takes down what breaks a rule.
#[derive(Default)]
pub(super) struct Rules {
    findings: Vec<Finding>,
}

impl Rules {
    fn refuse(&mut self, field: &FieldPath, reason: impl Into<String>) {
        self.findings.push(Finding::error(field.clone(), reason));
    }

    fn refuse_value(&mut self, field: &FieldPath, value: impl fmt::Display, reason: impl Into<String>) {
        self.findings.push(Finding::error(field.clone(), reason).value(value));
    }

    /// A text must keep a rule.
    fn text(&mut self, field: &FieldPath, value: &str, rule: impl FnOnce(&str) -> Result<(), Refusal>) {
        if let Err(refusal) = rule(value) {
            let finding = Finding::error(field.clone(), refusal.reason).value(value);
            self.findings.push(finding.suggest(refusal.suggestion));
        }
    }

    /// There must be `least` to `most` elements.
    fn count(&mut self, field: &FieldPath, found: usize, least: usize, most: usize) {
        if found < least {
            self.refuse(field, format!("needs at least {least}"));
        }
        if found > most {
            self.refuse(field, format!("has {found}, and at most {most} are allowed"));
        }
    }

    /// No two may be alike.
    fn unique<K: Eq + Hash>(&mut self, items: impl IntoIterator<Item = (FieldPath, K)>) {
        let mut first: HashMap<K, FieldPath> = HashMap::new();
        for (field, key) in items {
            match first.get(&key) {
                Some(earlier) => self.refuse(&field, format!("is the same as {earlier}")),
                None => {
                    first.insert(key, field);
                }
            }
        }
    }

    /// A number must lie in a range.
    fn range(&mut self, field: &FieldPath, value: u32, least: u32, most: u32) {
        if !(least..=most).contains(&value) {
            self.refuse_value(field, value, format!("must be {least} to {most}"));
        }
    }

    fn port(&mut self, field: &FieldPath, port: u16) {
        self.range(field, u32::from(port), 1, 65_535);
    }

    /// What a resource is called that is referred to.
    fn resource_name(&mut self, field: &FieldPath, name: &str) {
        if !is_subdomain(name) {
            let reason = "must be a resource's name: lower-case letters, digits, '-' and '.'";
            self.refuse_value(field, name, reason);
        }
    }

    fn namespace(&mut self, field: &FieldPath, namespace: Option<&String>) {
        if let Some(namespace) = namespace
            && !is_label(namespace)
        {
            let reason = "must be a namespace: lower-case letters, digits and '-'";
            self.refuse_value(field, namespace, reason);
        }
    }
}

/// A kind with its group, as messages have it.
fn kind_of(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") }
}

#[cfg(test)]
mod tests;
