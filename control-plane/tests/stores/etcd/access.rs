//! Who may do what: certificates, passwords, permissions.

use std::{fs, path::Path, sync::Arc};

use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use waypost_control_plane::store::{
    Now, StoreError, StoreOptions,
    conformance::{Fixture, Time},
};

use super::{Shared, TTL, case, commit, open, options, prefix, put};
use crate::{
    Histories, LEASE, Open, Opened, every_promise,
    servers::etcd::{Certificates, Etcd},
    trial,
};

const PAGE: &str = include_str!("../../../src/store/ETCD.md");
const PASSWORD: &str = "SECRET";

/// A server that asks for certificates and passwords.
struct Guarded {
    etcd: Etcd,
    certificates: Certificates,
    _directory: TempDir,
}

pub(super) fn trials(shared: &Arc<Shared>) -> Vec<Trial> {
    let guarded = Arc::new(OnceCell::new());
    let cell = guarded.clone();
    let open: Open = Arc::new(move || {
        let cell = cell.clone();
        Box::pin(async move {
            let guarded: &Guarded = cell.get_or_init(async || Guarded::start()).await;
            let store = open(&guarded.url(&prefix()), &guarded.options(PASSWORD)).await;
            Opened { fixture: Fixture::new(store, Time::Real { ttl: LEASE }), _holds: Box::new(cell) }
        })
    });
    let mut trials = every_promise("etcd with TLS and a user", &open, Histories { count: 1, steps: 60 });
    trials.push(trial("etcd", "what is not permitted is said, and no secret", async move || {
        what_is_not_permitted_is_said(guarded.get_or_init(async || Guarded::start()).await).await;
    }));
    trials.push(case(shared, "an examination says what could be better", |shared| async move {
        an_examination_says_what_could_be_better(&shared).await;
    }));
    trials.push(trial("etcd", "a wrong URL is refused before anything is asked", async || {
        a_wrong_url_is_refused().await;
    }));
    trials
}

impl Guarded {
    /// Starts it, and makes the user with the page's own commands.
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = certificates(directory.path());
        let etcd = Etcd::start(Some(&certificates), &["--bcrypt-cost=4"]);
        etcd.control(&["user", "add", "root:root"]);
        etcd.control(&["user", "grant-role", "root", "root"]);
        let commands: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("etcdctl ")).collect();
        assert_eq!(commands.len(), 4, "the page says how to make the user");
        for command in commands {
            let words: Vec<&str> = command.split(' ').skip(1).collect();
            etcd.control(&words);
        }
        etcd.control(&["auth", "enable"]);
        Self { etcd, certificates, _directory: directory }
    }

    fn url(&self, prefix: &str) -> String {
        format!("etcds://waypost@127.0.0.1:{}/{prefix}", self.etcd.port)
    }

    fn options(&self, password: &str) -> StoreOptions {
        StoreOptions {
            ca_file: Some(self.certificates.authority.clone()),
            identity: Some(self.certificates.client.clone()),
            password: Some(password.to_owned()),
            ..options()
        }
    }
}

fn certificates(directory: &Path) -> Certificates {
    let key = || KeyPair::generate().expect("a key");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).expect("it is written");
        path
    };
    let mut authority = CertificateParams::new(Vec::new()).expect("good parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let leaf = |name: &str| {
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("good parameters");
        // etcd's own gateway shows the server's certificate as a client.
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = key();
        let certificate = leaf.signed_by(&key, &authority).expect("a certificate");
        (
            write(&format!("{name}.pem"), &certificate.pem()),
            write(&format!("{name}.key"), &key.serialize_pem()),
        )
    };
    Certificates {
        server: leaf("server"),
        client: leaf("client"),
        authority: write("authority.pem", &authority.as_ref().pem()),
    }
}

async fn what_is_not_permitted_is_said(guarded: &Guarded) {
    let wrong = open(&guarded.url(&prefix()), &guarded.options("hunter2")).await;
    let error = wrong.load().await.expect_err("the password is wrong");
    assert!(matches!(&error, StoreError::Refused(why) if why.contains("authentication failed")), "{error}");
    assert!(!format!("{error:?}").contains("hunter2") && !wrong.url().contains('@'), "{error:?}");
    assert!(wrong.examine().await.is_err(), "nobody lets us in");

    // The user may use /waypost/ and nothing else.
    let elsewhere = open(&guarded.url("elsewhere"), &guarded.options(PASSWORD)).await;
    let error = commit(&elsewhere, put("users/a", 1)).await.expect_err("it is not permitted");
    assert!(matches!(&error, StoreError::Refused(why) if why.contains("permission denied")), "{error}");
    let error = elsewhere.lapsed(Now::read()).await.expect_err("it is not permitted");
    assert!(error.to_string().contains("permission denied"), "{error}");
    let findings = elsewhere.examine().await.expect("it is reachable");
    for subject in ["read", "write"] {
        let finding = findings.iter().find(|finding| finding.subject == subject).expect("it was looked at");
        assert!(
            !finding.good && finding.remedy.contains("--prefix=true readwrite /elsewhere/"),
            "{finding:?}"
        );
    }

    let without = StoreOptions { identity: None, ..guarded.options(PASSWORD) };
    let nameless = open(&guarded.url(&prefix()), &StoreOptions { timeout: TTL, ..without }).await;
    assert!(nameless.load().await.is_err(), "the server asks for a certificate");
}

async fn an_examination_says_what_could_be_better(shared: &Shared) {
    let port = shared.server().port;
    let dead = crate::servers::free_port();
    let store = open(&format!("etcd://127.0.0.1:{port},127.0.0.1:{dead}/{}", prefix()), &options()).await;
    let findings = store.examine().await.expect("one answers");
    let found = |subject: &str| findings.iter().find(|finding| finding.subject == subject).expect(subject);
    let reachable = found("reachable");
    assert!(!reachable.good && reachable.detail.contains(&dead.to_string()), "{reachable:?}");
    assert!(found("version").good && found("space").good && found("leases").good, "{findings:?}");
    let single = open(&shared.url(), &options()).await.examine().await.expect("it answers");
    assert!(single[0].good && single[0].detail.contains("only endpoint"), "{:?}", single[0]);
    let keys = shared.server().control(&["get", "--prefix", "--keys-only", "/waypost/"]);
    assert!(!keys.contains("/examine/"), "looking leaves nothing behind: {keys}");
}

async fn a_wrong_url_is_refused() {
    let refused = async |url: &str, options: &StoreOptions| {
        let error = waypost_control_plane::store::open(url, options).await.err();
        let error = error.expect("it is refused").to_string();
        assert!(!error.contains("hunter2"), "{error}");
        error
    };
    let secret = StoreOptions { password: Some("hunter2".to_owned()), ..options() };
    assert!(refused("etcd://a", &secret).await.contains("needs a user"));
    assert!(refused("etcd://a?db=1", &options()).await.contains("\"db\""));
    let certificates = StoreOptions { ca_file: Some("/nowhere/ca.pem".into()), ..options() };
    assert!(refused("etcd://a", &certificates).await.contains("etcds://"));
    assert!(refused("etcds://a", &certificates).await.contains("/nowhere/ca.pem"));
}
