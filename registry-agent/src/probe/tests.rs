//! Checks against real sockets and commands: what passes, what fails, and the reason that is given.

use std::time::Instant;

use super::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

const TIMEOUT: Duration = Duration::from_secs(10);

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}

/// Answers every request with the same bytes.
async fn answering(answer: &'static str) -> String {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[test]
fn checks_are_read_and_bad_ones_refused() {
    for (text, shown) in [
        ("http:/health", "GET http://127.0.0.1:1/health"),
        ("http://a:2/b?c=d", "GET http://a:2/b?c=d"),
        ("http://a", "GET http://a:80/"),
        ("tcp", "connecting to 127.0.0.1:1"),
        ("tcp:2", "connecting to 127.0.0.1:2"),
        ("tcp:a:2", "connecting to a:2"),
        ("grpc", "grpc.health.v1 at 127.0.0.1:1"),
        ("grpc:users", "grpc.health.v1 of users at 127.0.0.1:1"),
        ("exec:test -e /", "\"test -e /\""),
        ("none", "no check"),
    ] {
        assert_eq!(Probe::new(text, "127.0.0.1:1").expect(text).to_string(), shown);
    }
    for text in
        ["", "ping", "http:health", "http:/a b", "https://a/", "tcp:", "tcp:x", "tcp:0", "exec:", "none:1"]
    {
        let violation = Probe::new(text, "127.0.0.1:1").expect_err(text);
        assert_eq!((violation.field.as_str(), violation.value.as_str()), ("health", text));
    }
}

#[tokio::test]
async fn http_passes_by_its_status() {
    for (answer, passes) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", false),
        ("smtp\r\n\r\n", false),
        ("", false),
    ] {
        let address = answering(answer).await;
        let probe = Probe::new("http:/health", &address).expect("a check");
        let result = probe.check(TIMEOUT).await;
        assert_eq!(result.is_ok(), passes, "{answer:?}: {result:?}");
        if answer.contains("503") {
            assert_eq!(result, Err("GET /health answered 503".to_owned()));
        }
    }
}

#[tokio::test]
async fn tcp_passes_where_something_listens() {
    // Bound from the start: a port that has been given back may be another test's by now.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = socket.local_addr().expect("it is bound").to_string();
    let probe = Probe::new("tcp", &address).expect("a check");
    let reason = probe.check(TIMEOUT).await.expect_err("nothing listens");
    assert!(reason.contains(&address) && reason.contains("refused"), "{reason}");
    let _listener = socket.listen(1).expect("it is bound");
    assert_eq!(probe.check(TIMEOUT).await, Ok(()));
}

#[tokio::test]
async fn grpc_passes_by_what_the_server_says_of_the_service() {
    let (listener, address) = listener().await;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
    let check = async |text| Probe::new(text, &address).expect("a check").check(TIMEOUT).await;
    assert_eq!(check("grpc:up").await, Ok(()));
    assert_eq!(check("grpc:down").await, Err("grpc.health.v1 says NOT_SERVING".to_owned()));
    check("grpc:unheard-of").await.expect_err("no such service");
    Probe::new("grpc", "127.0.0.1:1").expect("a check").check(TIMEOUT).await.expect_err("no such server");
}

#[tokio::test]
async fn exec_passes_by_its_exit_code() {
    let check = async |text| Probe::new(text, "").expect("a check").check(TIMEOUT).await;
    assert_eq!(check("exec:true").await, Ok(()));
    assert_eq!(check("exec:exit 3").await, Err("\"exit 3\" ended with 3".to_owned()));
    assert_eq!(check("exec:kill -9 $$").await, Err("\"kill -9 $$\" was killed by signal 9".to_owned()));
}

#[tokio::test]
async fn what_never_answers_fails_in_time_and_leaves_nothing_behind() {
    let (listener, address) = listener().await;
    let timeout = Duration::from_millis(100);
    for text in ["http:/", "grpc"] {
        let reason = Probe::new(text, &address).expect("a check").check(timeout).await.expect_err("silence");
        assert!(reason.contains("did not end within 100ms"), "{reason}");
    }
    drop(listener);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let command = format!("exec:sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let probe = Probe::new(&command, "").expect("a check");
    // On a busy machine it may not even have begun when its time is over.
    for limit in [500, 2000, 8000].map(Duration::from_millis) {
        probe.check(limit).await.expect_err("it hangs");
        if file.exists() {
            break;
        }
    }
    let started = Instant::now();
    let pid: i32 = std::fs::read_to_string(&file).expect("it has started").trim().parse().expect("a pid");
    let pid = nix::unistd::Pid::from_raw(pid);
    while nix::sys::signal::kill(pid, None).is_ok() && !is_zombie(pid) {
        assert!(started.elapsed() < TIMEOUT, "the check's command lives on");
        tokio::task::yield_now().await;
    }
}

/// Killed and not yet reaped by whoever adopted it.
fn is_zombie(pid: nix::unistd::Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
