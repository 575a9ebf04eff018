//! nginx, HAProxy and Envoy, each with the same ports and one worker.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use waypost_tests::{
    measure::{find, say},
    program::target_directory,
    wait::eventually,
};

use super::{Workload, upstream::Upstream};

pub(crate) const WAYPOST: &str = "waypost";
/// The same proxy, where a service has a policy.
pub(crate) const POLICIES: &str = "waypost with a policy";
/// Another version of the proxy.
pub(crate) const BEFORE: &str = "waypost before";
/// The name in the certificate.
const HOST: &str = "bench.example.com";

/// Where the configurations are, and the certificate.
pub(crate) struct Site {
    directory: TempDir,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let names = vec![HOST.to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let site = Self { directory, certificate, key };
        site.write("cert.pem", &site.certificate);
        site.write("key.pem", &site.key);
        site.write("both.pem", &format!("{}{}", site.certificate, site.key));
        site
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
        path
    }
}

/// Where a peer listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) http1: u16,
    pub(crate) h2c: u16,
    pub(crate) tls: u16,
    pub(crate) grpc: u16,
}

impl Ports {
    fn free() -> Self {
        let [http1, h2c, tls, grpc] = free_ports();
        Self { http1, h2c, tls, grpc }
    }
}

/// Something to measure.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) pid: i32,
    pub(crate) ports: Ports,
    /// What paths begin with, for files and for gRPC.
    pub(crate) prefixes: (&'static str, &'static str),
}

impl Peer {
    /// What to ask for; `None` where it has no port for it.
    pub(crate) fn url(&self, workload: Workload) -> Option<String> {
        let Self { ports, prefixes: (files, grpc), .. } = self;
        let (scheme, port, path) = match workload {
            Workload::Http1 => ("http", ports.http1, format!("{files}/1k")),
            Workload::Apart => ("http", ports.http1, format!("{files}/apart/1k")),
            Workload::Large => ("http", ports.http1, format!("{files}/256k")),
            Workload::H2c => ("http", ports.h2c, format!("{files}/1k")),
            Workload::Tls => ("https", ports.tls, "/1k".to_owned()),
            Workload::Grpc => ("http", ports.grpc, format!("{grpc}/bench.Echo/Call")),
        };
        (port != 0).then(|| format!("{scheme}://127.0.0.1:{port}{path}"))
    }
}

/// A server of somebody else; ended when dropped.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    ports: Ports,
}

impl Server {
    /// Starts it, and waits until a port is open.
    pub(crate) async fn start(name: &'static str, program: &str, arguments: &[&str], port: u16) -> Self {
        let ports = Ports { http1: port, h2c: 0, tls: 0, grpc: 0 };
        Self::start_with(name, program, arguments, ports).await
    }

    async fn start_with(name: &'static str, program: &str, arguments: &[&str], ports: Ports) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let server = Self { name, child, ports };
        eventually(&format!("{program} listens"), Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", ports.http1)).await.map(|_| ())
        })
        .await;
        server
    }

    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer { name: self.name, pid: self.id(), ports: self.ports, prefixes: ("", "") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, because nginx and HAProxy end what they started only if they are asked to end.
        let _ = kill(Pid::from_raw(self.id()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Starts those that are installed, and says which are not.
pub(crate) async fn start(nginx: &str, site: &Site, upstream: &Upstream) -> Vec<Server> {
    let ports = Ports::free();
    let conf = nginx_conf(site, "proxy", &nginx_proxy(site, upstream, ports));
    let mut servers = vec![Server::start_with("nginx", nginx, &["-c", &conf], ports).await];
    // Beside the profile's directory, where the set-up puts it.
    let envoy = target_directory().with_file_name("bench-env").join("bin/envoy").display().to_string();
    let envoy = fs::metadata(&envoy).is_ok().then_some(envoy).or_else(|| find("envoy"));
    match find("haproxy") {
        None => say("proxy cost: haproxy is left out: it is not installed"),
        Some(program) => {
            let ports = Ports::free();
            let conf = site.write("haproxy.cfg", &haproxy(site, upstream, ports));
            servers.push(Server::start_with("haproxy", &program, &["-db", "-f", &conf], ports).await);
        }
    }
    match envoy {
        None => say("proxy cost: envoy is left out: it is not installed"),
        Some(program) => {
            let ports = Ports::free();
            let conf = site.write("envoy.yaml", &envoy_conf(site, upstream, ports));
            let arguments =
                ["-c", &conf, "--concurrency", "1", "--log-level", "off", "--use-dynamic-base-id"];
            servers.push(Server::start_with("envoy", &program, &arguments, ports).await);
        }
    }
    servers
}

pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

pub(crate) fn nginx_conf(site: &Site, name: &str, server: &str) -> String {
    let root = site.path("");
    let conf = format!(
        "worker_processes 1; daemon off; pid {root}/{name}.pid; error_log {root}/{name}.log crit;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {root}/{name}.body;\n\
         proxy_temp_path {root}/{name}.proxy; fastcgi_temp_path {root}/{name}.fastcgi;\n\
         uwsgi_temp_path {root}/{name}.uwsgi; scgi_temp_path {root}/{name}.scgi;\n{server} }}\n"
    );
    site.write(&format!("{name}.conf"), &conf)
}

fn nginx_proxy(site: &Site, upstream: &Upstream, ports: Ports) -> String {
    let Ports { http1, h2c, tls, grpc } = ports;
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| site.path(name));
    let (files, echo) = (upstream.http, upstream.grpc);
    let forward = "location / { proxy_pass http://up; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme; }";
    format!(
        "upstream up {{ server 127.0.0.1:{files}; keepalive 64; keepalive_requests 1000000000; }}\n\
         upstream echo {{ server 127.0.0.1:{echo}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{http1}; {forward} }}\n\
         server {{ listen 127.0.0.1:{h2c} http2; {forward} }}\n\
         server {{ listen 127.0.0.1:{tls} ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; {forward} }}\n\
         server {{ listen 127.0.0.1:{grpc} http2; location / {{ grpc_pass grpc://echo;\n\
         grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
    )
}

fn haproxy(site: &Site, upstream: &Upstream, ports: Ports) -> String {
    let Ports { http1, h2c, tls, grpc } = ports;
    let (files, echo, pem) = (upstream.http, upstream.grpc, site.path("both.pem"));
    format!(
        "global\n  nbthread 1\n  maxconn 2000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  http-reuse always\n\
         frontend in\n  bind 127.0.0.1:{http1}\n  bind 127.0.0.1:{h2c} proto h2\n  bind 127.0.0.1:{tls} ssl crt {pem}\n  \
         option forwardfor\n  http-request set-header X-Forwarded-Proto http\n  default_backend up\n\
         frontend grpc\n  bind 127.0.0.1:{grpc} proto h2\n  option forwardfor\n  default_backend echo\n\
         backend up\n  server one 127.0.0.1:{files}\n\
         backend echo\n  server one 127.0.0.1:{echo} proto h2\n"
    )
}

fn envoy_conf(site: &Site, upstream: &Upstream, ports: Ports) -> String {
    let Ports { http1, h2c, tls, grpc } = ports;
    let secure = format!(
        "{{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,\n\
         common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]}}}}}}",
        site.path("cert.pem"),
        site.path("key.pem")
    );
    let http2 = "{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': \
         type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}";
    let listener = |port: u16, cluster: &str, socket: Option<&str>| {
        let socket = socket.map(|socket| format!("transport_socket: {socket}, ")).unwrap_or_default();
        format!(
            "  - {{name: l{port}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{{{socket}filters: [{{\n\
             name: hcm, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,\n\
             stat_prefix: in, use_remote_address: true, route_config: {{virtual_hosts: [{{name: all, domains: ['*'],\n\
             routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}},\n\
             http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}\n"
        )
    };
    let cluster = |name: &str, port: u16, options: &str| {
        format!(
            "  - {{name: {name}, type: STATIC, connect_timeout: 5s, typed_extension_protocol_options: {options}, load_assignment: {{cluster_name: {name},\n\
             endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}\n"
        )
    };
    [
        "static_resources:\n listeners:\n".to_owned(),
        listener(http1, "up", None),
        listener(h2c, "up", None),
        listener(tls, "up", Some(&secure)),
        listener(grpc, "echo", None),
        " clusters:\n".to_owned(),
        cluster("up", upstream.http, "{}"),
        cluster("echo", upstream.grpc, http2),
    ]
    .concat()
}
