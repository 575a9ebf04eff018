//! A service's options as they are given: as flags of `run`, or as keys of an entry in the agent's file.
//!
//! One structure serves both, so that there is one list of options and nothing to keep in step with it.
//! Nothing is checked here but syntax; see [`crate::config`].

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::Deserialize;

/// One service, as it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServiceOptions {
    /// The service's name
    #[arg(long, env = "WAYPOST_SERVICE", value_name = "NAME")]
    pub service: String,
    /// The namespace [default: default]
    #[arg(long, env = "WAYPOST_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// The instance's id, unique within the service [default: the address]
    #[arg(long, env = "WAYPOST_INSTANCE_ID", value_name = "ID")]
    pub id: Option<String>,
    /// Where proxies reach it [default: 127.0.0.1 and --port]
    #[arg(long, env = "WAYPOST_ADDRESS", value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// The port that it listens on; checks go to it, and a started command finds it in PORT
    #[arg(long, env = "WAYPOST_PORT")]
    pub port: Option<u16>,
    /// How to check it: http:/PATH, http://HOST:PORT/PATH, tcp, tcp:PORT, grpc, grpc:SERVICE, exec:COMMAND, none
    #[arg(long, env = "WAYPOST_HEALTH", value_name = "CHECK", default_value = "tcp")]
    pub health: Option<String>,
    /// How often to check
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    #[serde(alias = "check_interval")]
    pub check_interval: Option<Span>,
    /// How long a check may take
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    #[serde(alias = "check_timeout")]
    pub check_timeout: Option<Span>,
    /// How many checks in a row must pass before it counts as healthy
    #[arg(long, value_name = "COUNT", default_value = "1")]
    #[serde(alias = "healthy_after")]
    pub healthy_after: Option<u32>,
    /// How many checks in a row must fail before it counts as unhealthy
    #[arg(long, value_name = "COUNT", default_value = "3")]
    #[serde(alias = "unhealthy_after")]
    pub unhealthy_after: Option<u32>,
    /// The version of the software
    #[arg(long, env = "WAYPOST_VERSION", value_name = "VERSION")]
    pub version: Option<String>,
    /// The path prefix that routes to it, or '' for none [default: /SERVICE]
    #[arg(long, env = "WAYPOST_PREFIX", value_name = "PATH")]
    pub prefix: Option<String>,
    /// Whether the prefix is removed before a request is forwarded [default: true]
    #[arg(long, value_name = "BOOL")]
    #[serde(alias = "strip_prefix")]
    pub strip_prefix: Option<bool>,
    /// An endpoint that it answers, such as 'GET /users/{id}'; may be repeated
    #[arg(long = "endpoint", value_name = "'METHOD /PATH'")]
    #[serde(alias = "endpoints")]
    pub endpoint: Vec<String>,
    /// A label for selection; may be repeated
    #[arg(long = "tag", env = "WAYPOST_TAGS", value_delimiter = ',', value_name = "LABEL")]
    #[serde(alias = "tags")]
    pub tag: Vec<String>,
    /// The failure domain
    #[arg(long, env = "WAYPOST_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,
    /// The share of traffic relative to the other instances, 0 to 65535 [default: 1]
    #[arg(long, env = "WAYPOST_WEIGHT", value_name = "WEIGHT")]
    pub weight: Option<u32>,
    /// What it speaks: http1, http2 or grpc [default: http1]
    #[arg(long, env = "WAYPOST_PROTOCOL", value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Metadata for people and programs; may be repeated
    #[arg(long = "metadata", value_name = "NAME=VALUE", value_parser = pair)]
    #[serde(deserialize_with = "pairs")]
    pub metadata: Vec<(String, String)>,
    /// What the service is for, in a sentence
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// How long its lease lives without a heartbeat [default: 10s]
    #[arg(long, env = "WAYPOST_TTL", value_name = "DURATION")]
    pub ttl: Option<Span>,
    /// How long to wait for requests in flight when it leaves
    #[arg(long, env = "WAYPOST_DRAIN_DEADLINE", value_name = "DURATION", default_value = "30s")]
    #[serde(alias = "drain_deadline")]
    pub drain_deadline: Option<Span>,
}

/// A length of time, as people write it: `500ms`, `10s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |error| format!("{text:?} is not a length of time such as 500ms, 10s or 2m: {error}");
        humantime::parse_duration(text).map(Self).map_err(refuse)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(formatter)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn pairs<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    Ok(BTreeMap::deserialize(deserializer)?.into_iter().collect())
}
