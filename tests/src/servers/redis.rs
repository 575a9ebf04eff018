//! Redis: single servers, a master with a replica and a sentinel, and clusters.
//!
//! Deliberately absent: a client; what a test says to a server of its own it says with `redis-cli`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use super::{Server, find, free_port};

const PATIENCE: Duration = Duration::from_secs(1);

/// Which of the programs are missing, if any is.
pub fn missing() -> Option<&'static str> {
    ["redis-server", "redis-sentinel", "redis-cli"].into_iter().find(|program| find(program).is_none())
}

/// A server, and the port of loopback that it listens on.
pub struct Redis {
    /// The process.
    pub server: Server,
    /// Its port.
    pub port: u16,
}

impl Redis {
    /// Starts a server that writes down each change before it acknowledges it. Further arguments come last, so that
    /// they count.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        Self::start_on(port, &["--port", &port.to_string()], arguments)
    }

    /// The same, but with TLS only, by these PEM files: certificate, key, and the authority of the clients'.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start_with_tls([certificate, key, ca]: [&str; 3], arguments: &[&str]) -> Self {
        let port = free_port();
        let tls = ["--port", "0", "--tls-port", &port.to_string(), "--tls-cert-file", certificate];
        let tls = [&tls[..], &["--tls-key-file", key, "--tls-ca-cert-file", ca]].concat();
        Self::start_on(port, &tls, arguments)
    }

    fn start_on(port: u16, listen: &[&str], arguments: &[&str]) -> Self {
        let plain = !listen.contains(&"--tls-port");
        let always = ["--bind", "127.0.0.1", "--dir", "{dir}", "--save", "", "--appendonly", "yes"];
        let always = [&always[..], &["--appendfsync", "always"], listen, arguments].concat();
        let always: Vec<String> = always.into_iter().map(str::to_owned).collect();
        let ready = move || if plain { answers(port) } else { super::listens(port) };
        let server = Server::start(&find("redis-server").expect("it is installed"), &always, ready);
        Self { server, port }
    }

    /// Says something to the server with `redis-cli`.
    ///
    /// # Panics
    /// `redis-cli` does not run.
    pub fn say(&self, words: &[&str]) -> String {
        say(self.port, words)
    }
}

/// Says something to the server on a port with `redis-cli`.
///
/// # Panics
/// `redis-cli` does not run.
pub fn say(port: u16, words: &[&str]) -> String {
    let mut cli = Command::new(find("redis-cli").expect("it is installed"));
    let output = cli.arg("-p").arg(port.to_string()).args(words).output().expect("redis-cli runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether a server answers, be it that it wants to know who asks.
fn answers(port: u16) -> bool {
    let ask = || {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH"))
}

/// A master called `primary`, a replica of it, and a sentinel that watches both.
pub struct Watched {
    /// The master, at first.
    pub master: Redis,
    /// The replica, at first.
    pub replica: Redis,
    /// The sentinel.
    pub sentinel: Redis,
    _configuration: tempfile::TempDir,
}

impl Watched {
    /// Starts all three, and waits until the sentinel knows the replica, and the replica the master's data.
    ///
    /// # Panics
    /// They do not start.
    pub fn start() -> Self {
        let master = Redis::start(&["--repl-diskless-sync-delay", "0"]);
        let replica = Redis::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
        let configuration = tempfile::tempdir().expect("a temporary directory");
        let file: PathBuf = configuration.path().join("sentinel.conf");
        let port = free_port();
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor primary 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds primary 5000\nsentinel failover-timeout primary 3000\n",
            master.port
        );
        std::fs::write(&file, text).expect("the configuration is written");
        let program = find("redis-sentinel").expect("it is installed");
        let (replica_port, argument) = (replica.port, file.display().to_string());
        let ready = move || {
            let knows = say(port, &["SENTINEL", "REPLICAS", "primary"]);
            let linked = say(replica_port, &["INFO", "replication"]);
            knows.contains("master-link-status\nok") && linked.contains("master_link_status:up")
        };
        let server = Server::start(&program, &[argument], ready);
        Self { master, replica, sentinel: Redis { server, port }, _configuration: configuration }
    }
}

/// Starts a cluster of three masters without replicas, and waits until it serves.
///
/// # Panics
/// It does not start.
pub fn cluster() -> Vec<Redis> {
    let node = |_| {
        let bus = free_port().to_string();
        Redis::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
    };
    let nodes: Vec<Redis> = (0..3).map(node).collect();
    let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let mut words = vec!["--cluster", "create"];
    words.extend(addresses.iter().map(String::as_str));
    words.push("--cluster-yes");
    let told = nodes[0].say(&words);
    let begun = std::time::Instant::now();
    while !nodes.iter().all(|node| node.say(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
        assert!(begun.elapsed() < super::PATIENCE, "the cluster does not serve:\n{told}");
        #[allow(clippy::disallowed_methods)] // nothing but the nodes themselves say when they are ready
        std::thread::sleep(super::LOOK_AGAIN);
    }
    nodes
}
