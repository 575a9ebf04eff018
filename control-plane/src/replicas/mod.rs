//! The control planes that share a store, as one of them sees the others.
//!
//! ```text
//!   member ── registers itself, renews, leaves ──▶ registry (namespace `waypost`) ◀── the others do the same
//!                                                       │
//!   peers  ◀── who is there, who has left lately ───────┘
//!     │
//!   together ── WaitDrained, WaitApplied, ListProxies, GetStatus of each ──▶ one answer for all of them
//! ```
//!
//! None is special: whoever is asked asks the others. `REPLICAS.md` says what each promises.
//!
//! Deliberately absent: an election, and anything that must be kept when this process ends.

mod evidence;
mod member;
mod peer;
mod sightings;
mod together;

pub use self::sightings::MOST_AT_ONCE;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use waypost_proto::{address::Address, v1};

use self::peer::Peer;
use crate::{
    hub::Hub,
    registry::{Registry, reserved},
};

/// How a control plane takes part.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name among the others; another one each start unless it is given.
    pub id: String,
    /// Where the others reach its gRPC; where it listens unless it is given.
    pub advertise: Option<Address>,
    /// For how long the others wait for it when it is silent: the length of its lease, at least 1 s.
    pub ttl: Duration,
    /// How long a drain waits for the proxies of a control plane that is gone to come to another.
    pub drain_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            advertise: None,
            ttl: Duration::from_secs(5),
            drain_grace: Duration::from_secs(5),
        }
    }
}

/// Who this control plane is among the others.
#[derive(Clone, Debug)]
struct Me {
    options: Options,
    address: String,
}

/// This control plane and the others.
pub struct Replicas {
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    /// `None`: the store is ours alone, and so there are no others.
    me: Option<Me>,
    peers: Mutex<BTreeMap<String, Arc<Peer>>>,
    /// The epoch of our own registration, while there is one.
    registered: tokio::sync::Mutex<Option<u64>>,
}

impl Replicas {
    /// Takes part where there are options. `grpc` is where we listen.
    pub fn new(
        registry: Arc<Registry>,
        hub: Arc<Hub>,
        options: Option<Options>,
        grpc: SocketAddr,
    ) -> Arc<Self> {
        let me = options.map(|options| {
            let address = options.advertise.as_ref().map_or_else(|| own_address(grpc), ToString::to_string);
            Me { options, address }
        });
        let registered = tokio::sync::Mutex::new(None);
        Arc::new(Self { registry, hub, me, peers: Mutex::default(), registered })
    }

    /// Our own id; empty where there can be no others.
    pub fn id(&self) -> &str {
        self.me.as_ref().map_or("", |me| &me.options.id)
    }

    /// A proxy of ours, as the others are told: `replica/proxy`, or just the proxy where there are no others.
    fn name(&self, proxy: &str) -> String {
        qualified(self.id(), proxy)
    }

    fn drain_grace(&self) -> Duration {
        self.me.as_ref().map_or(Duration::ZERO, |me| me.options.drain_grace)
    }

    /// The others: those that are registered, and those that have left so lately that their proxies may still be
    /// on their way to somebody else.
    fn peers(&self) -> Vec<Arc<Peer>> {
        let Some(me) = &self.me else { return Vec::new() };
        let view = self.registry.view();
        let listed = view.list_instances(&v1::ListInstancesRequest {
            namespace: reserved::NAMESPACE.to_owned(),
            ..Default::default()
        });
        let now = Instant::now();
        let grace = me.options.drain_grace;
        let mut peers = self.peers.lock();
        let mut there = BTreeMap::new();
        for instance in listed.map(|listed| listed.instances).unwrap_or_default() {
            let address = instance.spec.map(|spec| spec.address).unwrap_or_default();
            let id = instance.key.map(|key| key.id).unwrap_or_default();
            if id != me.options.id {
                there.insert(id, address);
            }
        }
        for (id, peer) in peers.iter() {
            if there.contains_key(id) { peer.is_there() } else { peer.has_left(now) }
        }
        peers.retain(|_, peer| !peer.is_gone(now, grace));
        for (id, address) in there {
            if peers.get(&id).is_none_or(|peer| peer.address() != address) {
                peers.insert(id.clone(), Arc::new(Peer::new(&id, &address)));
            }
        }
        peers.values().cloned().collect()
    }
}

fn qualified(replica: &str, proxy: &str) -> String {
    if replica.is_empty() { proxy.to_owned() } else { format!("{replica}/{proxy}") }
}

/// An address by which others reach a listener: its own, or, where it listens everywhere, that of the interface
/// by which this machine reaches others.
fn own_address(listens: SocketAddr) -> String {
    if !listens.ip().is_unspecified() {
        return listens.to_string();
    }
    // Nothing is sent: connecting a datagram socket only chooses the interface. The addresses are of the ranges
    // for documentation (RFC 5737, RFC 3849).
    let route = |from: SocketAddr, to: SocketAddr| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|local| local.ip()).filter(|ip| !ip.is_unspecified())
    };
    let v4 = || route((Ipv4Addr::UNSPECIFIED, 0).into(), ([192, 0, 2, 1], 9).into());
    let v6 = || {
        let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        route((Ipv6Addr::UNSPECIFIED, 0).into(), (documentation, 9).into())
    };
    let ip = v4().or_else(v6).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(ip, listens.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_can_be_connected_to() {
        let exact: SocketAddr = "10.1.2.3:7400".parse().expect("an address");
        assert_eq!(own_address(exact), "10.1.2.3:7400");
        for everywhere in ["0.0.0.0:7400", "[::]:7400"] {
            let address = own_address(everywhere.parse().expect("an address"));
            let checked: Address = address.parse().expect("it is one that others can connect to");
            assert_eq!(checked.port(), 7400);
        }
    }
}
