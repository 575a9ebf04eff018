//! What a proxied request costs: processor time of Waypost's proxy, nginx and HAProxy, in one run.
//!
//! Keep-alive HTTP/1.1, a body of 1 KB from nginx, 1,000 services in Waypost's table. Each proxy has one thread,
//! bound to one core; the client (wrk) and the upstream share another one. The proxies take turns, round by
//! round, so that what the machine does meanwhile hits all of them; the medians are compared.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use waypost_tests::{
    api::spec,
    cluster::{ControlPlane, Proxy, strings},
    measure::{cpu_time, find, median, pin, print_ratios, register_all, say, wrk_result},
    wait::eventually,
};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const CONNECTIONS: &str = "32";
const SERVICES: u32 = 1_000;
const TARGET: f64 = 1.2;
const PROXY_CORE: usize = 0;
const OTHER_CORE: usize = 1;

/// A server of somebody else; ended when dropped.
struct Server {
    child: Child,
}

impl Server {
    async fn start(program: &str, arguments: &[&str], port: u16) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")) };
        eventually(&format!("{program} listens"), Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(|_| ())
        })
        .await;
        server
    }

    fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, because nginx and HAProxy end what they started only if they are asked to end.
        let _ = kill(Pid::from_raw(self.id()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Something to measure.
struct Peer {
    name: &'static str,
    pid: i32,
    url: String,
}

#[tokio::main]
async fn main() {
    let (Some(wrk), Some(nginx)) = (find("wrk"), find("nginx")) else {
        say(
            "proxy cost: skipped: nginx (the upstream) or wrk (the client) is not installed; run tests/setup.sh --bench",
        );
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [upstream_port, nginx_port, haproxy_port] = free_ports();
    let upstream = nginx_conf(&directory, "upstream", &upstream_server(&directory, upstream_port));
    let upstream = Server::start(&nginx, &["-c", &upstream], upstream_port).await;
    pin(upstream.id(), OTHER_CORE);

    let (plane, proxy) = waypost(upstream_port).await;
    let mut peers = vec![Peer {
        name: "waypost",
        pid: proxy.process.id(),
        url: format!("http://{}/bench/1k", proxy.traffic),
    }];
    let conf = nginx_conf(&directory, "proxy", &nginx_proxy(upstream_port, nginx_port));
    let nginx_proxy = Server::start(&nginx, &["-c", &conf], nginx_port).await;
    let url = |port: u16| format!("http://127.0.0.1:{port}/1k");
    peers.push(Peer { name: "nginx", pid: nginx_proxy.id(), url: url(nginx_port) });
    let haproxy = match find("haproxy") {
        Some(program) => {
            let conf = haproxy_conf(&directory, upstream_port, haproxy_port);
            Some(Server::start(&program, &["-db", "-f", &conf], haproxy_port).await)
        }
        None => {
            say("proxy cost: haproxy is left out: it is not installed");
            None
        }
    };
    peers.extend(haproxy.as_ref().map(|server| Peer {
        name: "haproxy",
        pid: server.id(),
        url: url(haproxy_port),
    }));
    peers.iter().for_each(|peer| pin(peer.pid, PROXY_CORE));
    pin(plane.process.id(), OTHER_CORE);

    run(&wrk, &peers).await;
}

async fn run(wrk: &str, peers: &[Peer]) {
    let mut costs = BTreeMap::<&'static str, Vec<f64>>::new();
    let mut rates = BTreeMap::<&'static str, Vec<f64>>::new();
    for peer in peers {
        // To warm up: connections, caches, the branch predictor.
        measure(wrk, peer, Duration::from_secs(1));
    }
    for _ in 0..ROUNDS {
        for peer in peers {
            let (cost, rate) = measure(wrk, peer, ROUND);
            costs.entry(peer.name).or_default().push(cost);
            rates.entry(peer.name).or_default().push(rate);
        }
    }
    let medians = |all: &BTreeMap<&'static str, Vec<f64>>| -> BTreeMap<&'static str, f64> {
        all.iter().map(|(name, values)| (*name, median(values))).collect()
    };
    say(format!(
        "processor time per proxied request: HTTP/1.1 keep-alive, 1 KB, {SERVICES} services, medians of {ROUNDS} rounds"
    ));
    let costs = medians(&costs);
    print_ratios("µs", &costs, "nginx");
    say("requests a second with one thread");
    print_ratios("/s", &medians(&rates), "nginx");
    let ratio = costs["waypost"] / costs["nginx"];
    say(format!("  target: cost <= {TARGET} x nginx: {}", if ratio <= TARGET { "met" } else { "MISSED" }));
}

/// Microseconds of processor time per request, and requests a second.
fn measure(wrk: &str, peer: &Peer, period: Duration) -> (f64, f64) {
    let seconds = format!("{}s", period.as_secs());
    let pids = with_children(peer.pid);
    let used = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
    let before = used();
    let core = OTHER_CORE.to_string();
    let output = Command::new("taskset")
        .args(["-c", &core, wrk, "-t1", "-c", CONNECTIONS, "-d", &seconds, &peer.url])
        .output()
        .expect("wrk can be started");
    let took = used() - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let (requests, failures) = wrk_result(&text);
    assert!(requests > 0 && failures == 0, "{}: {failures} failures: {text}", peer.name);
    (took.as_secs_f64() * 1e6 / requests as f64, requests as f64 / period.as_secs_f64())
}

/// A process and its children: nginx works in those.
fn with_children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    [pid].into_iter().chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}

/// A control plane with 1,000 services, one of which is the upstream, and a proxy of one thread.
async fn waypost(upstream_port: u16) -> (ControlPlane, Proxy) {
    let control_plane = ControlPlane::start(&[]).await;
    let others = (1..SERVICES).map(|number| spec(&format!("service-{number}"), "127.0.0.1:1"));
    register_all(&control_plane.api, others).await;
    let upstream = spec("bench", &format!("127.0.0.1:{upstream_port}"));
    control_plane.api.register(&upstream, Duration::from_secs(3600)).await.expect("a lease");
    let proxy = Proxy::start(control_plane.grpc, &strings(&["--threads", "1"])).await;
    proxy.ready().await;
    eventually("the upstream is routed to", Duration::from_secs(30), async || {
        let answer = proxy.get("/bench/1k").await;
        waypost_tests::wait::holds(answer.status == 200, || answer.text())
    })
    .await;
    (control_plane, proxy)
}

fn free_ports() -> [u16; 3] {
    let held = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

fn nginx_conf(directory: &TempDir, name: &str, server: &str) -> String {
    let root = directory.path().display();
    let conf = format!(
        "worker_processes 1; daemon off; pid {root}/{name}.pid; error_log {root}/{name}.log crit;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {root}/{name}.body;\n\
         proxy_temp_path {root}/{name}.proxy; fastcgi_temp_path {root}/{name}.fastcgi;\n\
         uwsgi_temp_path {root}/{name}.uwsgi; scgi_temp_path {root}/{name}.scgi;\n{server} }}\n"
    );
    write(&directory.path().join(format!("{name}.conf")), &conf)
}

fn upstream_server(directory: &TempDir, port: u16) -> String {
    let root = directory.path().join("www");
    fs::create_dir(&root).expect("a directory");
    write(&root.join("1k"), &"x".repeat(1024));
    format!("server {{ listen 127.0.0.1:{port}; root {}; }}", root.display())
}

fn nginx_proxy(upstream: u16, port: u16) -> String {
    format!(
        "upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme; }} }}"
    )
}

fn haproxy_conf(directory: &TempDir, upstream: u16, port: u16) -> String {
    let conf = format!(
        "global\n  nbthread 1\n  maxconn 2000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  http-reuse always\n\
         frontend in\n  bind 127.0.0.1:{port}\n  option forwardfor\n  http-request set-header X-Forwarded-Proto http\n  \
         default_backend up\n\
         backend up\n  server one 127.0.0.1:{upstream}\n"
    );
    write(&directory.path().join("haproxy.cfg"), &conf)
}

fn write(path: &Path, text: &str) -> String {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path.display().to_string()
}
