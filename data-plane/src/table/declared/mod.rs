//! Declared routing, compiled: which rule takes a request.
//!
//! ```text
//! port ─▶ listener with the most specific hostname ─▶ hostnames of its routes, most specific first
//!                                                       └▶ exact path ─▶ regular expressions ─▶ prefixes ─▶ gRPC methods
//!                                                            └▶ method, header fields, query ─▶ rule
//! ```
//!
//! The choice of the listener is final; all that follows goes on to the next best where nothing fits. Everything is
//! persistent: the next table shares all that did not change. See `MATCHING.md` beside this file.
//!
//! Deliberately absent: what a rule does (see [`crate::rule`]), the automatic routes, and TLS.

mod backends;
mod candidate;
mod error;
pub mod explain;
mod hosts;
mod paths;
mod request;
mod update;
mod value;

use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};
use waypost_proto::v1::{DeclaredEntry, ListenerEntry, ListenerProtocol};

pub(super) use self::update::Updated;
pub(crate) use self::update::check;
pub use self::{
    backends::{Backend, BackendRef, Subset},
    error::DeclaredError,
    hosts::Hostname,
    request::{RequestView, host_name},
};
use self::{
    candidate::{Candidate, Failed, Placed},
    hosts::{Host, Hosts},
    paths::{Hit, Paths},
};
use crate::rule::Rule;

/// The id of the listener that is the proxy's own, which is there even where no entry says so.
pub const OWN_LISTENER: &str = "listener/default/waypost/http";

/// Where requests come in.
#[derive(Debug)]
pub struct Listener {
    /// The id of its entry.
    pub id: Arc<str>,
    /// The port; 0 is the proxy's own.
    pub port: u16,
    /// The hosts that it takes.
    pub hostname: Hostname,
    /// What was declared.
    pub entry: ListenerEntry,
}

impl Listener {
    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.entry.protocol() == ListenerProtocol::Https
    }
}

/// A route, compiled, and where it is placed.
#[derive(Debug)]
struct CompiledRoute {
    candidates: Vec<Arc<Candidate>>,
    /// Listeners' ids, with the hostnames there.
    attachments: Vec<(Arc<str>, Vec<Hostname>)>,
    /// The subsets that its rules need, each as often as it is needed.
    subsets: Vec<BackendRef>,
}

/// The routes at listeners with one port and one hostname.
#[derive(Clone, Debug, Default)]
struct Site {
    listeners: Vec<Arc<Listener>>,
    hosts: Hosts<Paths>,
}

/// Declared routing of a table. A clone is cheap and shares everything.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    entries: HashMap<Arc<str>, Arc<DeclaredEntry>>,
    listeners: HashMap<Arc<str>, Arc<Listener>>,
    routes: HashMap<Arc<str>, Arc<CompiledRoute>>,
    /// Routes by the listener that they name, whether it is there or not.
    attached: HashMap<Arc<str>, OrdSet<Arc<str>>>,
    sites: OrdMap<u16, Hosts<Arc<Site>>>,
    subsets: backends::Subsets,
    /// The port that is the proxy's own; 0 while that is not known.
    own_port: u16,
}

/// Is told what a search looks at. Costs nothing where it does nothing.
trait Observer {
    /// The listeners that were chosen.
    fn chosen(&mut self, site: &Site);
    /// The routes of the next hostname are looked at.
    fn hostname(&mut self);
    /// A match of a rule whose path fits, or is a regular expression, was looked at.
    fn considered(&mut self, placed: &Placed, failed: Option<Failed<'_>>);
}

impl Observer for () {
    #[inline(always)]
    fn chosen(&mut self, _: &Site) {}

    #[inline(always)]
    fn hostname(&mut self) {}

    #[inline(always)]
    fn considered(&mut self, _: &Placed, _: Option<Failed<'_>>) {}
}

impl Declared {
    /// Whether no request can match anything.
    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The rule that takes a request, and how many bytes of the path its prefix has taken; with the listener.
    pub(super) fn find<'a>(
        &'a self,
        request: &RequestView<'_>,
    ) -> Option<(&'a Arc<Rule>, usize, &'a Arc<Listener>)> {
        let (placed, matched_prefix_len) = self.search(request, &mut ())?;
        Some((&placed.candidate.rule, matched_prefix_len, &placed.listener))
    }

    fn search<'a>(&'a self, request: &RequestView<'_>, observer: &mut impl Observer) -> Option<Hit<'a>> {
        if !request.path.starts_with('/') {
            return None;
        }
        let host = Host::of(host_name(request.host));
        let site = self.sites.get(&self.port(request.port))?.matching(&host).next()?;
        observer.chosen(site);
        site.hosts.matching(&host).find_map(|paths| {
            observer.hostname();
            paths.find(request, observer)
        })
    }

    /// A port with 0 for the proxy's own.
    fn port(&self, port: u16) -> u16 {
        if port == self.own_port { 0 } else { port }
    }

    /// The port that is the proxy's own; 0 while that is not known.
    pub(super) fn own_port(&self) -> u16 {
        self.own_port
    }

    /// Whether a port is the proxy's own.
    pub(super) fn is_own(&self, port: u16) -> bool {
        self.port(port) == 0
    }

    /// The listeners, in no order.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values()
    }

    /// Whether no entry was taken and the own port is the same since one was a clone of the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.own_port == other.own_port && self.entries.ptr_eq(&other.entries)
    }

    /// The same for matching, without the entries that it was compiled from. It cannot be updated any more.
    pub(super) fn without_entries(&self) -> Self {
        Self { entries: HashMap::new(), ..self.clone() }
    }

    /// An entry, by its id.
    pub(super) fn entry(&self, id: &str) -> Option<&Arc<DeclaredEntry>> {
        self.entries.get(id)
    }

    /// The entries, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<DeclaredEntry>> {
        self.entries.values()
    }
}

#[cfg(test)]
pub(super) mod tests;
