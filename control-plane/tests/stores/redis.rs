//! Redis: the suite over each way to reach it. What is special about it is in `redis/faults.rs`.

mod faults;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use waypost_control_plane::store::{
    self, Store, StoreOptions,
    conformance::{Fixture, Time},
};

use crate::{
    Histories, LEASE, Open, Opened, every_promise,
    servers::redis::{Redis, Watched, cluster, missing},
    skipped,
};

/// The length of the tests' leases: the shortest that the registry grants.
const TTL: Duration = Duration::from_secs(2);
const HISTORIES: Histories = Histories { count: 10, steps: 60 };
const FEW: Histories = Histories { count: 2, steps: 60 };

pub(crate) fn trials() -> Vec<Trial> {
    if let Some(program) = missing() {
        return vec![skipped("redis", &format!("{program} is not installed"))];
    }
    let single = shared(|| Redis::start(&[]), |redis| format!("redis://127.0.0.1:{}?", redis.port));
    let by_sentinel = |watched: &Watched| {
        format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/primary?wait_replicas=1&", watched.sentinel.port)
    };
    let watched = shared_with(Watched::start, by_sentinel, |_| patient());
    let nodes = shared(cluster, |nodes| {
        let hosts: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}?", hosts.join(","))
    });
    let mut trials = every_promise("redis", &single, HISTORIES);
    trials.extend(every_promise("redis over TLS", &over_tls(), FEW));
    trials.extend(every_promise("redis by sentinel", &watched, FEW));
    trials.extend(every_promise("redis cluster", &nodes, FEW));
    trials.extend(faults::trials());
    trials
}

/// A replica gets a quarter of the time-out to confirm a change, on a busy machine, too.
fn patient() -> StoreOptions {
    StoreOptions { timeout: Duration::from_secs(20), ..StoreOptions::default() }
}

/// Opens a store under options.
async fn open(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    store::open(url, options).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// Makes stores on one server, which starts with the first of them and ends when nobody needs it any more. Each
/// has a prefix of its own. `url` ends in `?` or `&`.
fn shared<S: Send + Sync + 'static>(
    start: impl Fn() -> S + Send + Sync + 'static,
    url: impl Fn(&S) -> String + Send + Sync + 'static,
) -> Open {
    shared_with(start, url, |_| StoreOptions::default())
}

fn shared_with<S: Send + Sync + 'static>(
    start: impl Fn() -> S + Send + Sync + 'static,
    url: impl Fn(&S) -> String + Send + Sync + 'static,
    options: impl Fn(&S) -> StoreOptions + Send + Sync + 'static,
) -> Open {
    let server = Arc::new((OnceLock::new(), start, url, options));
    let prefixes = Arc::new(AtomicU64::new(0));
    Arc::new(move || {
        let (server, prefixes) = (server.clone(), prefixes.clone());
        Box::pin(async move {
            let (running, start, url, options) = &*server;
            let running = running.get_or_init(start);
            let url = format!("{}prefix=t{}", url(running), prefixes.fetch_add(1, Ordering::Relaxed));
            let store = open(&url, &options(running)).await;
            Opened { fixture: Fixture::new(store, Time::Real { ttl: LEASE }), _holds: Box::new(()) }
        })
    })
}

/// A server with TLS that wants a certificate and a user of its clients, who may do no more than `REDIS.md` says.
fn over_tls() -> Open {
    let start = || {
        let certificates = Certificates::make();
        let files = ["server.pem", "server.key", "ca.pem"].map(|name| certificates.path(name));
        let rule = ["--user", "default", "off", "--user", "waypost"];
        let rule = [&rule[..], &["on", ">p@ss:word/", "~{t*", "resetchannels"], &faults::grants()].concat();
        let redis = Redis::start_with_tls(files.each_ref().map(String::as_str), &rule);
        (redis, certificates)
    };
    let options = |(_, certificates): &(Redis, Certificates)| StoreOptions {
        ca_file: Some(certificates.path("ca.pem").into()),
        identity: Some((certificates.path("client.pem").into(), certificates.path("client.key").into())),
        ..StoreOptions::default()
    };
    let url = |(redis, _): &(Redis, Certificates)| {
        format!("rediss://waypost:p%40ss%3Aword%2F@127.0.0.1:{}?", redis.port)
    };
    shared_with(start, url, options)
}

/// An authority's certificate, and the server's and the client's that it has signed, as PEM files.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn make() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        // Whose name is its issuer's is taken for self-signed.
        authority.distinguished_name.push(DnType::CommonName, "Waypost's tests");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority, key).expect("a certificate");
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).expect("it is written");
        };
        write("ca.pem", authority.pem());
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a good name");
            let certificate = params.signed_by(&key, &authority).expect("it is signed");
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}
