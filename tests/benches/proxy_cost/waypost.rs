//! Waypost: a control plane with 1,000 services, two of which are the upstream's, and a proxy of one thread.

use std::time::Duration;

use waypost_proto::v1::Protocol;
use waypost_tests::{
    api::spec,
    cluster::{ControlPlane, Proxy, strings},
    measure::{register_all, say},
    wait::{eventually, holds},
};

use super::{
    SERVICES,
    peers::{Peer, Ports, Site, WAYPOST, free_ports},
    upstream::Upstream,
};

const LEASE: Duration = Duration::from_secs(3600);

/// The programs.
pub(crate) struct Waypost {
    plane: ControlPlane,
    proxy: Proxy,
    tls: u16,
}

impl Waypost {
    pub(crate) async fn start(site: &Site, upstream: &Upstream) -> Self {
        let plane = ControlPlane::start(&[]).await;
        let others = (2..SERVICES).map(|number| spec(&format!("service-{number}"), "127.0.0.1:1"));
        register_all(&plane.api, others).await;
        let files = spec("bench", &format!("127.0.0.1:{}", upstream.http));
        let mut echo = spec("echo", &format!("127.0.0.1:{}", upstream.grpc));
        echo.protocol = Protocol::Grpc.into();
        for instance in [files, echo] {
            plane.api.register(&instance, LEASE).await.expect("a lease");
        }
        let proxy = Proxy::start(plane.grpc, &strings(&["--threads", "1"])).await;
        proxy.ready().await;
        eventually("the upstream is routed to", Duration::from_secs(30), async || {
            let answer = proxy.get("/bench/1k").await;
            holds(answer.status == 200, || answer.text())
        })
        .await;
        let [tls] = free_ports();
        match plane.api.apply(&manifests(site, tls)).await {
            Ok(_) => {
                eventually("the listener is there", Duration::from_secs(30), async || {
                    tokio::net::TcpStream::connect(("127.0.0.1", tls)).await.map(|_| ())
                })
                .await;
            }
            Err(status) => panic!("the listener is refused: {}", status.message()),
        }
        say(format!("proxy cost: {SERVICES} services are registered"));
        Self { plane, proxy, tls }
    }

    pub(crate) fn control_plane(&self) -> i32 {
        self.plane.process.id()
    }

    pub(crate) fn peer(&self) -> Peer {
        let port = self.proxy.traffic.port();
        let ports = Ports { http1: port, h2c: port, tls: self.tls, grpc: port };
        Peer { name: WAYPOST, pid: self.proxy.process.id(), ports, prefixes: ("/bench", "/echo") }
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
