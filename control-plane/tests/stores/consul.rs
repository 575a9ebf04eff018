//! Consul: one server for the cases that disturb nobody, and one each for those that break it.

#[path = "consul/faults.rs"]
mod faults;
#[path = "consul/neighbours.rs"]
mod neighbours;

use std::{
    future::Future,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use waypost_control_plane::store::{
    self, LeaseChange, Mutation, Now, Record, Store, StoreOptions,
    conformance::{self, Fixture, Time},
};
use waypost_proto::v1::EventKind;

use crate::{
    Histories, LEASE, Open, Opened, every_promise,
    servers::consul::{Consul, program},
    skipped,
};

/// The lease that the tests take.
const TTL: Duration = Duration::from_secs(2);
/// How long anything may take to become so.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    if program().is_none() {
        return vec![skipped("consul", "consul is not installed; tests/install-consul.sh installs it")];
    }
    let plain: Open = Arc::new(|| {
        Box::pin(async {
            let server = shared();
            let store = open(&fresh(&server), &StoreOptions::default()).await;
            Opened { fixture: Fixture::new(store, Time::Real { ttl: LEASE }), _holds: Box::new(server) }
        })
    });
    let guarded: Open = Arc::new(|| {
        Box::pin(async {
            let server = Guarded::shared();
            let store = open(&server.fresh(), &server.options()).await;
            Opened { fixture: Fixture::new(store, Time::Real { ttl: LEASE }), _holds: Box::new(server) }
        })
    });
    let mut trials = every_promise("consul", &plain, Histories { count: 5, steps: 40 });
    let least = "consul with the least token, over TLS";
    trials.extend(every_promise(least, &guarded, Histories { count: 1, steps: 40 }));
    trials.extend(faults::trials());
    trials.extend(neighbours::trials());
    trials
}

/// The server that cases share; it ends with the last one of them.
fn shared() -> Arc<Consul> {
    static SHARED: OnceLock<Mutex<Weak<Consul>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(Mutex::default).lock();
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Consul::start(""));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A server with ACLs, which takes HTTPS with a client certificate only, and a token that has the page's policy.
struct Guarded {
    server: Consul,
    certificates: TempDir,
    /// The token that may do anything.
    root: String,
    token: String,
}

impl Guarded {
    fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Mutex<Weak<Guarded>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start() -> Self {
        let certificates = write_certificates();
        let file = |name: &str| certificates.path().join(name).display().to_string();
        let server = Consul::start(&format!(
            "acl {{ enabled = true default_policy = \"deny\" }} verify_incoming_https = true \
             ca_file = {:?} cert_file = {:?} key_file = {:?}",
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        ));
        let root = wait_for(|| {
            let (status, body) = server.ask("PUT", "/v1/acl/bootstrap", "", "");
            (status == 200).then(|| field(&body, "SecretID"))
        });
        // What an operator gives to every agent.
        let node = r#"{"NodeIdentities":[{"NodeName":"test","Datacenter":"dc1"}]}"#;
        let (_, body) = server.ask("PUT", "/v1/acl/token", &root, node);
        let agents = serde_json::json!({ "Token": field(&body, "SecretID") }).to_string();
        let (status, body) = server.ask("PUT", "/v1/agent/token/agent", &root, &agents);
        assert_eq!(status, 200, "{body}");
        let page = include_str!("../../src/store/CONSUL.md");
        let rules = page.split("```hcl").nth(1).and_then(|rest| rest.split("```").next()).expect("a policy");
        let mut guarded = Self { server, certificates, root, token: String::new() };
        guarded.token = guarded.token_for("waypost", rules);
        guarded
    }

    /// A token that has just these rules.
    fn token_for(&self, name: &str, rules: &str) -> String {
        let policy = serde_json::json!({ "Name": name, "Rules": rules }).to_string();
        let (status, body) = self.server.ask("PUT", "/v1/acl/policy", &self.root, &policy);
        assert_eq!(status, 200, "{body}");
        let token = serde_json::json!({ "Policies": [{ "Name": name }] }).to_string();
        let (_, body) = self.server.ask("PUT", "/v1/acl/token", &self.root, &token);
        field(&body, "SecretID")
    }

    /// Below the prefix that the page's policy names.
    fn fresh(&self) -> String {
        format!("consuls://127.0.0.1:{}/waypost/case-{}", self.server.https, number())
    }

    fn options(&self) -> StoreOptions {
        let file = |name: &str| self.certificates.path().join(name);
        StoreOptions {
            ca_file: Some(file("ca.pem")),
            identity: Some((file("client.pem"), file("client.key"))),
            password: Some(self.token.clone()),
            ..StoreOptions::default()
        }
    }
}

fn write_certificates() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: String| {
        std::fs::write(directory.path().join(name), text).expect("it is written");
    };
    let key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("good parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", authority.self_signed(&key).expect("a certificate").pem());
    let issuer = Issuer::new(authority, key);
    for (name, host) in [("server", "127.0.0.1"), ("client", "client.test")] {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new([host.to_owned()]).expect("good parameters");
        write(&format!("{name}.pem"), certificate.signed_by(&key, &issuer).expect("a certificate").pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    directory
}

/// A URL with a prefix that nobody else has.
fn fresh(server: &Consul) -> String {
    format!("consul://127.0.0.1:{}/case-{}", server.port, number())
}

fn number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

async fn open(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    store::open(url, options).await.expect("a good URL")
}

/// Fails soon where Consul does not answer.
fn impatient() -> StoreOptions {
    StoreOptions { timeout: Duration::from_secs(3), ..StoreOptions::default() }
}

fn record(key: &str, epoch: u64) -> Record {
    Record { ttl: TTL, ..conformance::record(key, epoch, Now::read()) }
}

fn put(record: Record, expected: Option<u64>) -> Mutation {
    let event = Some(conformance::event(&record, EventKind::Registered));
    Mutation::Put { record, expected, lease: LeaseChange::Grant, event }
}

fn remove_lapsed(record: &Record, expected: u64) -> Mutation {
    let event = conformance::event(record, EventKind::Expired);
    let emptied = conformance::emptied(record, Now::read());
    Mutation::Remove { key: record.key().clone(), expected, lapsed: true, emptied, event }
}

/// A field of a JSON object.
fn field(body: &str, name: &str) -> String {
    let object: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("JSON: {body}"));
    object[name].as_str().unwrap_or_else(|| panic!("{name}: {body}")).to_owned()
}

fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not become so");
        std::thread::yield_now();
    }
}

/// Waits until a question has the right answer.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
