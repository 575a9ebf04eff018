//! Who answers: nginx with files, and a gRPC server that sends back what it got.

use std::{convert::Infallible, fs, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::peers::{Server, Site, nginx_conf};

/// The upstream's servers.
pub(crate) struct Upstream {
    /// The files' port.
    pub(crate) http: u16,
    /// The gRPC server's port.
    pub(crate) grpc: u16,
    nginx: Server,
}

impl Upstream {
    /// Starts both.
    pub(crate) async fn start(nginx: &str, site: &Site) -> Self {
        let root = site.path("www");
        fs::create_dir(&root).expect("a directory");
        for (name, size) in [("1k", 1 << 10), ("256k", 256 << 10)] {
            fs::write(format!("{root}/{name}"), "x".repeat(size)).expect("a file");
        }
        let [http] = super::peers::free_ports();
        let apart = format!("location /apart/ {{ alias {root}/; sendfile on; }}");
        let server = format!("server {{ listen 127.0.0.1:{http}; root {root}; {apart} }}");
        let conf = nginx_conf(site, "upstream", &server);
        let nginx = Server::start("upstream", nginx, &["-c", &conf], http).await;
        Self { http, grpc: echo().await.port(), nginx }
    }

    /// The processes that answer, this one among them.
    pub(crate) fn pids(&self) -> impl Iterator<Item = i32> {
        let own = i32::try_from(std::process::id()).expect("process ids are small");
        super::with_children(self.nginx.id()).into_iter().chain([own])
    }
}

/// Starts the gRPC server, on a thread of its own: this one waits for the clients.
async fn echo() -> SocketAddr {
    let (told, address) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            told.send(listener.local_addr().expect("an address")).expect("somebody waits for it");
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let server = http2::Builder::new(TokioExecutor::new());
                // A connection that ends with an error is the client's affair.
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
    });
    address.await.expect("the server starts")
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let trailers = async {
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
        Some(Ok(trailers))
    };
    let response = Response::builder().header("content-type", "application/grpc");
    let body = BoxBody::new(Full::new(body).with_trailers(trailers));
    Ok(response.body(body).expect("a good answer"))
}
