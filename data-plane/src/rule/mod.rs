//! A rule of a declared route, ready to be carried out: names, values and durations are checked and in the form that
//! requests need. See `RULES.md` beside this file.
//!
//! Deliberately absent: which requests a rule takes (see [`crate::table`]), and sockets: what is here are values and
//! pure functions, which `forward` carries out.

mod backend;
pub mod cors;
mod filter;
mod header;
mod limits;
mod mirror;
mod path;
mod redirect;
pub mod session;

use std::sync::Arc;

use http::uri::PathAndQuery;
use waypost_proto::v1;

pub(crate) use self::{
    backend::{Backends, RuleBackend},
    cors::{Caller, Cors, PREFLIGHT_STATUS},
    filter::Filters,
    limits::{Limits, NO_LIMIT, Retry, TimeLimit, Waits},
    mirror::Mirror,
    redirect::{Asked, Redirect, Scheme},
    session::{Session, Token, Visit},
};

/// A rule of a route. Values are replaced, never changed.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name; empty if it has none.
    pub name: String,
    /// The route's kind, namespace and name, as in the id of its entry.
    pub route_id: Arc<str>,
    /// What was declared.
    pub entry: v1::RouteRule,
    /// Whether it is a rule of a GRPCRoute: answers of the proxy's own are gRPC statuses.
    pub(crate) grpc: bool,
    /// What is done with requests and answers.
    pub(crate) filters: Filters,
    /// Who answers.
    pub(crate) backends: Backends,
    /// How long it may take.
    pub(crate) limits: Limits,
    /// When to try again; none means the proxy's own rule.
    pub(crate) retry: Option<Retry>,
    /// How clients stay with instances.
    pub(crate) session: Option<Session>,
}

/// Why a rule cannot be carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct RuleError {
    /// What is wrong, as a path within the rule.
    pub field: String,
    /// Why.
    pub problem: String,
}

impl RuleError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same for what holds the field.
    fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field), ..self }
    }
}

impl Rule {
    /// Compiles a rule of a route.
    ///
    /// # Errors
    /// What it asks for is not known here, or cannot be.
    pub fn compile(route: &v1::RuleRoute, rule: &v1::RouteRule) -> Result<Self, RuleError> {
        let kind = if route.grpc { "grpcroute" } else { "httproute" };
        let route_id: Arc<str> = format!("{kind}/{}/{}", route.namespace, route.name).into();
        let session = rule.session_persistence.as_ref().map(|wire| {
            Session::compile(wire, &route_id, &rule.name, &rule.matches)
                .map_err(|error| RuleError::new("session_persistence", format!("cannot be: {error}")))
        });
        Ok(Self {
            name: rule.name.clone(),
            route_id,
            grpc: route.grpc,
            filters: Filters::compile(&rule.filters)?,
            backends: Backends::compile(&rule.backends)?,
            limits: Limits::compile(rule)?,
            retry: rule.retry.as_ref().map(Retry::compile).transpose()?,
            session: session.transpose()?,
            entry: rule.clone(),
        })
    }

    /// A path as backends without a rewrite of their own get it. `matched` bytes of it were matched by the rule's
    /// prefix.
    pub(crate) fn rewritten(&self, path: &str, matched: usize) -> String {
        let changed = self.filters.path.as_ref().and_then(|change| {
            let target = PathAndQuery::try_from(path).ok()?;
            Some(change.apply(&target, matched).to_string())
        });
        changed.unwrap_or_else(|| path.to_owned())
    }
}

#[cfg(test)]
mod tests;
