//! Chromium, without a screen: a page of many parts through the proxy, several times, and how many connections that took.
//!
//! The page tells the test when all of it is there, past the proxy, and waits for where to go next. So it is known that
//! nothing is under way while idle connections end and certificates change.
//!
//! Deliberately absent: what a page looks like.

use std::{
    convert::Infallible,
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use waypost_proto::instance::Protocol;
use waypost_tests::{
    gateway::{Ask, Scene, gateway, http_route, listener_port},
    servers::find,
    wait::{eventually, holds},
};

use super::{PATIENCE, register, shop};
use crate::certificates::Authority;

/// What a page loads: 12 style sheets, scripts and pictures each, and 12 requests of a script, half of them POSTs.
const PARTS: u64 = 48;
/// How many connections over HTTP/1.1 Chromium opens to a host at most.
const CONNECTIONS: u64 = 6;

/// Where Chromium is, under any of its names.
fn program() -> Option<PathBuf> {
    let names = ["chromium-headless-shell", "chromium", "google-chrome", "chromium-browser"];
    names.into_iter().find_map(find)
}

/// Why there is no browser, if there is none.
pub(super) fn missing() -> Option<String> {
    program().is_none().then(|| "Chromium is not installed: run tests/setup.sh --servers".to_owned())
}

/// A page has been loaded.
struct Loaded {
    /// What came, in the page's words.
    report: Value,
    next: oneshot::Sender<String>,
}

impl Loaded {
    /// Holds that all of it came.
    #[track_caller]
    fn assert_whole(&self) {
        assert_eq!(self.report, json!({ "loaded": PARTS, "failed": [] }));
    }

    /// Sends the page on.
    fn go_on(self, url: &str) {
        self.next.send(url.to_owned()).expect("the page waits");
    }
}

/// Serves the page and its parts, and is told when it is there.
struct Site {
    address: SocketAddr,
    loaded: mpsc::UnboundedReceiver<Loaded>,
    _connections: JoinSet<()>,
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (tell, loaded) = mpsc::unbounded_channel();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut below = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                let service = service_fn(move |request| answer(address, tell.clone(), request));
                below.spawn(async move {
                    // A client that goes away is no concern of the site.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, loaded, _connections: connections }
    }

    /// Waits until the page is there.
    async fn loaded(&mut self, browser: &Browser) -> Loaded {
        let loaded = timeout(PATIENCE, self.loaded.recv()).await;
        let loaded = loaded.unwrap_or_else(|_| panic!("not loaded within {PATIENCE:?}:\n{}", browser.log()));
        loaded.expect("the site runs")
    }
}

async fn answer(
    address: SocketAddr,
    tell: mpsc::UnboundedSender<Loaded>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (kind, text) = match &*path {
        "/page" => {
            let page = include_str!("page.html").replace("{control}", &format!("http://{address}"));
            ("text/html", Bytes::from(page))
        }
        "/part.css" => ("text/css", Bytes::from_static(b"body { color: black }")),
        "/part.js" => ("text/javascript", Bytes::from_static(b"'use strict';")),
        "/part.svg" => {
            let picture = br#"<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>"#;
            ("image/svg+xml", Bytes::from_static(picture))
        }
        "/done" => {
            let report = serde_json::from_slice(&body).unwrap_or_default();
            let (next, told) = oneshot::channel();
            // Once the test is over nobody is told, and the page waits in vain.
            let _ = tell.send(Loaded { report, next });
            ("text/plain", Bytes::from(told.await.unwrap_or_default()))
        }
        _ => ("text/plain", body),
    };
    let mut response = Response::new(Full::new(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}

/// A running browser, with a profile of its own. It and its helpers are killed when this is dropped.
struct Browser {
    group: Pid,
    child: Child,
    profile: TempDir,
}

impl Browser {
    /// Opens a page. `a.example` is this machine, and certificates of any authority do.
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let log = File::create(profile.path().join("log")).expect("a file");
        let mut command = Command::new(program().expect("Chromium"));
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            // Without, it would end by itself as soon as the first page is there.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(["--host-resolver-rules=MAP a.example 127.0.0.1", "--ignore-certificate-errors"])
            .arg(url);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("Chromium starts");
        let group = Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"));
        Self { group, child, profile }
    }

    /// What it wrote.
    fn log(&self) -> String {
        fs::read_to_string(self.profile.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A scene whose proxy keeps idle connections for a short time only, and a site that `a.example` leads to.
async fn scene() -> Scene {
    Scene::start_with(&["--idle-timeout", "5s"]).await
}

/// A number that the proxy's metrics tell.
async fn metric(scene: &Scene, name: &str) -> u64 {
    let metrics = scene.admin("/metrics").await.text();
    let values = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let values: Vec<f64> = values.filter_map(|value| value.parse().ok()).collect();
    let [value] = *values else { panic!("{name} {values:?} in\n{metrics}") };
    value as u64
}

async fn connections(scene: &Scene) -> u64 {
    metric(scene, "http_server_connections_total").await
}

/// Waits until the proxy has closed all connections, which nothing uses any more.
async fn all_closed(scene: &Scene) {
    eventually("idle connections are closed", PATIENCE, async || {
        let open = metric(scene, "http_server_open_connections").await;
        holds(open == 0, || format!("{open} are open"))
    })
    .await;
}

/// A page over HTTP/1.1 takes no more connections than a browser opens, and the next one comes after those have ended.
pub(super) async fn http1(_: &Scene) {
    let scene = scene().await;
    let mut site = Site::start().await;
    let registered = register(&scene, "page", site.address.port(), Protocol::Http1).await;
    scene.apply(&shop("page")).await;
    let browser = Browser::open(&format!("http://a.example:{}/page?load=1", scene.own_port()));
    let mut before = 0;
    for load in 2..=3 {
        let loaded = site.loaded(&browser).await;
        loaded.assert_whole();
        let now = connections(&scene).await;
        // While one is being opened, another one may be begun in case that hangs.
        let opened = now - before;
        assert!((1..=CONNECTIONS + 2).contains(&opened), "{opened} connections for {PARTS} requests");
        before = now;
        all_closed(&scene).await;
        loaded.go_on(&format!("/page?load={load}"));
    }
    site.loaded(&browser).await.assert_whole();
    drop((browser, registered));
}

/// A page over TLS takes one connection of HTTP/2, and a new certificate breaks none and is shown to the next.
pub(super) async fn https(_: &Scene) {
    let scene = scene().await;
    let mut site = Site::start().await;
    let registered = register(&scene, "page", site.address.port(), Protocol::Http1).await;
    let port = listener_port();
    let tls = "tls: {certificateRefs: [{name: a}]}";
    let listener = format!("- {{name: https, port: {port}, protocol: HTTPS, hostname: a.example, {tls}}}");
    let route = http_route("shop", "parentRefs: [{name: edge}]\nrules: [{backendRefs: [{name: page}]}]");
    let certificate = || Authority::new().sign(&["a.example"]).secret("default", "a");
    scene.apply(&(certificate() + &gateway("edge", &listener) + &route)).await;
    // Waits until the port is bound.
    scene.connect(&Ask::get("a.example", "/").port(port)).await;
    all_closed(&scene).await;
    let before = connections(&scene).await;
    let browser = Browser::open(&format!("https://a.example:{port}/page?load=1"));

    // One certificate comes while the connection is there, and another one when it has ended.
    let first = site.loaded(&browser).await;
    first.assert_whole();
    scene.apply(&certificate()).await;
    first.go_on("/page?load=2");
    let second = site.loaded(&browser).await;
    second.assert_whole();
    all_closed(&scene).await;
    scene.apply(&certificate()).await;
    second.go_on("/page?load=3");
    site.loaded(&browser).await.assert_whole();

    let opened = connections(&scene).await - before;
    assert!((2..=3 * 3).contains(&opened), "{opened} connections for {} requests over HTTP/2", 3 * PARTS);
    drop((browser, registered));
}
