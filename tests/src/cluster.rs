//! A control plane and proxies, as processes on this machine.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use waypost_proto::v1;
use waypost_sdk::Client;

use crate::{
    api::Api,
    http::{Answer, get, try_get},
    process::Process,
    program::Program,
    servers::free_port,
    wait::{eventually, holds},
};

/// How long parts may take to start, and tables to become equal.
const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane.
pub struct ControlPlane {
    /// The program.
    pub process: Process,
    /// Where it listens for gRPC.
    pub grpc: SocketAddr,
    /// Where it listens for HTTP.
    pub http: SocketAddr,
    /// Its API.
    pub api: Api,
    arguments: Vec<String>,
}

impl ControlPlane {
    /// Starts a control plane with these arguments beside its addresses.
    pub async fn start(arguments: &[String]) -> Self {
        let all = Self::at(&free_address(), &free_address(), arguments);
        let process = Process::start(Program::ControlPlane, &all).await;
        let (grpc, http) = (process.address("grpc"), process.address("http"));
        Self { process, grpc, http, api: Api::new(grpc), arguments: arguments.to_vec() }
    }

    /// Starts it again on the same ports, after it has ended.
    pub async fn start_again(&mut self) {
        let arguments = Self::at(&self.grpc.to_string(), &self.http.to_string(), &self.arguments);
        self.process = Process::start(Program::ControlPlane, &arguments).await;
    }

    fn at(grpc: &str, http: &str, more: &[String]) -> Vec<String> {
        let mut arguments = strings(&["--grpc-listen", grpc, "--http-listen", http]);
        arguments.extend_from_slice(more);
        arguments
    }
}

/// A proxy.
pub struct Proxy {
    /// The program.
    pub process: Process,
    /// Where it takes traffic.
    pub traffic: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    control_plane: SocketAddr,
    arguments: Vec<String>,
}

impl Proxy {
    /// Starts a proxy with these arguments beside its addresses; it need not be ready yet.
    pub async fn start(control_plane: SocketAddr, arguments: &[String]) -> Self {
        Self::start_from(&Program::Proxy.path(), control_plane, arguments).await
    }

    /// As [`Self::start`], from another file than the one that was built: another version of it.
    pub async fn start_from(file: &Path, control_plane: SocketAddr, arguments: &[String]) -> Self {
        let all = Self::at(control_plane, &free_address(), &free_address(), arguments);
        let process = Process::start_from(file, Program::Proxy, &all).await;
        let (traffic, admin) = (process.address("traffic"), process.address("admin"));
        Self { process, traffic, admin, control_plane, arguments: arguments.to_vec() }
    }

    /// Starts it again on the same ports, after it has ended.
    pub async fn start_again(&mut self) {
        let (traffic, admin) = (self.traffic.to_string(), self.admin.to_string());
        let all = Self::at(self.control_plane, &traffic, &admin, &self.arguments);
        self.process = Process::start(Program::Proxy, &all).await;
    }

    /// Waits until it is ready, which takes a table.
    pub async fn ready(&self) {
        eventually("the proxy is ready", PATIENCE, async || match try_get(self.admin, "/readyz").await {
            Ok(answer) => {
                holds(answer.status.is_success(), || format!("{} {}", answer.status, answer.text()))
            }
            Err(error) => Err(error),
        })
        .await;
    }

    /// GETs a path through it.
    pub async fn get(&self, path: &str) -> Answer {
        get(self.traffic, path).await
    }

    fn at(control_plane: SocketAddr, traffic: &str, admin: &str, more: &[String]) -> Vec<String> {
        let control_plane = format!("http://{control_plane}");
        let mut arguments = strings(&["--control-plane", &control_plane, "--listen", traffic]);
        arguments.extend(strings(&["--admin-listen", admin]));
        if !more.iter().any(|argument| argument == "--threads") {
            arguments.extend(strings(&["--threads", "2"]));
        }
        arguments.extend_from_slice(more);
        arguments
    }
}

/// What a cluster is made of.
#[derive(Default)]
pub struct Builder {
    proxies: usize,
    state: bool,
    control_plane_arguments: Vec<String>,
    proxy_arguments: Vec<String>,
}

impl Builder {
    /// How many proxies; 1 unless told otherwise.
    #[must_use]
    pub fn proxies(mut self, count: usize) -> Self {
        self.proxies = count;
        self
    }

    /// Gives each proxy a state directory.
    #[must_use]
    pub fn with_state(mut self) -> Self {
        self.state = true;
        self
    }

    /// Arguments of the control plane.
    #[must_use]
    pub fn control_plane(mut self, arguments: &[&str]) -> Self {
        self.control_plane_arguments.extend(strings(arguments));
        self
    }

    /// Arguments of every proxy.
    #[must_use]
    pub fn proxy(mut self, arguments: &[&str]) -> Self {
        self.proxy_arguments.extend(strings(arguments));
        self
    }

    /// Starts all of it and waits until every proxy is ready.
    pub async fn start(self) -> Cluster {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let control_plane = ControlPlane::start(&self.control_plane_arguments).await;
        let mut cluster =
            Cluster { proxies: Vec::new(), control_plane, directory, proxy_arguments: self.proxy_arguments };
        for _ in 0..self.proxies {
            let state = cluster.state_directory(cluster.proxies.len()).display().to_string();
            let more = if self.state { strings(&["--state-dir", &state]) } else { Vec::new() };
            cluster.add_proxy(cluster.control_plane.grpc, &more).await;
        }
        for proxy in &cluster.proxies {
            proxy.ready().await;
        }
        cluster
    }
}

/// A control plane with proxies. All is ended when this is dropped, the proxies first.
pub struct Cluster {
    /// The proxies, in the order of their start.
    pub proxies: Vec<Proxy>,
    /// The control plane.
    pub control_plane: ControlPlane,
    directory: TempDir,
    proxy_arguments: Vec<String>,
}

impl Cluster {
    /// A cluster in the making, with one proxy.
    pub fn builder() -> Builder {
        Builder { proxies: 1, ..Builder::default() }
    }

    /// The control plane's API.
    pub fn api(&self) -> &Api {
        &self.control_plane.api
    }

    /// An SDK client of the control plane.
    ///
    /// # Panics
    /// Never: its address is one.
    pub fn client(&self) -> Client {
        Client::connect([self.control_plane.grpc.to_string()]).expect("an address")
    }

    /// Where clients send requests: the first proxy.
    pub fn traffic(&self) -> SocketAddr {
        self.proxies[0].traffic
    }

    /// Adds a proxy that connects to the control plane at `through`: its own address, a relay's or a middleman's.
    pub async fn add_proxy(&mut self, through: SocketAddr, arguments: &[String]) {
        let mut all = self.proxy_arguments.clone();
        all.extend_from_slice(arguments);
        self.proxies.push(Proxy::start(through, &all).await);
    }

    /// The control plane's view of the proxy at `index`.
    ///
    /// # Errors
    /// It knows none, or does not answer.
    pub async fn view(&self, index: usize) -> Result<v1::Proxy, String> {
        let admin = self.proxies[index].admin.to_string();
        let known = self.api().proxies().await.map_err(|status| status.to_string())?;
        let seen = format!("{admin} is not among {known:?}");
        // A proxy that was started again may be known twice, once as it was before.
        known
            .into_iter()
            .filter(|proxy| proxy.admin_address == admin)
            .max_by_key(|proxy| proxy.connected)
            .ok_or(seen)
    }

    /// Waits until every proxy serves by the newest revision, with the control plane's digest.
    pub async fn converged(&self) -> v1::Position {
        eventually("all proxies serve by the control plane's newest revision", PATIENCE, async || {
            let head = self.head().await?;
            for index in 0..self.proxies.len() {
                let proxy = self.view(index).await?;
                let equal = proxy.connected && proxy.digest_ok && proxy.applied.as_ref() == Some(&head);
                holds(equal, || format!("the head is {head:?}, and {proxy:?}"))?;
            }
            Ok::<_, String>(head)
        })
        .await
    }

    async fn head(&self) -> Result<v1::Position, String> {
        let status = self.api().status().await.map_err(|status| status.to_string())?;
        status.head.ok_or_else(|| "the status has no head".to_owned())
    }

    /// What the proxy at `index` would start from, as text as far as it is; empty where there is nothing yet.
    /// The file that is being written beside it does not count.
    pub fn state(&self, index: usize) -> String {
        let stored = fs::read(self.state_directory(index).join("snapshot")).unwrap_or_default();
        String::from_utf8_lossy(&stored).into_owned()
    }

    fn state_directory(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("state-{index}"))
    }
}

/// Where a program is to listen, and again after it has ended.
fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Owned arguments.
pub fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}
