//! Where connections come in and how they go out, compiled: ports, listeners, certificates, TLS towards services.
//!
//! Only what changed is made anew. Material that is malformed leaves in place what was there before, and is told in
//! [`Edge::problems`]: one bad certificate must not take a port down. What refers to material that is not there at all
//! fails closed.
//!
//! Deliberately absent: binding of ports (see [`crate::serve`]) and the routes of listeners.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use imbl::HashMap;
use rustls::pki_types::CertificateDer;
use waypost_proto::{
    name::ServiceKey,
    v1::{
        AuthoritiesEntry, BackendTlsEntry, CertificateEntry, DeclaredEntry, ListenerEntry, ListenerProtocol,
        declared_entry::Kind,
    },
};

use crate::tls::{Asterisk, BackendTls, Certificate, Demand, ListenerTls, Names, authorities, canonical};

/// What stands for the proxy's own port.
pub const OWN_PORT: u16 = 0;

/// Where connections come in. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    ports: Arc<BTreeMap<u16, Arc<Port>>>,
    problems: Arc<BTreeMap<Arc<str>, String>>,
    any_tls: bool,
}

/// A port and the listeners there.
#[derive(Debug)]
pub struct Port {
    by_host: Names<Arc<Site>>,
    /// Those that speak TLS.
    by_server_name: Names<Arc<TlsSite>>,
    has_tls: bool,
    has_plain: bool,
}

/// A hostname at a port.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// What listeners call it; empty is any.
    pub(crate) hostname: Arc<str>,
    /// Whether plain HTTP is spoken for it.
    pub(crate) is_plain: bool,
}

/// A hostname at a port, for which TLS is spoken.
#[derive(Debug)]
pub(crate) struct TlsSite {
    /// What listeners call it; empty is any.
    pub(crate) hostname: Arc<str>,
    /// How TLS is done, where it can be.
    pub(crate) tls: Option<ListenerTls>,
}

impl Edge {
    /// The ports that are to be open, [`OWN_PORT`] among them.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    /// What is wrong with entries, by their ids. What was there before stays in place.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.problems.iter().map(|(id, problem)| (&**id, problem.as_str()))
    }

    /// Whether it is this very value.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ports, &other.ports)
    }

    /// A port.
    pub(crate) fn port(&self, port: u16) -> Option<&Arc<Port>> {
        self.ports.get(&port)
    }

    /// A port at which TLS is spoken.
    pub(crate) fn tls_port(&self, port: u16) -> Option<&Arc<Port>> {
        if self.any_tls { self.port(port).filter(|port| port.has_tls) } else { None }
    }
}

impl Port {
    /// Whether plain HTTP is spoken there.
    pub(crate) fn has_plain(&self) -> bool {
        self.has_plain
    }

    /// What a request's host belongs to.
    pub(crate) fn site(&self, host: &str) -> Option<&Arc<Site>> {
        self.by_host.find(&canonical(host))
    }

    /// What the server name of a handshake belongs to. No name: to what takes any.
    pub(crate) fn tls_site(&self, server_name: Option<&str>) -> Option<&Arc<TlsSite>> {
        self.by_server_name.find(&canonical(server_name.unwrap_or_default()))
    }
}

/// A listener's entry with its settings.
#[derive(Clone, Debug)]
struct Listener {
    entry: ListenerEntry,
    tls: Option<ListenerTls>,
}

/// Keeps an [`Edge`] in step with entries.
#[derive(Debug, Default)]
pub(super) struct EdgeCompiler {
    own_port: u16,
    listeners: BTreeMap<Arc<str>, Listener>,
    certificates: HashMap<Arc<str>, Arc<Certificate>>,
    authorities: HashMap<Arc<str>, Arc<[CertificateDer<'static>]>>,
    backends: BTreeMap<Arc<str>, BackendTlsEntry>,
    services: HashMap<ServiceKey, Arc<BackendTls>>,
    problems: BTreeMap<Arc<str>, String>,
}

/// What an entry was and is.
type Change<'a> = (&'a Arc<str>, Option<&'a Arc<DeclaredEntry>>);

impl EdgeCompiler {
    /// Takes entries: each with what it is now. Gives the services whose TLS is another now; `None` where nothing here
    /// is another.
    pub(super) fn update<'a>(
        &mut self,
        touched: impl Iterator<Item = Change<'a>>,
    ) -> Option<Vec<ServiceKey>> {
        // Material first: what refers to it is made from what it is now.
        let (mut names, mut listeners, mut backends) = (HashSet::new(), Vec::new(), Vec::new());
        for (id, entry) in touched {
            let kind = entry.and_then(|entry| entry.kind.as_ref());
            match kind {
                Some(Kind::Certificate(entry)) => self.take_certificate(id, entry),
                Some(Kind::Authorities(entry)) => self.take_authorities(id, entry),
                Some(Kind::Listener(entry)) => listeners.push((id, Some(entry))),
                Some(Kind::BackendTls(entry)) => backends.push((id, Some(entry))),
                Some(Kind::Route(_) | Kind::Traffic(_)) => continue,
                None => {
                    self.problems.remove(id);
                    self.certificates.remove(id);
                    self.authorities.remove(id);
                    listeners.push((id, None));
                    backends.push((id, None));
                }
            }
            names.insert(&**id);
        }
        if names.is_empty() {
            return None;
        }
        self.take_listeners(&listeners, &names);
        Some(self.take_backends(&backends, &names))
    }

    /// Says which port is the proxy's own: listeners that name it are there.
    pub(super) fn listen_on(&mut self, own_port: u16) {
        self.own_port = own_port;
    }

    /// How to speak TLS to a service, where that was asked for.
    pub(super) fn backend(&self, service: &ServiceKey) -> Option<&Arc<BackendTls>> {
        self.services.get(service)
    }

    /// What is served by.
    pub(super) fn edge(&self) -> Edge {
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        // The listener that is there even where no entry says so.
        ports.insert(OWN_PORT, Port::new());
        for listener in self.listeners.values() {
            let Ok(number) = u16::try_from(listener.entry.port) else { continue };
            let number = if number == self.own_port { OWN_PORT } else { number };
            ports.entry(number).or_insert_with(Port::new).put(listener);
        }
        if let Some(own) = ports.get_mut(&OWN_PORT) {
            own.put_plain("");
        }
        let any_tls = ports.values().any(|port| port.has_tls);
        let ports = ports.into_iter().map(|(number, port)| (number, Arc::new(port))).collect();
        Edge { ports: Arc::new(ports), problems: Arc::new(self.problems.clone()), any_tls }
    }

    fn take_certificate(&mut self, id: &Arc<str>, entry: &CertificateEntry) {
        match Certificate::of(&entry.chain, &entry.key) {
            Ok(certificate) => {
                self.certificates.insert(Arc::clone(id), Arc::new(certificate));
                self.problems.remove(id);
            }
            Err(error) => self.refuse(id, error.to_string()),
        }
    }

    fn take_authorities(&mut self, id: &Arc<str>, entry: &AuthoritiesEntry) {
        match authorities(&entry.certificates) {
            Ok(all) => {
                self.authorities.insert(Arc::clone(id), all.into());
                self.problems.remove(id);
            }
            Err(error) => self.refuse(id, error.to_string()),
        }
    }

    fn refuse(&mut self, id: &Arc<str>, problem: String) {
        tracing::error!(entry = %id, problem, "an entry cannot be used, what was there before stays in place");
        self.problems.insert(Arc::clone(id), problem);
    }

    fn take_listeners(&mut self, entries: &[(&Arc<str>, Option<&ListenerEntry>)], touched: &HashSet<&str>) {
        for (id, entry) in entries {
            match entry {
                Some(entry) => {
                    let tls = self.listeners.remove(*id).and_then(|before| before.tls);
                    self.listeners.insert(Arc::clone(id), Listener { entry: (*entry).clone(), tls });
                }
                None => drop(self.listeners.remove(*id)),
            }
        }
        let is_touched = |id: &str| touched.contains(id);
        let affected: Vec<Arc<str>> = self
            .listeners
            .iter()
            .filter(|(id, listener)| {
                let mut named = listener.entry.certificates.iter().chain(&listener.entry.client_authorities);
                is_touched(id) || named.any(|id| is_touched(id))
            })
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in affected {
            let Some(listener) = self.listeners.get(&id).cloned() else { continue };
            let made = if listener.entry.protocol() == ListenerProtocol::Https {
                self.listener_tls(&listener).map(Some)
            } else {
                Ok(None)
            };
            let tls = match made {
                Ok(tls) => {
                    self.problems.remove(&id);
                    tls
                }
                Err(problem) => {
                    tracing::error!(listener = %id, problem, "a listener cannot do TLS, its handshakes are refused");
                    self.problems.insert(Arc::clone(&id), problem);
                    None
                }
            };
            self.listeners.insert(id, Listener { entry: listener.entry, tls });
        }
    }

    fn listener_tls(&self, listener: &Listener) -> Result<ListenerTls, String> {
        let entry = &listener.entry;
        let certificates: Vec<Arc<Certificate>> =
            entry.certificates.iter().filter_map(|id| self.certificates.get(id.as_str()).cloned()).collect();
        let authorities = if entry.client_authorities.is_empty() {
            None
        } else {
            let all = self.authorities_of(&entry.client_authorities);
            Some(all.filter(|all| !all.is_empty()).ok_or("none of the authorities for clients is there")?)
        };
        let only_tls13 = match entry.minimum_tls_version.as_str() {
            "" | "1.2" => false,
            "1.3" => true,
            other => return Err(format!("the TLS version {other:?} is neither \"1.2\" nor \"1.3\"")),
        };
        let before = listener.tls.as_ref().map(|tls| &tls.demand);
        let demand = Demand::of(authorities, entry.client_may_be_anonymous, only_tls13, before)?;
        ListenerTls::of(&certificates, demand)
    }

    fn authorities_of(&self, ids: &[String]) -> Option<Vec<CertificateDer<'static>>> {
        let all = ids.iter().filter_map(|id| self.authorities.get(id.as_str()));
        Some(all.flat_map(|all| all.iter().cloned()).collect())
    }

    fn take_backends(
        &mut self,
        entries: &[(&Arc<str>, Option<&BackendTlsEntry>)],
        touched: &HashSet<&str>,
    ) -> Vec<ServiceKey> {
        let mut changed = Vec::new();
        for (id, entry) in entries {
            let before = self.backends.remove(*id);
            // The service of before, where another one or none is named now.
            let gone = before.and_then(|before| service_of(&before));
            if let Some(service) = gone.filter(|service| entry.and_then(service_of).as_ref() != Some(service))
            {
                self.services.remove(&service);
                changed.push(service);
            }
            if let Some(entry) = entry {
                self.backends.insert(Arc::clone(id), (*entry).clone());
            }
        }
        let is_touched = |id: &str| touched.contains(id);
        let affected: Vec<(Arc<str>, BackendTlsEntry)> = self
            .backends
            .iter()
            .filter(|(id, entry)| is_touched(id) || entry.authorities.iter().any(|id| is_touched(id)))
            .map(|(id, entry)| (Arc::clone(id), entry.clone()))
            .collect();
        for (id, entry) in affected {
            let Some(service) = service_of(&entry) else { continue };
            match self.backend_tls(&entry) {
                Ok(tls) => {
                    self.problems.remove(&id);
                    self.services.insert(service.clone(), Arc::new(tls));
                }
                Err(problem) => {
                    tracing::error!(entry = %id, problem, "a service cannot be spoken to over TLS, so not at all");
                    self.problems.insert(id, problem.clone());
                    // Never in the clear to a service that was to be spoken to over TLS.
                    self.services.insert(service.clone(), Arc::new(BackendTls::unusable(problem)));
                }
            }
            changed.push(service);
        }
        changed
    }

    fn backend_tls(&self, entry: &BackendTlsEntry) -> Result<BackendTls, String> {
        let authorities =
            if entry.authorities.is_empty() { None } else { self.authorities_of(&entry.authorities) };
        BackendTls::of(&entry.hostname, &entry.subject_alt_names, authorities.as_deref())
    }
}

fn service_of(entry: &BackendTlsEntry) -> Option<ServiceKey> {
    ServiceKey::from_wire(entry.service.as_ref()).ok()
}

impl Port {
    fn new() -> Self {
        let (by_host, by_server_name) = (Names::new(Asterisk::AnyLabels), Names::new(Asterisk::AnyLabels));
        Self { by_host, by_server_name, has_tls: false, has_plain: false }
    }

    /// Puts a listener. Where two do TLS for the same hostname the one with the lesser id comes first, and stays.
    fn put(&mut self, listener: &Listener) {
        let hostname = listener.entry.hostname.to_ascii_lowercase();
        if listener.entry.protocol() != ListenerProtocol::Https {
            return self.put_plain(&hostname);
        }
        self.has_tls = true;
        let name: Arc<str> = hostname.as_str().into();
        let site = || Arc::new(Site { hostname: Arc::clone(&name), is_plain: false });
        self.by_host.entry(&hostname, site);
        let site = || Arc::new(TlsSite { hostname: Arc::clone(&name), tls: listener.tls.clone() });
        self.by_server_name.entry(&hostname, site);
    }

    fn put_plain(&mut self, hostname: &str) {
        self.has_plain = true;
        let site = || Arc::new(Site { hostname: hostname.into(), is_plain: true });
        Arc::make_mut(self.by_host.entry(hostname, site)).is_plain = true;
    }
}

#[cfg(test)]
mod tests;
