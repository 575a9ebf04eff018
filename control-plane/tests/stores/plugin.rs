//! The plugin store: the example server in Python keeps every promise, and servers that do not are found out.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, stream};
use libtest_mimic::Trial;
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::server::TcpIncoming};
use waypost_control_plane::store::{
    LeaseChange, Mutation, Now, Store, StoreError, StoreOptions,
    conformance::{Fixture, Time, event, record},
    open,
};
use waypost_proto::v1::{
    self, EventKind,
    store_plugin_server::{StorePlugin, StorePluginServer},
};

use crate::{
    Histories, LEASE, Open, Opened, every_promise, history,
    servers::{Server, free_port, listens},
    skipped, trial,
};

const NAME: &str = "plugin";
/// The time-out of stores whose server is to stop answering.
const TIMEOUT: Duration = Duration::from_secs(3);
/// That of the others: a busy machine keeps to it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial(NAME, "what breaks the contract is named", what_breaks_the_contract_is_named),
        trial(NAME, "a silent watch is dead", a_silent_watch_is_dead),
        trial(NAME, "a URL that means nothing is refused", a_url_that_means_nothing_is_refused),
    ];
    let Some(python) = python() else {
        trials.push(skipped(NAME, "tests/python-env.sh has made no environment with grpcio"));
        return trials;
    };
    let open: Open = {
        let python = python.clone();
        Arc::new(move || {
            let python = python.clone();
            Box::pin(async move {
                let example = Example::start(&python, &[]);
                let fixture = Fixture::new(example.store().await, Time::Real { ttl: LEASE });
                Opened { fixture, _holds: Box::new(example) }
            })
        })
    };
    trials.extend(every_promise(NAME, &open, Histories { count: 4, steps: 60 }));
    let mut with_python = |name, test: fn(PathBuf) -> Pin<Box<dyn Future<Output = ()>>>| {
        let python = python.clone();
        trials.push(trial(NAME, name, async move || test(python).await));
    };
    with_python("a killed server has lost nothing", |python| {
        Box::pin(a_killed_server_has_lost_nothing(python))
    });
    with_python("what it has forgotten it says at once", |python| Box::pin(what_it_has_forgotten(python)));
    with_python("a frozen server is noticed", |python| Box::pin(a_frozen_server_is_noticed(python)));
    with_python("only the token opens it, also by TLS", |python| Box::pin(only_the_token_opens_it(python)));
    with_python("a load is larger than a message", |python| {
        Box::pin(a_load_is_larger_than_a_message(python))
    });
    with_python("a history of concurrent operations is linearizable", |python| {
        Box::pin(async move {
            let example = Example::start(&python, &[]);
            history::hold_under(vec![example.store().await, example.store().await], async {}).await;
        })
    });
    trials
}

/// The environment that `tests/python-env.sh` makes, with grpcio in it.
fn python() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let python = target.join("python-env/bin/python");
    target.join("python-env/requirements.txt").is_file().then_some(python)
}

/// The example's server.
struct Example {
    server: Server,
    port: u16,
}

impl Example {
    fn start(python: &Path, more: &[&str]) -> Self {
        let port = free_port();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/store-plugin/store.py");
        let listen = format!("127.0.0.1:{port}");
        let mut arguments = vec![program, "--listen", &listen, "--data", "{dir}/registry.sqlite"];
        arguments.extend(more);
        let arguments: Vec<String> = arguments.into_iter().map(ToOwned::to_owned).collect();
        Self { server: Server::start(python, &arguments, move || listens(port)), port }
    }

    async fn store(&self) -> Arc<dyn Store> {
        opened(&self.url(), &StoreOptions { timeout: PATIENCE, ..StoreOptions::default() }).await
    }

    async fn impatient(&self) -> Arc<dyn Store> {
        impatient(&self.url(), &StoreOptions::default()).await
    }

    fn url(&self) -> String {
        format!("plugin://127.0.0.1:{}", self.port)
    }
}

async fn opened(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    open(url, options).await.expect("a good URL")
}

async fn impatient(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    opened(url, &StoreOptions { timeout: TIMEOUT, ..options.clone() }).await
}

fn put(key: &str, epoch: u64, expected: Option<u64>) -> Mutation {
    let record = record(key, epoch, Now::read());
    let event = Some(event(&record, EventKind::Registered));
    Mutation::Put { record, expected, lease: LeaseChange::Grant, event }
}

async fn commit(store: &dyn Store, mutation: Mutation) -> Result<u64, StoreError> {
    store.commit(mutation, Now::read()).await
}

async fn a_killed_server_has_lost_nothing(python: PathBuf) {
    let mut example = Example::start(&python, &[]);
    let store = example.impatient().await;
    let mut watch = store.watch(0).await.expect("it is watched");
    let mut last = None;
    for epoch in 1..=5 {
        last = Some(commit(&*store, put("users/a", epoch, last)).await.expect("it commits"));
    }
    let history = store.load().await.expect("it loads").history;
    example.server.kill();
    let error = commit(&*store, put("users/a", 6, last)).await.expect_err("it is gone").to_string();
    assert!(error.contains("the SQLite example at 127.0.0.1") && error.contains("try again"), "{error}");
    let ended = async { while watch.next().await.is_some_and(|commit| commit.is_ok()) {} };
    tokio::time::timeout(TIMEOUT, ended).await.expect("the watch ends");
    example.server.start_again();
    let loaded = store.load().await.expect("the same store is of use again");
    assert_eq!((loaded.history, loaded.revision, loaded.records[0].epoch), (history, 5, 5));
    let watch = store.watch(2).await.expect("a watch resumes");
    let seen: Vec<u64> = watch.take(3).map(|commit| commit.expect("a commit").revision).collect().await;
    assert_eq!(seen, [3, 4, 5]);
    commit(&*store, put("users/a", 6, last)).await.expect("revisions go on");
}

/// The registry loads everything where a watch cannot begin, not where it breaks.
async fn what_it_has_forgotten(python: PathBuf) {
    let example = Example::start(&python, &["--remember", "2"]);
    let store = example.store().await;
    for _ in 0..5 {
        commit(&*store, Mutation::Complete).await.expect("it commits");
    }
    assert_eq!(store.watch(2).await.err(), Some(StoreError::Compacted { oldest: 3 }));
    assert!(store.watch(3).await.is_ok() && store.watch(5).await.is_ok());
    assert_eq!(store.watch(6).await.err(), Some(StoreError::Compacted { oldest: 3 }), "it is not there yet");
}

async fn a_frozen_server_is_noticed(python: PathBuf) {
    let example = Example::start(&python, &[]);
    let store = example.impatient().await;
    let mut watch = store.watch(0).await.expect("it is watched");
    example.server.freeze();
    let begun = Instant::now();
    let (refused, ended) = tokio::join!(commit(&*store, put("users/a", 1, None)), watch.next());
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(matches!(ended, Some(Err(StoreError::Unavailable(_)))), "{ended:?}");
    assert!(begun.elapsed() < TIMEOUT * 2, "{:?}", begun.elapsed());
    example.server.thaw();
    let begun = Instant::now();
    // The commit whose answer was lost may have been made; then it is there once, and is no conflict.
    let revision = loop {
        let loaded = store.load().await;
        let held = loaded.ok().map(|loaded| loaded.records.first().map(|record| record.revision));
        if let Some(held) = held
            && let Ok(revision) = commit(&*store, put("users/a", 2, held)).await
        {
            break revision;
        }
        assert!(begun.elapsed() < TIMEOUT * 5, "it is of use again without a restart");
    };
    let loaded = store.load().await.expect("it loads");
    assert!(loaded.records.len() == 1 && loaded.records[0].epoch == 2 && revision <= 2, "{loaded:?}");
}

async fn only_the_token_opens_it(python: PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).expect("it is written");
        path
    };
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = file("cert.pem", &signed.cert.pem());
    let key = file("key.pem", &signed.signing_key.serialize_pem());
    let token = file("token", "open-sesame\n");
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (certificate_text, key, token) = (text(&certificate), text(&key), text(&token));
    let flags = ["--token-file", &token, "--tls-cert", &certificate_text, "--tls-key", &key];
    let example = Example::start(&python, &flags);
    let options = StoreOptions { ca_file: Some(certificate), ..StoreOptions::default() };
    let url = |token: &str| format!("plugins://{token}localhost:{}", example.port);

    let store = opened(&url(":open-sesame@"), &options).await;
    assert!(!store.url().contains("sesame"), "{}", store.url());
    let findings = store.examine().await.expect("the token opens it");
    assert!(findings.iter().all(|finding| finding.good), "{findings:?}");
    commit(&*store, put("users/a", 1, None)).await.expect("it commits");
    let by_option = StoreOptions { password: Some("open-sesame".to_owned()), ..options.clone() };
    opened(&url(""), &by_option).await.load().await.expect("the token opens it");
    for wrong in ["", ":wrong-sesame@"] {
        let store = opened(&url(wrong), &options).await;
        let error = store.load().await.expect_err("it has no token or a wrong one");
        let told = error.to_string();
        assert!(matches!(error, StoreError::Refused(_)) && told.contains("--store-password-file"), "{told}");
        assert!(!told.contains("sesame"), "{told}");
    }
    let stranger = impatient(&url(":open-sesame@"), &StoreOptions::default()).await;
    let error = stranger.load().await.expect_err("nobody vouches for it").to_string();
    assert!(error.contains("certificate"), "{error}");
}

async fn a_load_is_larger_than_a_message(python: PathBuf) {
    let example = Example::start(&python, &[]);
    let store = example.store().await;
    let large = |number: u64| {
        let mut mutation = put(&format!("users/i{number}"), 1, None);
        let Mutation::Put { record, .. } = &mut mutation else { unreachable!("it is a put") };
        let mut wire = record.spec.to_wire();
        wire.description = "x".repeat(1_000);
        wire.metadata = (0..8).map(|number| (format!("key-{number}"), "y".repeat(1_000))).collect();
        record.spec = Arc::new(waypost_proto::instance::InstanceSpec::from_wire(&wire).expect("a good spec"));
        mutation
    };
    for batch in 0..6 {
        let commits = (batch * 100..batch * 100 + 100).map(|number| commit(&*store, large(number)));
        let outcomes = futures_util::future::join_all(commits).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    let loaded = store.load().await.expect("it loads");
    assert_eq!((loaded.records.len(), loaded.revision), (600, 600));
}

async fn a_url_that_means_nothing_is_refused() {
    for (url, reason) in [
        ("plugin://a,b", "one address"),
        ("plugin://a/path", "no path"),
        ("plugin://user@a", ":TOKEN@HOST"),
        ("plugin://a?x=1", "no parameter"),
    ] {
        let error = open(url, &StoreOptions::default()).await.err().expect(url).to_string();
        assert!(error.contains(reason), "{error}");
    }
    let missing = StoreOptions { ca_file: Some("/nowhere/ca.pem".into()), ..StoreOptions::default() };
    let error = open("plugins://a", &missing).await.err().expect("no such file").to_string();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
    let error = open("plugin://a", &missing).await.err().expect("no TLS").to_string();
    assert!(error.contains("plugins://"), "{error}");
    let nobody = impatient(&format!("plugin://127.0.0.1:{}", free_port()), &StoreOptions::default()).await;
    let error = nobody.load().await.expect_err("nobody is there").to_string();
    assert!(error.contains("the store plugin at 127.0.0.1") && error.contains("refused"), "{error}");
}

/// A server that answers what a test wants.
#[derive(Clone, Default)]
struct Wrong {
    load: Vec<v1::LoadStoreResponse>,
    watch: Vec<v1::StoredCommit>,
    renew: Vec<i32>,
    commit: Option<Status>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl StorePlugin for Wrong {
    type LoadStream = Answers<v1::LoadStoreResponse>;
    type WatchStream = Answers<v1::StoredCommit>;

    async fn describe(
        &self,
        _: Request<v1::DescribeStoreRequest>,
    ) -> Result<Response<v1::DescribeStoreResponse>, Status> {
        let described = v1::DescribeStoreResponse { name: "wrong".to_owned(), ..Default::default() };
        Ok(Response::new(described))
    }

    async fn load(&self, _: Request<v1::LoadStoreRequest>) -> Result<Response<Self::LoadStream>, Status> {
        Ok(Response::new(Box::pin(stream::iter(self.load.clone()).map(Ok))))
    }

    /// It falls silent, but stays open.
    async fn watch(&self, _: Request<v1::WatchStoreRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let told = stream::iter(self.watch.clone()).map(Ok);
        Ok(Response::new(Box::pin(told.chain(stream::pending()))))
    }

    async fn commit(
        &self,
        _: Request<v1::CommitStoreRequest>,
    ) -> Result<Response<v1::CommitStoreResponse>, Status> {
        Err(self.commit.clone().unwrap_or_else(|| Status::unavailable("not now")))
    }

    async fn renew(
        &self,
        _: Request<v1::RenewStoreRequest>,
    ) -> Result<Response<v1::RenewStoreResponse>, Status> {
        Ok(Response::new(v1::RenewStoreResponse { outcomes: self.renew.clone() }))
    }

    async fn lapsed(
        &self,
        _: Request<v1::LapsedStoreRequest>,
    ) -> Result<Response<v1::LapsedStoreResponse>, Status> {
        let lease = v1::StoredLease { key: None, epoch: 1 };
        Ok(Response::new(v1::LapsedStoreResponse { leases: vec![lease], next: None }))
    }

    async fn leases(
        &self,
        _: Request<v1::LeasesStoreRequest>,
    ) -> Result<Response<v1::LeasesStoreResponse>, Status> {
        let key =
            v1::InstanceKey { namespace: String::new(), service: "users".to_owned(), id: "a".to_owned() };
        let lease = v1::StoredLeaseStatus { key: Some(key), epoch: 1, ..Default::default() };
        Ok(Response::new(v1::LeasesStoreResponse { leases: vec![lease] }))
    }
}

impl Wrong {
    async fn store(self) -> Arc<dyn Store> {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("it listens");
        let address = incoming.local_addr().expect("an address");
        let server = tonic::transport::Server::builder().add_service(StorePluginServer::new(self));
        tokio::spawn(server.serve_with_incoming(incoming));
        impatient(&format!("plugin://{address}"), &StoreOptions::default()).await
    }
}

async fn what_breaks_the_contract_is_named() {
    let header = v1::LoadStoreResponse { history: "h".to_owned(), revision: 5, ..Default::default() };
    let part = |instance: v1::StoredInstance| v1::LoadStoreResponse {
        instances: vec![instance],
        ..Default::default()
    };
    let instance = |revision| v1::StoredInstance {
        spec: Some(record("users/a", 1, Now::read()).spec.to_wire()),
        ttl: Some(pbjson_types::Duration { seconds: 5, nanos: 0 }),
        registered_at: Some(pbjson_types::Timestamp { seconds: 5, nanos: 0 }),
        epoch: 1,
        revision,
        ..Default::default()
    };
    for (load, word) in [
        (vec![], "answers nothing"),
        (vec![part(instance(1))], "no history"),
        (vec![header.clone(), part(instance(6))], "its revision is 6"),
        (vec![header.clone(), part(instance(0))], "its revision is 0"),
        (vec![header.clone(), part(instance(1)), part(instance(2))], "there twice"),
        (vec![header.clone(), part(v1::StoredInstance { ttl: None, ..instance(1) })], "ttl is missing"),
        (
            vec![header.clone(), v1::LoadStoreResponse { revision: 7, ..Default::default() }],
            "different revisions",
        ),
    ] {
        let error = Wrong { load, ..Wrong::default() }.store().await.load().await.expect_err(word);
        let told = error.to_string();
        assert!(matches!(error, StoreError::Malformed { .. }) && told.contains(word), "{told}");
        assert!(told.contains("wrong at 127.0.0.1"), "{told}");
    }
    let store = Wrong { renew: vec![1, 1], ..Wrong::default() }.store().await;
    let beat = ("users/a".parse().expect("a key"), 1);
    let error = store.renew(&[beat], Now::read()).await.expect_err("two for one").to_string();
    assert!(error.contains("2 outcomes for 1 leases"), "{error}");
    let error = store.lapsed(Now::read()).await.expect_err("a lease of nobody").to_string();
    assert!(error.contains("Lapsed"), "{error}");
    let users = "users".parse().expect("a service");
    let error = store.leases(&users, Now::read()).await.expect_err("no length").to_string();
    assert!(error.contains("ttl is missing"), "{error}");
    let commit_with = async |status| {
        let store =
            Wrong { commit: Some(status), load: vec![header.clone()], ..Wrong::default() }.store().await;
        commit(&*store, put("users/a", 1, None)).await.expect_err("it fails")
    };
    let told = commit_with(Status::aborted("users/a")).await.to_string();
    assert!(told.contains("waypost-revision") && told.contains("missing"), "{told}");
    let mut trailer = MetadataMap::new();
    trailer.insert("waypost-revision", "4".parse().expect("plain ASCII"));
    let conflict = commit_with(Status::with_metadata(tonic::Code::Aborted, "users/a", trailer)).await;
    assert_eq!(conflict, StoreError::Conflict { entry: "users/a".to_owned(), revision: 4 });
    let told = commit_with(Status::unimplemented("no such method")).await.to_string();
    assert!(told.contains("must implement waypost.v1.StorePlugin"), "{told}");
    assert!(matches!(commit_with(Status::resource_exhausted("full")).await, StoreError::Unavailable(_)));

    // An answer that was lost on its way back: what was committed is there.
    let made = v1::StoredInstance { revision: 5, ..instance(5) };
    let load = vec![header.clone(), part(made)];
    let store = Wrong { load, ..Wrong::default() }.store().await;
    let mut mutation = put("users/a", 1, None);
    let loaded = store.load().await.expect("it loads");
    if let Mutation::Put { record, .. } = &mut mutation {
        *record = (*loaded.records[0]).clone();
    }
    assert_eq!(commit(&*store, mutation).await, Ok(5));
    let other = commit(&*store, put("users/a", 2, None)).await;
    assert!(
        matches!(other, Err(StoreError::Unavailable(_))),
        "somebody else's is not taken for it: {other:?}"
    );
}

async fn a_silent_watch_is_dead() {
    let empty = v1::StoredCommit::default();
    let first = v1::StoredCommit { revision: 3, ..empty.clone() };
    for (watch, word) in [(vec![first.clone()], "not an empty one"), (vec![], "has not answered")] {
        let error =
            Wrong { watch, ..Wrong::default() }.store().await.watch(0).await.err().expect(word).to_string();
        assert!(error.contains(word), "{error}");
    }
    for (next, word) in [
        (first.clone(), "at is missing"),
        (v1::StoredCommit { revision: 2, ..empty.clone() }, "after revision 2"),
    ] {
        let store = Wrong { watch: vec![empty.clone(), next], ..Wrong::default() }.store().await;
        let mut watch = store.watch(2).await.expect("it begins well");
        let error = watch.next().await.expect("it goes on").expect_err("it is wrong").to_string();
        assert!(error.contains(word) || error.contains("written is missing"), "{error}");
    }
    let store = Wrong { watch: vec![empty.clone(); 3], ..Wrong::default() }.store().await;
    let mut watch = store.watch(0).await.expect("it begins well");
    let begun = Instant::now();
    let error = watch.next().await.expect("it ends with an error").expect_err("it is silent");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() >= TIMEOUT && begun.elapsed() < TIMEOUT * 2);
    assert!(watch.next().await.is_none(), "and then it is over");
}
