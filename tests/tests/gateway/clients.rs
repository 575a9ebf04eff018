//! Declared routes with clients and servers that nobody here wrote.
//!
//! One that is not installed is listed as ignored, with the reason in its name.

mod browser;
mod h2spec;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use waypost_proto::instance::Protocol;
use waypost_sdk::{Registered, Registration};
use waypost_tests::{
    gateway::{Ask, Scene, gateway, grpc_route, http_route, listener_port},
    program::target_directory,
    servers::{Server, find, free_port, listens},
};

use crate::{
    case::{Case, case},
    certificates::Authority,
};

/// How long a client may run.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client or server, what to install for it, and what is shown with it.
pub(crate) struct Foreign {
    /// Its name.
    pub(crate) name: &'static str,
    /// Why it cannot run here, if it cannot.
    pub(crate) missing: fn() -> Option<String>,
    /// What is shown.
    pub(crate) cases: &'static [Case],
}

/// All of them.
pub(crate) const ALL: &[Foreign] = &[
    Foreign {
        name: "curl",
        missing: || program("curl"),
        cases: &[
            case!(Core "curl" "HTTP/1.1, with a body that awaits 100-continue" curl_http1),
            case!(Core "curl" "HTTP/2 with prior knowledge" curl_http2),
            case!(Core "curl" "HTTP/1.1 and HTTP/2 over TLS, by ALPN" curl_tls),
            case!(Core "curl" "several requests over one connection" curl_keep_alive),
        ],
    },
    Foreign {
        name: "nghttp2",
        missing: || program("nghttp").or_else(|| program("h2load")),
        cases: &[
            case!(Core "nghttp2" "nghttp: a request with a body, and trailers" nghttp),
            case!(Core "nghttp2" "h2load: many streams at a time over HTTP/2, every one answered" h2load),
        ],
    },
    Foreign {
        name: "h2spec",
        missing: h2spec::missing,
        cases: &[
            case!(Core "h2spec" "all that it asks of a server, but for an invalid preface" h2spec::everything),
        ],
    },
    Foreign {
        name: "grpcio",
        missing: python_missing,
        cases: &[case!(Core "grpcio"
            "unary and streaming calls, deadlines, statuses, metadata and trailers, client and server" grpcio)],
    },
    Foreign {
        name: "websockets",
        missing: python_missing,
        cases: &[case!(Core "websockets"
            "text, bytes, fragments, compression, pings and close codes, client and server" websockets)],
    },
    Foreign {
        name: "nginx",
        missing: || program("nginx"),
        cases: &[case!(Core "nginx" "ranges, conditions, HEAD, compression, redirects and refusals" nginx)],
    },
    Foreign {
        name: "Chromium",
        missing: browser::missing,
        cases: &[
            case!(Core "Chromium"
                "pages of many parts over few connections, which end when they are idle" browser::http1),
            case!(Core "Chromium"
                "pages over TLS and HTTP/2 while certificates are exchanged and connections end" browser::https),
        ],
    },
    Foreign {
        name: "http.server",
        missing: || program("python3"),
        cases: &[case!(Core "http.server" "HTTP/1.0 answers that end with the connection" http_server)],
    },
];

fn program(name: &str) -> Option<String> {
    find(name).is_none().then(|| format!("{name} is not installed: run tests/setup.sh --servers"))
}

/// The interpreter of the environment with the libraries of `clients/requirements.txt`.
fn python() -> PathBuf {
    let target = target_directory();
    target.parent().unwrap_or(&target).join("clients-env/bin/python")
}

fn python_missing() -> Option<String> {
    let environment = python();
    let made = environment.ancestors().nth(2).is_some_and(|it| it.join("requirements.txt").is_file());
    (!made).then(|| "target/clients-env is not made: run tests/setup.sh --servers".to_owned())
}

fn script(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/clients");
    folder.join(name).display().to_string()
}

/// Runs a client to its end and gives what it wrote to stdout.
///
/// # Panics
/// It fails, or takes too long; says what it wrote.
async fn run(program: &Path, arguments: &[&str]) -> String {
    let output = run_to_its_end(program, arguments).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?} {arguments:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Runs a client to its end, good or bad.
///
/// # Panics
/// It takes too long.
async fn run_to_its_end(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(PATIENCE, command.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{program:?} {arguments:?}: not within {PATIENCE:?}"));
    output.unwrap_or_else(|error| panic!("{program:?}: {error}"))
}

/// A Python script that serves, registered as a service.
struct Served {
    _child: Child,
    _registered: Registered,
}

impl Served {
    async fn start(scene: &Scene, name: &str, service: &str, protocol: Protocol) -> Self {
        let mut command = Command::new(python());
        command.args(["-u", &script(name), "serve"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("Python starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("a line");
        let port: u16 = line.expect("a line").parse().expect("a port");
        let registered = register(scene, service, port, protocol).await;
        Self { _child: child, _registered: registered }
    }
}

/// Registers what listens at a port of loopback.
async fn register(scene: &Scene, service: &str, port: u16, protocol: Protocol) -> Registered {
    let address = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
    let registration = Registration::new(service, address).protocol(protocol);
    let registered = scene.cluster.client().register(registration).await.expect("registered");
    scene.cluster.converged().await;
    registered
}

fn shop(backend: &str) -> String {
    http_route("shop", &format!("hostnames: [a.example]\nrules: [{{backendRefs: [{{name: {backend}}}]}}]"))
}

/// Runs curl against the proxy's own port as `a.example`, and gives the body with what `--write-out` adds.
async fn curl(scene: &Scene, path: &str, arguments: &[&str]) -> String {
    let port = scene.own_port();
    let (url, resolve) = (format!("http://a.example:{port}{path}"), format!("a.example:{port}:127.0.0.1"));
    let mut all = vec!["--silent", "--show-error", "--max-time", "20", "--resolve", &resolve];
    all.extend_from_slice(arguments);
    all.push(&url);
    run(&find("curl").expect("curl"), &all).await
}

const VERSION_AND_STATUS: [&str; 2] = ["--write-out", " %{http_version} %{http_code}"];

async fn curl_http1(scene: &Scene) {
    scene.apply(&shop("one")).await;
    let told = curl(scene, "/x?y", &VERSION_AND_STATUS).await;
    assert!(told.contains("\"path\":\"/x?y\"") && told.ends_with(" 1.1 200"), "{told}");
    let body = "b".repeat(2_000_000);
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &body).expect("written");
    let from = format!("@{}", file.path().display());
    let told = curl(scene, "/echo", &["--header", "Expect: 100-continue", "--data-binary", &from]).await;
    assert!(told == body, "{} bytes", told.len());
    let told =
        curl(scene, "/x", &["--head", "--output", "/dev/null", VERSION_AND_STATUS[0], VERSION_AND_STATUS[1]])
            .await;
    assert_eq!(told, " 1.1 200");
}

async fn curl_http2(scene: &Scene) {
    scene.apply(&shop("h2c")).await;
    let told =
        curl(scene, "/x", &["--http2-prior-knowledge", VERSION_AND_STATUS[0], VERSION_AND_STATUS[1]]).await;
    assert!(told.contains("\"version\":\"HTTP/2.0\"") && told.ends_with(" 2 200"), "{told}");
    // An offer to upgrade is not taken, and the request is answered all the same.
    let told = curl(scene, "/x", &["--http2", VERSION_AND_STATUS[0], VERSION_AND_STATUS[1]]).await;
    assert!(told.ends_with(" 200"), "{told}");
}

async fn curl_tls(scene: &Scene) {
    let authority = Authority::new();
    let port = listener_port();
    let listener = format!(
        "- {{name: https, port: {port}, protocol: HTTPS, hostname: a.example, tls: {{certificateRefs: [{{name: a}}]}}}}"
    );
    let route = http_route("shop", "parentRefs: [{name: edge}]\nrules: [{backendRefs: [{name: one}]}]");
    let secret = authority.sign(&["a.example"]).secret("default", "a");
    scene.apply(&(secret + &gateway("edge", &listener) + &route)).await;
    // Waits until the port is bound.
    scene.connect(&Ask::get("a.example", "/").port(port)).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &authority.pem).expect("written");
    let (authorities, url) = (file.path().display().to_string(), format!("https://a.example:{port}/x"));
    let resolve = format!("a.example:{port}:127.0.0.1");
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let arguments = [
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--resolve",
            &resolve,
            "--cacert",
            &authorities,
            option,
        ];
        let told =
            run(&find("curl").expect("curl"), &[&arguments[..], &VERSION_AND_STATUS, &[&url]].concat()).await;
        assert!(
            told.contains("\"instance\":\"one\"") && told.ends_with(&format!(" {version} 200")),
            "{told}"
        );
    }
}

async fn curl_keep_alive(scene: &Scene) {
    scene.apply(&shop("one")).await;
    // As a page with pictures is loaded: one connection carries all of it.
    let told =
        curl(scene, "/[1-20]", &["--output", "/dev/null", "--write-out", "%{num_connects} %{http_code}\n"])
            .await;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 20, "{told}");
    assert_eq!(lines[0], "1 200");
    assert!(lines[1..].iter().all(|line| *line == "0 200"), "{told}");
}

async fn nghttp(scene: &Scene) {
    scene.apply(&shop("one")).await;
    let url = format!("http://{}/echo", scene.address(None));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "some body").expect("written");
    let data = file.path().display().to_string();
    let arguments = [
        "--header",
        ":authority: a.example",
        "--data",
        &data,
        "--trailer",
        "x-after: it",
        "--timeout",
        "20",
        &url,
    ];
    assert_eq!(run(&find("nghttp").expect("nghttp"), &arguments).await, "some body");
}

async fn h2load(scene: &Scene) {
    scene.apply(&shop("h2c")).await;
    let url = format!("http://{}/x", scene.address(None));
    let arguments = ["-n", "2000", "-c", "4", "-m", "25", "-T", "30s", "-H", ":authority: a.example", &url];
    let told = run(&find("h2load").expect("h2load"), &arguments).await;
    assert!(told.contains("2000 succeeded, 0 failed, 0 errored"), "{told}");
    assert!(told.contains("status codes: 2000 2xx"), "{told}");
}

async fn grpcio(scene: &Scene) {
    let served = Served::start(scene, "calls.py", "python-calls", Protocol::Grpc).await;
    let rules = "rules: [{matches: [{method: {service: test.Calls}}], backendRefs: [{name: python-calls}]}]";
    scene.apply(&grpc_route("calls", &format!("hostnames: [calls.example]\n{rules}"))).await;
    let proxy = scene.address(None).to_string();
    assert_eq!(run(&python(), &[&script("calls.py"), "check", &proxy, "calls.example"]).await, "ok\n");
    drop(served);
}

async fn websockets(scene: &Scene) {
    let served = Served::start(scene, "sockets.py", "python-sockets", Protocol::Http1).await;
    scene.apply(&shop("python-sockets")).await;
    let port = scene.own_port().to_string();
    let arguments = [&script("sockets.py"), "check", "127.0.0.1", &port, "ws://a.example/chat"];
    assert_eq!(run(&python(), &arguments).await, "ok\n");
    drop(served);
}

async fn nginx(scene: &Scene) {
    let port = free_port();
    let site = tempfile::tempdir().expect("a directory");
    let text: String = (0..5000).map(|number| format!("line {number}\n")).collect();
    fs::create_dir(site.path().join("www")).expect("made");
    fs::write(site.path().join("www/file.txt"), &text).expect("written");
    let dir = site.path().display().to_string();
    let configuration =
        include_str!("clients/nginx.conf").replace("{dir}", &dir).replace("{port}", &port.to_string());
    fs::write(site.path().join("nginx.conf"), configuration).expect("written");
    let arguments = ["-p", &dir, "-c", &format!("{dir}/nginx.conf"), "-e", &format!("{dir}/error.log")];
    let server =
        Server::start(&find("nginx").expect("nginx"), &arguments.map(str::to_owned), move || listens(port));
    let registered = register(scene, "nginx", port, Protocol::Http1).await;
    scene.apply(&shop("nginx")).await;

    let ask = Ask::get("a.example", "/file.txt");
    let mut connection = scene.connect(&ask).await;
    // More than nginx answers over one connection: the proxy's own goes on.
    for _ in 0..25 {
        let answer = connection.send(&ask).await.expect("an answer");
        assert!(answer.status == 200 && answer.body == text, "{} {}", answer.status, answer.body.len());
    }
    let plain = connection.send(&ask).await.expect("an answer");
    let part = connection.send(&ask.clone().header("range", "bytes=5-9")).await.expect("an answer");
    assert_eq!((part.status.as_u16(), part.text()), (206, text[5..10].to_owned()));
    let known = ask.clone().header("if-none-match", plain.header("etag"));
    let answer = connection.send(&known).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0));
    let head = connection.send(&ask.clone().method("HEAD")).await.expect("an answer");
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, &*text.len().to_string()));
    let packed = connection.send(&ask.clone().header("accept-encoding", "gzip")).await.expect("an answer");
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.starts_with(&[0x1f, 0x8b]), "it is passed on as it is");
    let moved = connection.send(&Ask::get("a.example", "/moved")).await.expect("an answer");
    assert_eq!(moved.status, 301);
    let refused = Ask::get("a.example", "/upload").method("POST").body(&[b'a'; 5000]);
    assert_eq!(scene.send(&refused).await.status, 413);
    assert_eq!(scene.get("a.example", "/none", &[]).await.status, 404);
    drop((registered, server));
}

async fn http_server(scene: &Scene) {
    let port = free_port();
    let site = tempfile::tempdir().expect("a directory");
    fs::write(site.path().join("file.txt"), "old but sound").expect("written");
    let (dir, at) = (site.path().display().to_string(), port.to_string());
    let arguments = ["-m", "http.server", &at, "--bind", "127.0.0.1", "--directory", &dir].map(str::to_owned);
    let server = Server::start(&find("python3").expect("python3"), &arguments, move || listens(port));
    let registered = register(scene, "old", port, Protocol::Http1).await;
    scene.apply(&shop("old")).await;
    let ask = Ask::get("a.example", "/file.txt");
    let mut connection = scene.connect(&ask).await;
    for _ in 0..5 {
        assert_eq!(connection.send(&ask).await.expect("an answer").text(), "old but sound");
    }
    assert_eq!(connection.send(&Ask::get("a.example", "/none")).await.expect("an answer").status, 404);
    drop((registered, server));
}
