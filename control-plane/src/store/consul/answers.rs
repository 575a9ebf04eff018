//! What Consul answers, as far as it matters here.
//!
//! Deliberately absent: what `consulrs` has and what can be read with it.

use std::collections::HashMap;

use serde::Deserialize;

/// A health check, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check {
    /// The node that it is on.
    pub(super) node: String,
    /// Its id.
    #[serde(rename = "CheckID")]
    pub(super) check_id: String,
    /// Its name, for people.
    pub(super) name: String,
    /// `passing`, `warning` or `critical`.
    pub(super) status: String,
    /// What it says for people.
    pub(super) notes: String,
    /// What it last found.
    pub(super) output: String,
    /// The service that it is about; empty: the node.
    #[serde(rename = "ServiceID")]
    pub(super) service_id: String,
    /// That service's name.
    pub(super) service_name: String,
    /// When it last changed.
    pub(super) modify_index: u64,
}

/// An instance of a service with its checks and those of its node.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceHealth {
    /// Where it is.
    pub(super) node: Node,
    /// What it is.
    pub(super) service: Service,
    /// How it is.
    pub(super) checks: Vec<Check>,
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node {
    /// Its name.
    pub(super) node: String,
    /// Its address.
    pub(super) address: String,
}

/// An instance of a service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    /// Its id, unique on its node.
    #[serde(rename = "ID")]
    pub(super) id: String,
    /// Its address; empty: the node's.
    pub(super) address: String,
    /// Its port; 0: none.
    pub(super) port: u16,
    /// Its tags.
    pub(super) tags: Option<Vec<String>>,
    /// Its metadata.
    pub(super) meta: Option<HashMap<String, String>>,
    /// Its weights.
    pub(super) weights: Option<Weights>,
    /// Empty for a service; proxies and gateways of the mesh have one.
    #[serde(default)]
    pub(super) kind: String,
}

/// A service's weights.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Weights {
    /// While all checks pass.
    pub(super) passing: u32,
}

/// What an agent says of itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Myself {
    /// Its configuration.
    pub(super) config: AgentConfig,
}

/// An agent's configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentConfig {
    /// Its datacenter.
    pub(super) datacenter: String,
    /// Its node.
    pub(super) node_name: String,
    /// Whether it is a server.
    pub(super) server: bool,
    /// Consul's version.
    pub(super) version: String,
}

/// A service that an agent knows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Registered {
    /// Its id.
    #[serde(rename = "ID")]
    pub(super) id: String,
}
