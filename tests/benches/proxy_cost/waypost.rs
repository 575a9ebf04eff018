//! Waypost: a control plane with 1,000 services, some of which are the upstream's, and a proxy of one thread.

use std::{path::Path, time::Duration};

use waypost_proto::v1::Protocol;
use waypost_tests::{
    api::spec,
    cluster::{ControlPlane, Proxy, strings},
    measure::{register_all, say},
    program::Program,
    wait::{eventually, holds},
};

use super::{
    SERVICES,
    peers::{BEFORE, POLICIES, Peer, Ports, Site, WAYPOST, free_ports},
    upstream::Upstream,
};

const LEASE: Duration = Duration::from_secs(3600);
/// What watches over the requests of a service, all of it at once.
const POLICY: &str = "---
apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: all}
spec:
  targetRefs: [{group: '', kind: Service, name: bench-policy}, {group: '', kind: Service, name: echo-policy}]
  loadBalancer: {type: LeastRequest}
  outlierDetection: {consecutiveErrors: 5, successRateStdevFactor: 1900, latencyPercentOfMedian: 300}
  retry: {attempts: 2, codes: [503], backoff: 25ms, budget: {percent: 20, minimumPerSecond: 10}}
  circuitBreaker: {maxConnections: 1000, maxPendingRequests: 1000, maxRequests: 1000, maxRetries: 100, failurePercent: 50}
";

/// The programs.
pub(crate) struct Waypost {
    plane: ControlPlane,
    proxy: Proxy,
    tls: u16,
    is_before: bool,
}

impl Waypost {
    /// Starts the programs that were built.
    pub(crate) async fn start(site: &Site, upstream: &Upstream) -> Self {
        let started = Self::start_from(&Program::Proxy.path(), false, site, upstream).await;
        say(format!("proxy cost: {SERVICES} services are registered"));
        started
    }

    /// Starts another version of the proxy, without policies, which it need not know.
    pub(crate) async fn start_before(file: &Path, site: &Site, upstream: &Upstream) -> Self {
        Self::start_from(file, true, site, upstream).await
    }

    async fn start_from(file: &Path, is_before: bool, site: &Site, upstream: &Upstream) -> Self {
        let plane = ControlPlane::start(&[]).await;
        let others = (4..SERVICES).map(|number| spec(&format!("service-{number}"), "127.0.0.1:1"));
        register_all(&plane.api, others).await;
        for name in ["bench", "bench-policy"] {
            let files = spec(name, &format!("127.0.0.1:{}", upstream.http));
            plane.api.register(&files, LEASE).await.expect("a lease");
        }
        for name in ["echo", "echo-policy"] {
            let mut echo = spec(name, &format!("127.0.0.1:{}", upstream.grpc));
            echo.protocol = Protocol::Grpc.into();
            plane.api.register(&echo, LEASE).await.expect("a lease");
        }
        let [tls] = free_ports();
        let policy = if is_before { "" } else { POLICY };
        if let Err(status) = plane.api.apply(&format!("{}{policy}", manifests(site, tls))).await {
            panic!("the resources are refused: {}", status.message());
        }
        let proxy = Proxy::start_from(file, plane.grpc, &strings(&["--threads", "1"])).await;
        proxy.ready().await;
        eventually("the upstream is routed to", Duration::from_secs(30), async || {
            let answer = proxy.get("/bench/1k").await;
            holds(answer.status == 200, || answer.text())
        })
        .await;
        eventually("the listener is there", Duration::from_secs(30), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", tls)).await.map(|_| ())
        })
        .await;
        Self { plane, proxy, tls, is_before }
    }

    pub(crate) fn control_plane(&self) -> i32 {
        self.plane.process.id()
    }

    /// The proxy, by each way to the upstream that it has.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let port = self.proxy.traffic.port();
        let pid = self.proxy.process.id();
        let peer = |name, tls, prefixes| {
            let ports = Ports { http1: port, h2c: port, tls, grpc: port };
            Peer { name, pid, ports, prefixes }
        };
        if self.is_before {
            return vec![peer(BEFORE, self.tls, ("/bench", "/echo"))];
        }
        vec![
            peer(WAYPOST, self.tls, ("/bench", "/echo")),
            peer(POLICIES, 0, ("/bench-policy", "/echo-policy")),
        ]
    }
}

/// A listener for TLS, and a route from it to the files.
fn manifests(site: &Site, port: u16) -> String {
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: bench}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: bench}}\nspec:\n  gatewayClassName: waypost\n  listeners:\n  \
         - {{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: bench}}]}}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: bench}}\nspec:\n  parentRefs: [{{name: bench}}]\n  \
         rules:\n  - backendRefs: [{{name: bench, port: 80}}]\n",
        indented(&site.certificate),
        indented(&site.key)
    )
}
