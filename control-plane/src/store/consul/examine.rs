//! Whether Consul is there, new enough, and lets us do what a control plane must; and what to do where it does not.
//!
//! What must be written is tried, below the prefix and under a name of its own, and taken back.
//!
//! Deliberately absent: reading policies. What counts is whether it works.

use consulrs::api::service::requests::RegisterServiceRequest;

use super::{
    Inner,
    answers::Myself,
    api::{CallError, Operation, Outcome, Reading},
};
use crate::store::{Finding, StoreError};

/// The oldest version that knows the filters that are used.
const OLDEST: (u64, u64) = (1, 8);
const PAGE: &str = "the policy is in control-plane/src/store/CONSUL.md";

impl Inner {
    /// Looks at everything.
    ///
    /// # Errors
    /// Consul cannot be reached.
    pub(super) async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        let leader = match self.api.get::<String>("status/leader", None, Reading::Default).await {
            Err(CallError::Unanswered(reason)) => return Err(StoreError::Unavailable(reason)),
            outcome => outcome.map(|answer| answer.value),
        };
        let mut findings = vec![good("reachable", self.url.clone())];
        findings.push(match leader {
            Ok(leader) if !leader.is_empty() => good("leader", format!("{leader} leads Consul's servers")),
            Ok(_) => bad(
                "leader",
                "Consul's servers have no leader, so that nothing can be written".to_owned(),
                "see that more than half of Consul's servers run and reach each other (consul operator raft list-peers)",
            ),
            Err(error) => bad("leader", reason(error), "see why this agent cannot reach Consul's servers"),
        });
        self.examine_agent(&mut findings).await;
        findings.push(self.examine_keys().await);
        findings.push(self.examine_services().await);
        findings.push(self.examine_catalog().await);
        Ok(findings)
    }

    async fn examine_agent(&self, findings: &mut Vec<Finding>) {
        let myself = match self.api.get::<Myself>("agent/self", None, Reading::Default).await {
            Ok(answer) => answer.value.config,
            Err(error) => {
                let remedy = format!("give the token agent_prefix \"\" {{ policy = \"read\" }}; {PAGE}");
                findings.push(bad("version", reason(error), &remedy));
                return;
            }
        };
        findings.push(if is_new_enough(&myself.version) {
            good("version", format!("Consul {}", myself.version))
        } else {
            let (major, minor) = OLDEST;
            bad(
                "version",
                format!("Consul {}", myself.version),
                &format!("run Consul {major}.{minor} or newer"),
            )
        });
        let kind = if myself.server { "server" } else { "client" };
        let detail = format!("{} agent {} of datacenter {}", kind, myself.node_name, myself.datacenter);
        findings.push(match &self.datacenter {
            Some(datacenter) if *datacenter != myself.datacenter => bad(
                "agent",
                detail,
                &format!(
                    "instances are registered with this agent and would not be seen in {datacenter}: \
                     name an agent of that datacenter in the store's URL"
                ),
            ),
            _ => good("agent", detail),
        });
    }

    async fn examine_keys(&self) -> Finding {
        let key = self.layout.trial();
        let folder = self.layout.folder();
        let put = vec![Operation::Replace(key.clone(), b"trial".to_vec(), 0)];
        let tried = match self.api.transaction(put).await {
            Ok(Outcome::Done(_)) => self.api.transaction(vec![Operation::Delete(key)]).await,
            outcome => outcome,
        };
        match tried {
            Ok(_) => good("keys", format!("{folder} can be written")),
            Err(error) => {
                let remedy =
                    format!("give the token key_prefix \"{folder}\" {{ policy = \"write\" }}; {PAGE}");
                bad("keys", format!("{folder} cannot be written: {}", reason(error)), &remedy)
            }
        }
    }

    async fn examine_services(&self) -> Finding {
        let id = format!("{}trial:{}", self.layout.ids(), uuid::Uuid::new_v4());
        let trial = RegisterServiceRequest {
            name: Some("waypost-trial".to_owned()),
            id: Some(id.clone()),
            ..RegisterServiceRequest::default()
        };
        let tried = match self.api.tell(&trial, &[]).await {
            Ok(()) => self.deregister(id).await,
            outcome => outcome,
        };
        match tried {
            Ok(()) => good("services", "services can be registered with the agent".to_owned()),
            Err(error) => {
                let remedy = format!("give the token service_prefix \"\" {{ policy = \"write\" }}; {PAGE}");
                bad("services", format!("no service can be registered: {}", reason(error)), &remedy)
            }
        }
    }

    /// Without the permission Consul answers as if there were nothing.
    async fn examine_catalog(&self) -> Finding {
        let remedy = format!("give the token node_prefix \"\" {{ policy = \"read\" }}; {PAGE}");
        match self.must_see_nodes().await {
            Err(StoreError::Refused(_)) => {
                bad("catalog", "the catalog and its checks cannot be read".to_owned(), &remedy)
            }
            Ok(()) => good("catalog", "the catalog and its checks can be read".to_owned()),
            Err(error) => bad("catalog", error.to_string(), &remedy),
        }
    }
}

fn good(subject: &str, detail: String) -> Finding {
    Finding { subject: subject.to_owned(), good: true, detail, remedy: String::new() }
}

fn bad(subject: &str, detail: String, remedy: &str) -> Finding {
    Finding { subject: subject.to_owned(), good: false, detail, remedy: remedy.to_owned() }
}

fn reason(error: CallError) -> String {
    StoreError::from(error).to_string()
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '+', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= OLDEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (version, enough) in
            [("1.8.7", true), ("1.10.0", true), ("2.0.0", true), ("1.7.9", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
        assert!(is_new_enough("1.21.0+ent"));
    }
}
