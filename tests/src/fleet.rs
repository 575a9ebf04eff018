//! Several control planes over one store, each with a relay between it and the store, and proxies that know all of
//! them.
//!
//! Deliberately absent: the store's server, which the test starts and faults itself.

use std::{net::SocketAddr, time::Duration};

use waypost_sdk::Client;

use crate::{
    cluster::{ControlPlane, Proxy, strings},
    http::try_get,
    relay::Relay,
    wait::{eventually, holds},
};

/// A control plane, and the network between it and the store.
pub struct Replica {
    /// The network to the store.
    pub network: Relay,
    /// The program.
    pub plane: ControlPlane,
}

/// Control planes and proxies. All is ended when this is dropped, the proxies first.
pub struct Fleet {
    /// The proxies, in the order of their start.
    pub proxies: Vec<Proxy>,
    /// The control planes, in the order of their start.
    pub replicas: Vec<Replica>,
}

impl Fleet {
    /// Starts all of it. `url` makes a store's URL of the address at which it is reached.
    pub async fn start(
        store: SocketAddr,
        url: impl Fn(SocketAddr) -> String,
        replicas: usize,
        proxies: usize,
        arguments: &[&str],
    ) -> Self {
        let mut fleet = Self { proxies: Vec::new(), replicas: Vec::new() };
        for _ in 0..replicas {
            let network = Relay::start(store).await;
            let mut all = strings(&["--store", &url(network.address())]);
            all.extend(strings(arguments));
            fleet.replicas.push(Replica { plane: ControlPlane::start(&all).await, network });
        }
        for number in 0..proxies {
            // Each knows all, and each begins the list with another one.
            let mut addresses = fleet.addresses();
            addresses.rotate_left(number % replicas);
            let mut more = strings(&["--threads", "1"]);
            for address in &addresses[1..] {
                more.extend(strings(&["--control-plane", &format!("http://{address}")]));
            }
            fleet.proxies.push(Proxy::start(addresses[0], &more).await);
        }
        for proxy in &fleet.proxies {
            proxy.ready().await;
        }
        fleet
    }

    /// Where the control planes listen for gRPC.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|replica| replica.plane.grpc).collect()
    }

    /// An SDK client that knows all control planes.
    ///
    /// # Panics
    /// Never: their addresses are ones.
    pub fn client(&self) -> Client {
        Client::connect(self.addresses().iter().map(ToString::to_string)).expect("addresses")
    }

    /// Waits until all control planes and all proxies hold the same, and are settled.
    pub async fn agrees(&self, within: Duration) {
        eventually("all control planes and proxies hold the same", within, async || {
            let mut digests = Vec::new();
            for replica in &self.replicas {
                let status = replica.plane.api.status().await.map_err(|status| status.to_string())?;
                holds(status.settled, || format!("{:?} is not settled", replica.plane.grpc))?;
                digests.push(status.head.as_ref().map(|head| format!("{:016x}", head.digest)));
            }
            for proxy in &self.proxies {
                digests.push(digest_of(proxy).await?);
            }
            holds(digests.windows(2).all(|pair| pair[0] == pair[1]), || format!("{digests:?}"))
        })
        .await;
    }

    /// Waits until every control plane says this of itself.
    pub async fn everywhere(
        &self,
        what: &str,
        within: Duration,
        check: impl AsyncFn(&ControlPlane) -> Result<(), String>,
    ) {
        eventually(what, within, async || {
            for replica in &self.replicas {
                check(&replica.plane).await.map_err(|error| format!("{}: {error}", replica.plane.grpc))?;
            }
            Ok::<_, String>(())
        })
        .await;
    }
}

/// The digest of what a proxy serves by, as its admin port has it beside the service "shop".
async fn digest_of(proxy: &Proxy) -> Result<Option<String>, String> {
    let answer = try_get(proxy.admin, "/table?service=shop").await?;
    let table: serde_json::Value = serde_json::from_str(&answer.text()).map_err(|error| error.to_string())?;
    Ok(table["position"]["digest"].as_str().map(str::to_owned))
}
