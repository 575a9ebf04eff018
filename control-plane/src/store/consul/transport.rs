//! How requests get to Consul: HTTP/1.1 over kept connections, with TLS where it is asked for.
//!
//! It stands in for the client that `consulrs` brings: that one has no deadlines, cannot show a client certificate,
//! and would open connections with libraries of years ago, which are linked because of it but never called.
//!
//! Deliberately absent: what is asked, and what to do about a failure.

use std::{
    fmt, fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{
        Client as HttpClient,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use rustify::{client::Client, errors::ClientError};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::store::StoreOptions;

/// The longest answer that is read, bytes: a registry of a hundred thousand instances.
const LONGEST_ANSWER: usize = 256 << 20;
/// How many connections are kept while nobody uses them.
const IDLE_CONNECTIONS: usize = 32;

/// How long a request may take, when that is not the store's timeout; travels with the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(pub(super) Duration);

/// The way to one agent.
pub(super) struct Transport {
    client: HttpClient<Connector, Full<Bytes>>,
    base: String,
    token: Option<HeaderValue>,
    timeout: Duration,
}

impl Transport {
    /// The way to `host:port`. Nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong with the token or a file of certificates.
    pub(super) fn new(
        host: &str,
        port: u16,
        tls: bool,
        token: &str,
        options: &StoreOptions,
    ) -> Result<Self, String> {
        let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let connector = Connector {
            host: Arc::from(host),
            port,
            tls: if tls { Some(tls_of(host, options)?) } else { None },
        };
        let client = HttpClient::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        let mut token =
            HeaderValue::from_str(token).map_err(|_| "the token has characters that no token has")?;
        token.set_sensitive(true);
        Ok(Self {
            client,
            base: format!("{}://{shown}:{port}/v1", if tls { "https" } else { "http" }),
            token: Some(token).filter(|token| !token.is_empty()),
            timeout: options.timeout,
        })
    }

    async fn exchange(
        &self,
        request: http_0_2::Request<Vec<u8>>,
    ) -> Result<http_0_2::Response<Vec<u8>>, anyhow::Error> {
        let (parts, body) = request.into_parts();
        let mut request = Request::builder().method(parts.method.as_str()).uri(parts.uri.to_string());
        if let Some(token) = &self.token {
            request = request.header("x-consul-token", token);
        }
        let response = self.client.request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (parts, body) = response.into_parts();
        let mut answer = http_0_2::Response::builder().status(parts.status.as_u16());
        for (name, value) in &parts.headers {
            answer = answer.header(name.as_str(), value.as_bytes());
        }
        let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok(answer.body(body.to_bytes().into())?)
    }
}

#[tonic::async_trait]
impl Client for Transport {
    async fn send(
        &self,
        request: http_0_2::Request<Vec<u8>>,
    ) -> Result<http_0_2::Response<Vec<u8>>, ClientError> {
        let patience = request.extensions().get::<Patience>().map_or(self.timeout, |patience| patience.0);
        let (url, method) = (request.uri().path().to_owned(), request.method().to_string());
        let exchange = tokio::time::timeout(patience, self.exchange(request)).await;
        let late = |_| anyhow::anyhow!("no answer within {:.1} s", patience.as_secs_f64());
        exchange.map_err(late).and_then(|outcome| outcome).map_err(|source| ClientError::RequestError {
            source,
            url,
            method,
        })
    }

    fn base(&self) -> &str {
        &self.base
    }

    /// Answers whatever Consul answered: what a status means depends on the question.
    async fn execute(
        &self,
        request: http_0_2::Request<Vec<u8>>,
    ) -> Result<http_0_2::Response<Vec<u8>>, ClientError> {
        self.send(request).await
    }
}

/// Opens connections to one agent.
#[derive(Clone)]
struct Connector {
    host: Arc<str>,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { host, port, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect((&*host, port)).await?;
            stream.set_nodelay(true)?;
            let stream = match tls {
                None => Stream::Plain(stream),
                Some((connector, name)) => Stream::Tls(Box::new(connector.connect(name, stream).await?)),
            };
            Ok(TokioIo::new(stream))
        })
    }
}

/// A connection.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

fn tls_of(host: &str, options: &StoreOptions) -> Result<(TlsConnector, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    match &options.ca_file {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| unreadable(file, &error))?;
            }
        }
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match &options.identity {
        None => config.with_no_client_auth(),
        Some((certificate, key_file)) => {
            let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
                .map_err(|error| unreadable(key_file, &error))?;
            let chain = certificates(certificate)?;
            config.with_client_auth_cert(chain, key).map_err(|error| unreadable(certificate, &error))?
        }
    };
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("no certificate can be for {host:?}"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unreadable(file, &error))?;
    if found.is_empty() { Err(unreadable(file, &"it has no certificate")) } else { Ok(found) }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, why: &dyn fmt::Display) -> String {
    format!("{}: {why}", file.display())
}
