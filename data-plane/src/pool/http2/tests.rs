//! A connection that is full, silent or gone, over a pipe in memory: what is silent for long is so in virtual time.

use std::{future::pending, pin::pin};

use h2::server;
use http::Request;
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{Instant, sleep},
};

use super::{
    driver::{DEAD_AFTER, TICK},
    *,
};
use crate::forward::RequestBody;

/// A connection to an instance in the same process, and its task.
async fn connected() -> (Http2, JoinHandle<()>, DuplexStream) {
    let (near, far) = duplex(1 << 16);
    let load = Load::new(Arc::default());
    let begun = Dialect::new(65_536).begin(TokioIo::new(near), load).await;
    let (connection, driver) = begun.expect("a preface");
    (connection, spawn_local(driver), far)
}

fn request() -> Request<RequestBody> {
    Request::get("http://shop.example/").body(RequestBody::none()).expect("a request")
}

async fn send(connection: &Http2) -> Result<http::Response<Http2Body>, SendError> {
    let permit = StreamPermit::of(connection.load());
    connection.send(request(), permit, Duration::from_secs(3600), async || pending().await).await
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_answers_no_ping_is_given_up() {
    let test = async {
        let (connection, driver, far) = connected().await;
        let (told, mut tell) = mpsc::unbounded_channel();
        spawn_local(async move {
            let mut server = server::handshake(far).await.expect("a preface");
            let (_request, mut respond) = server.accept().await.expect("a request").expect("a good one");
            respond.send_response(http::Response::new(()), false).expect("it is sent");
            // It is served for a while, in which pings are answered, and then hangs.
            let mut served = pin!(sleep(10 * DEAD_AFTER * TICK));
            tokio::select! {
                _ = server.accept() => panic!("the connection ends early"),
                () = served.as_mut() => {}
            }
            told.send(Instant::now()).expect("the test waits");
            pending::<()>().await;
        });
        let began = Instant::now();
        let Ok(response) = send(&connection).await else { panic!("no answer") };
        let mut body = response.into_body();
        let failed = std::future::poll_fn(|context| hyper::body::Body::poll_frame(pin!(&mut body), context));
        assert!(matches!(failed.await, Some(Err(_))), "the answer breaks off");
        let hung = tell.recv().await.expect("it hangs");
        assert!(hung >= began + 10 * DEAD_AFTER * TICK);
        assert!(Instant::now() <= hung + (DEAD_AFTER + 1) * TICK, "virtual time");
        driver.await.expect("no panic");
        assert!(!connection.is_open());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_asked() {
    let test = async {
        let (connection, _driver, _hanging) = connected().await;
        sleep(100 * DEAD_AFTER * TICK).await;
        assert!(connection.is_open());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_that_nobody_will_use_ends_with_its_last_stream() {
    let test = async {
        let (connection, driver, far) = connected().await;
        spawn_local(async move {
            let mut server = server::handshake(far).await.expect("a preface");
            while let Some(request) = server.accept().await {
                let (_request, mut respond) = request.expect("a good one");
                respond.send_response(http::Response::new(()), true).expect("it is sent");
            }
        });
        let Ok(response) = send(&connection).await else { panic!("no answer") };
        drop(connection);
        drop(response);
        driver.await.expect("no panic");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_request_that_came_too_late_comes_back() {
    let test = async {
        let (connection, driver, far) = connected().await;
        drop(far);
        driver.await.expect("no panic");
        assert!(!connection.is_open());
        assert!(matches!(send(&connection).await, Err(SendError::Unsent(_))));
        assert_eq!(connection.load().streams(), 0);
    };
    LocalSet::new().run_until(test).await;
}
