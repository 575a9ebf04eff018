//! The way to a store plugin: address, TLS, token, and what its refusals mean.
//!
//! A call that gets no answer in time leaves its connection behind: the next call opens another one, so that a server
//! that froze, or a network that lost the connection without a word, is waited for no longer than that.
//!
//! Deliberately absent: repetition. The registry knows what it may ask again.

use std::{error::Error, fs, future::Future, path::Path, time::Duration};

use parking_lot::Mutex;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use waypost_proto::v1::store_plugin_client::StorePluginClient;

use super::super::{Location, StoreError, StoreOptions};

/// The largest message that is taken. Those of the contract are smaller; this is for servers that are generous.
const LARGEST: usize = 64 * 1024 * 1024;
/// The trailer with a revision.
const REVISION: &str = "waypost-revision";

pub(super) type Client = StorePluginClient<InterceptedService<Channel, Token>>;

/// Adds the token to each call.
#[derive(Clone)]
pub(super) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A plugin's server.
pub(super) struct Connection {
    endpoint: Endpoint,
    token: Token,
    address: String,
    /// As the server calls itself, once it has been asked.
    name: Mutex<Option<String>>,
    channel: Mutex<Channel>,
    timeout: Duration,
}

impl Connection {
    /// Takes a URL and the options apart; connects when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] says what is wrong with them.
    pub(super) fn new(location: &Location, options: &StoreOptions) -> Result<Self, StoreError> {
        let wrong = |reason: String| StoreError::Unknown { url: location.to_string(), reason };
        location.nothing_else(&[])?;
        let [(host, port)] = location.hosts.as_slice() else {
            return Err(wrong("a plugin has one address; put a load balancer before several".to_owned()));
        };
        if !location.path.is_empty() {
            return Err(wrong("a plugin's URL has no path".to_owned()));
        }
        if !location.user.is_empty() {
            return Err(wrong(
                "a plugin has no users; a token is written as plugin://:TOKEN@HOST".to_owned(),
            ));
        }
        let token = Some(location.password.clone()).filter(|token| !token.is_empty());
        let token = token.or_else(|| options.password.clone()).map(|token| format!("Bearer {token}").parse());
        let token = token.transpose().map_err(|_| wrong("its token is not plain ASCII".to_owned()))?;
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let address = format!("{bracketed}:{port}");
        let scheme = if location.tls { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"));
        let mut endpoint = endpoint
            .map_err(|error| wrong(error.to_string()))?
            .connect_timeout(options.timeout)
            .tcp_nodelay(true)
            // Only while a call is open: servers take more for an attack (gRPC's A8 and its ping strikes).
            .http2_keep_alive_interval(options.timeout)
            .keep_alive_timeout(options.timeout);
        if location.tls {
            let tls = tls(host, options).map_err(wrong)?;
            endpoint =
                endpoint.tls_config(tls).map_err(|error| wrong(with_causes(error.to_string(), &error)))?;
        } else if options.ca_file.is_some() || options.identity.is_some() {
            return Err(wrong("certificates are for plugins://".to_owned()));
        }
        let channel = Mutex::new(endpoint.connect_lazy());
        let (name, timeout) = (Mutex::default(), options.timeout);
        Ok(Self { endpoint, token: Token(token), address, name, channel, timeout })
    }

    /// A client of the server.
    pub(super) fn client(&self) -> Client {
        StorePluginClient::with_interceptor(self.channel.lock().clone(), self.token.clone())
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST)
    }

    /// How long an operation may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits for an answer, but not longer than this.
    pub(super) async fn within<T>(
        &self,
        time: Duration,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(time, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) if status.code() != Code::DeadlineExceeded => Err(self.refusal(&status)),
            Ok(Err(_)) | Err(_) => Err(self.silent(time)),
        }
    }

    /// The server has said nothing for this long: its connection is left behind.
    pub(super) fn silent(&self, time: Duration) -> StoreError {
        *self.channel.lock() = self.endpoint.connect_lazy();
        StoreError::Unavailable(format!("{} has not answered in {time:?}", self.who()))
    }

    /// Notes what the server calls itself.
    pub(super) fn call_it(&self, name: &str) {
        *self.name.lock() = Some(name.to_owned()).filter(|name| !name.is_empty());
    }

    /// The server, in words.
    pub(super) fn who(&self) -> String {
        let name = self.name.lock();
        format!("{} at {}", name.as_deref().unwrap_or("the store plugin"), self.address)
    }

    /// Something in an answer that breaks the contract.
    pub(super) fn malformed(&self, entry: &str, reason: impl Into<String>) -> StoreError {
        StoreError::Malformed { entry: self.entry(entry), reason: reason.into() }
    }

    /// Where in the server's answers something stands.
    pub(super) fn entry(&self, entry: &str) -> String {
        format!("{}: {entry}", self.who())
    }

    /// What a status means.
    fn refusal(&self, status: &Status) -> StoreError {
        let who = self.who();
        let told = match status.message() {
            "" => status.code().description().to_owned(),
            message => with_causes(message.to_owned(), status),
        };
        match status.code() {
            Code::Aborted => match self.revision(status) {
                Ok(revision) => StoreError::Conflict { entry: told, revision },
                Err(error) => error,
            },
            Code::OutOfRange => match self.revision(status) {
                Ok(oldest) => StoreError::Compacted { oldest },
                Err(error) => error,
            },
            Code::Unauthenticated | Code::PermissionDenied => {
                StoreError::Refused(format!("{who}: {told}: give its token by --store-password-file"))
            }
            Code::Unimplemented => StoreError::Refused(format!(
                "{who}: {told}: it must implement waypost.v1.StorePlugin, is it the right address?"
            )),
            Code::InvalidArgument | Code::FailedPrecondition => {
                StoreError::Refused(format!("{who}: {told}: see the log of the plugin"))
            }
            _ => StoreError::Unavailable(format!("{who}: {told}")),
        }
    }

    fn revision(&self, status: &Status) -> Result<u64, StoreError> {
        let trailer = status.metadata().get(REVISION).and_then(|value| value.to_str().ok());
        let entry = format!("the trailer {REVISION} of {:?}", status.code());
        let revision = trailer.ok_or_else(|| self.malformed(&entry, "it is missing"))?;
        revision.parse().map_err(|_| self.malformed(&entry, format!("{revision:?} is no revision")))
    }
}

fn tls(host: &str, options: &StoreOptions) -> Result<ClientTlsConfig, String> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut tls = ClientTlsConfig::new().domain_name(host);
    tls = match &options.ca_file {
        Some(file) => tls.ca_certificate(Certificate::from_pem(read(file)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &options.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

/// An error in words, followed by those of its causes that do not only repeat it.
fn with_causes(mut told: String, error: &dyn Error) -> String {
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        cause = error.source();
    }
    told
}
