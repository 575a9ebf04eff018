//! A Consul server of one, which writes down what it acknowledges.
//!
//! Deliberately absent: clusters, and ACLs and TLS beyond what is handed to it as configuration.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use super::{Server, find, free_port};

/// A server of one, and where it listens.
pub struct Consul {
    /// The server.
    pub server: Server,
    /// The port of its HTTP API.
    pub port: u16,
    /// The port of its DNS.
    pub dns: u16,
    /// The port of its HTTPS API, where its configuration turns that on.
    pub https: u16,
}

/// Where the program is.
pub fn program() -> Option<PathBuf> {
    find("consul")
}

impl Consul {
    /// Starts a server with more configuration in HCL (empty: none), and waits until it leads itself. `{dir}` stands
    /// for its directory.
    pub fn start(hcl: &str) -> Self {
        let program = program().expect("consul, which tests/install-consul.sh installs");
        let [port, dns, https, rpc, lan, wan] = [(); 6].map(|()| free_port());
        let quick = "performance { raft_multiplier = 1 } disable_update_check = true";
        // Every test comes from the same address.
        let limits = "limits { http_max_conns_per_client = 2000 }";
        let ports = format!("ports {{ https = {https} }}");
        let ports = if hcl.contains("cert_file") { ports.as_str() } else { "" };
        let arguments = [
            "agent -server -bootstrap-expect=1 -node=test -bind=127.0.0.1 -client=127.0.0.1 -data-dir={dir}/data",
            "-log-level=warn -grpc-port=-1",
            &format!("-http-port={port} -dns-port={dns} -server-port={rpc}"),
            &format!("-serf-lan-port={lan} -serf-wan-port={wan}"),
        ];
        let arguments = arguments.iter().flat_map(|line| line.split(' ')).map(str::to_owned);
        let hcl = format!("{quick}\n{limits}\n{ports}\n{hcl}");
        let arguments: Vec<String> = arguments.chain(["-hcl".to_owned(), hcl]).collect();
        let server = Server::start(&program, &arguments, move || leads(port));
        Self { server, port, dns, https }
    }

    /// Asks its HTTP API; answers the status and the body.
    ///
    /// # Panics
    /// It does not answer.
    pub fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
        ask(self.port, method, path, token, body).expect("an answer")
    }
}

fn leads(port: u16) -> bool {
    ask(port, "GET", "/v1/status/leader", "", "").is_some_and(|(_, leader)| leader.contains(':'))
        // Its own node is in the catalog once it has begun to lead.
        && ask(port, "GET", "/v1/agent/self", "", "").is_some_and(|(status, _)| status == 200 || status == 403)
}

/// HTTP/1.0, so that the answer ends with the connection.
fn ask(port: u16, method: &str, path: &str, token: &str, body: &str) -> Option<(u16, String)> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nx-consul-token: {token}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}
