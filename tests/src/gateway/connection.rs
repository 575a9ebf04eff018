//! A connection to the proxy, for one request or several.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, DEFAULT_VERSIONS, RootCertStore, crypto::aws_lc_rs, version::TLS12};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Ask;
use crate::http::{Answer, read};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a client speaks TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who must have signed the proxy's certificate; PEM.
    pub authority: String,
    /// The name to ask for (SNI) and to verify.
    pub name: String,
    /// The client's own chain and key; PEM.
    pub identity: Option<(String, String)>,
    /// Whether TLS 1.2 is the only version that it speaks.
    pub only_tls12: bool,
}

impl Tls {
    /// TLS without a certificate of its own.
    pub fn new(authority: &str, name: &str) -> Self {
        Self { authority: authority.to_owned(), name: name.to_owned(), identity: None, only_tls12: false }
    }

    /// Shows this certificate.
    #[must_use]
    pub fn identity(mut self, chain: &str, key: &str) -> Self {
        self.identity = Some((chain.to_owned(), key.to_owned()));
        self
    }

    /// Speaks TLS 1.2 and nothing newer.
    #[must_use]
    pub fn only_tls12(mut self) -> Self {
        self.only_tls12 = true;
        self
    }

    /// Does the handshake. `alpn` are the protocols to offer.
    ///
    /// # Errors
    /// The peer's certificate is not accepted, or the peer refuses.
    ///
    /// # Panics
    /// What this was made of is no PEM.
    pub async fn connect(&self, stream: TcpStream, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.authority.as_bytes()) {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = if self.only_tls12 { &[&TLS12][..] } else { DEFAULT_VERSIONS };
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.expect("TLS versions").with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.expect("a chain"), key).expect("an identity")
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(self.name.clone()).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An open connection.
pub struct Connection {
    sender: Sender,
    scheme: &'static str,
}

impl Connection {
    /// Connects as the request asks for: over TLS or in the clear, for HTTP/1.1 or HTTP/2.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn open(address: SocketAddr, ask: &Ask) -> Result<Self, String> {
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
            match &ask.tls {
                None => Self::over(stream, ask.http2, "http").await,
                Some(tls) => {
                    let alpn: &[u8] = if ask.http2 { b"h2" } else { b"http/1.1" };
                    let stream =
                        tls.connect(stream, &[alpn]).await.map_err(|error| format!("TLS: {error}"))?;
                    Self::over(stream, ask.http2, "https").await
                }
            }
        };
        timeout(PATIENCE, opening).await.unwrap_or_else(|_| Err(format!("not open within {PATIENCE:?}")))
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        http2: bool,
        scheme: &'static str,
    ) -> Result<Self, String> {
        let stream = TokioIo::new(stream);
        let failed = |error: hyper::Error| format!("handshake: {error}");
        let sender = if http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.map_err(failed)?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.map_err(failed)?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Ok(Self { sender, scheme })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// What went wrong, in words.
    ///
    /// # Panics
    /// The request is none.
    pub async fn send(&mut self, ask: &Ask) -> Result<Answer, String> {
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.headers_mut() = ask.headers.clone();
        let exchange = async {
            let answer = match &mut self.sender {
                Sender::Http1(sender) => {
                    *request.uri_mut() = ask.path.parse().expect("a path");
                    request.headers_mut().insert(header::HOST, ask.host.parse().expect("a host"));
                    // It is not at once after an answer was read.
                    sender.ready().await.map_err(|error| format!("connection: {error:?}"))?;
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => {
                    let uri = format!("{}://{}{}", self.scheme, ask.host, ask.path);
                    *request.uri_mut() = uri.parse().expect("a URI");
                    sender.ready().await.map_err(|error| format!("connection: {error:?}"))?;
                    sender.send_request(request).await
                }
            };
            let (head, body) = answer.map_err(|error| format!("answer: {error:?}"))?.into_parts();
            read(head, body).await
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    }
}
