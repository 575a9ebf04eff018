//! A request in the making.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::Tls;

/// A request: to which host and path, through which of the proxy's ports, and over what.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// The value of `Host` or `:authority`.
    pub host: String,
    /// The path and query, as they are sent.
    pub path: String,
    /// The headers beside the host.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The port; `None` means the proxy's own.
    pub port: Option<u16>,
    /// HTTP/2 with prior knowledge, or else HTTP/1.1.
    pub http2: bool,
    /// Over TLS.
    pub tls: Option<Tls>,
}

impl Ask {
    /// A GET over HTTP/1.1 in the clear.
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            method: Method::GET,
            host: host.to_owned(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            port: None,
            http2: false,
            tls: None,
        }
    }

    /// A gRPC call with one empty message; `path` is `/service/method`.
    pub fn call(host: &str, path: &str) -> Self {
        let ask = Self::get(host, path).method("POST").http2();
        ask.headers(&[("content-type", "application/grpc"), ("te", "trailers")]).body(&[0; 5])
    }

    /// With this method.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.parse().expect("a method");
        self
    }

    /// With a header more.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.headers(&[(name, value)])
    }

    /// With these headers more.
    ///
    /// # Panics
    /// They are none.
    #[must_use]
    pub fn headers(mut self, headers: &[(&str, &str)]) -> Self {
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
            self.headers.append(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = Bytes::copy_from_slice(body);
        self
    }

    /// Through another port of the proxy.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Over HTTP/2.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Over TLS.
    #[must_use]
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.tls = Some(tls.clone());
        self
    }
}
