//! What Waypost asks of Consul: endpoints of `consulrs`, and our own where it has none or they cannot be read.
//!
//! Every request names the datacenter and the namespace (of Consul Enterprise) of the store's URL.
//!
//! Deliberately absent: decisions, retries.

use std::{marker::PhantomData, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use consulrs::api::kv::{common::KVPair, requests::ReadKeyRequest};
use http_0_2::{Response, Uri};
use rustify::{
    client::Client,
    endpoint::Endpoint,
    enums::{RequestMethod, RequestType, ResponseType},
    errors::ClientError,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::transport::{Patience, Transport};
use crate::store::StoreError;

/// The longest part of an answer that an error repeats, bytes.
const SHOWN: usize = 300;

/// Why a question has no answer.
#[derive(Clone, Debug)]
pub(super) enum CallError {
    /// Nothing came back: whether it was done is not known.
    Unanswered(String),
    /// Consul says no.
    Refused(String),
    /// Consul failed: whether it was done is not known.
    Failed(u16, String),
    /// What came back means nothing.
    Garbled(String),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unanswered(reason) => Self::Unavailable(reason),
            CallError::Refused(reason) => Self::Refused(reason),
            CallError::Failed(status, reason) => {
                Self::Unavailable(format!("Consul answered {status}: {reason}"))
            }
            CallError::Garbled(reason) => Self::Malformed { entry: "Consul's answer".to_owned(), reason },
        }
    }
}

/// An answer, and the index that a blocking query goes on from.
#[derive(Debug)]
pub(super) struct Answer<T> {
    /// What was asked for.
    pub(super) value: T,
    /// Consul's index; 0 if it has none.
    pub(super) index: u64,
}

/// How current an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As the agent or the leader knows it. A leader that has lost its office without knowing it may answer for some
    /// seconds; one that has just come up answers before it has read its log, as if it held nothing.
    Default,
    /// As a leader knows it that has read its log and made sure that it still leads.
    Consistent,
    /// The same, once it is newer than an index or some time has passed.
    After(u64),
}

/// One agent's HTTP API.
pub(super) struct Api {
    transport: Transport,
    /// Said with every request.
    always: Vec<(&'static str, String)>,
    wait: Duration,
    timeout: Duration,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Pair {
    /// The key.
    pub(super) key: String,
    /// The value.
    pub(super) value: Vec<u8>,
    /// The index that last changed it.
    pub(super) index: u64,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// Sets a key if it is at an index; 0: if it is not there.
    Replace(String, Vec<u8>, u64),
    /// Sets a key.
    Set(String, Vec<u8>),
    /// Removes a key if it is there.
    Delete(String),
}

impl Operation {
    /// About how much it writes, bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Replace(key, value, _) | Self::Set(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is done; the index of the first operation's key.
    Done(u64),
    /// A key was not at the index that was named.
    Stale,
}

/// Reads something at a path.
struct Get<T> {
    path: String,
    answer: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + Send + Sync> Endpoint for Get<T> {
    type Response = T;

    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

/// `/v1/txn`.
struct Transaction(Vec<Step>);

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Step {
    kv: KvStep,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct KvStep {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactionAnswer {
    results: Option<Vec<StepAnswer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct StepAnswer {
    kv: Option<KVPair>,
}

impl Endpoint for Transaction {
    type Response = TransactionAnswer;

    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        "txn".to_owned()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::PUT
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        let body = serde_json::to_vec(&self.0);
        body.map(Some).map_err(|error| ClientError::DataParseError { source: error.into() })
    }
}

impl Api {
    /// Asks one agent. A blocking query waits for up to `wait` for something new.
    pub(super) fn new(
        transport: Transport,
        always: Vec<(&'static str, String)>,
        wait: Duration,
        timeout: Duration,
    ) -> Self {
        Self { transport, always, wait, timeout }
    }

    /// The longest time that one request may take, a blocking query aside.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A key; `None` if it is not there.
    pub(super) async fn key(&self, key: String, reading: Reading) -> Result<Answer<Option<Pair>>, CallError> {
        let request = ReadKeyRequest { key, ..ReadKeyRequest::default() };
        let answer = self.pairs(request, reading).await?;
        Ok(Answer { value: answer.value.into_iter().next(), index: answer.index })
    }

    /// All keys that begin with a text, as they are at one moment.
    pub(super) async fn keys_below(&self, start: String) -> Result<Vec<Pair>, CallError> {
        let request = ReadKeyRequest { key: start, recurse: Some(true), ..ReadKeyRequest::default() };
        Ok(self.pairs(request, Reading::Consistent).await?.value)
    }

    async fn pairs(&self, request: ReadKeyRequest, reading: Reading) -> Result<Answer<Vec<Pair>>, CallError> {
        let response = self.ask(&request, &[], Some(reading)).await?;
        let index = index_of(&response);
        if response.status() == 404 {
            return Ok(Answer { value: Vec::new(), index });
        }
        let pairs: Vec<KVPair> = parsed(&good(response)?)?;
        let pair = |pair: KVPair| {
            let value: Option<Result<Vec<u8>, _>> = pair.value.map(TryInto::try_into);
            let value =
                value.transpose().map_err(|error| CallError::Garbled(chain(&error)))?.unwrap_or_default();
            Ok(Pair { key: pair.key, value, index: pair.modify_index })
        };
        Ok(Answer { value: pairs.into_iter().map(pair).collect::<Result<_, CallError>>()?, index })
    }

    /// All of these operations or none.
    pub(super) async fn transaction(&self, operations: Vec<Operation>) -> Result<Outcome, CallError> {
        let step = |operation| {
            let kv = match operation {
                Operation::Replace(key, value, index) => {
                    KvStep { verb: "cas", key, value: Some(STANDARD.encode(value)), index: Some(index) }
                }
                Operation::Set(key, value) => {
                    KvStep { verb: "set", key, value: Some(STANDARD.encode(value)), index: None }
                }
                Operation::Delete(key) => KvStep { verb: "delete", key, value: None, index: None },
            };
            Step { kv }
        };
        let request = Transaction(operations.into_iter().map(step).collect());
        let response = self.ask(&request, &[], None).await?;
        if response.status() == 409 {
            let text = text_of(&response);
            // A transaction that is not permitted is a conflict for Consul, too.
            let refused = text.contains("Permission denied") || text.contains("lacks permission");
            return if refused { Err(CallError::Refused(text)) } else { Ok(Outcome::Stale) };
        }
        let answer: TransactionAnswer = parsed(&good(response)?)?;
        let first = answer.results.into_iter().flatten().next().and_then(|step| step.kv);
        Ok(Outcome::Done(first.map_or(0, |pair| pair.modify_index)))
    }

    /// Reads something at a path.
    pub(super) async fn get<T: DeserializeOwned + Send + Sync>(
        &self,
        path: impl Into<String>,
        filter: Option<&str>,
        reading: Reading,
    ) -> Result<Answer<T>, CallError> {
        let request = Get::<T> { path: path.into(), answer: PhantomData };
        self.list(&request, filter, reading).await
    }

    /// Asks an endpoint that lists something.
    pub(super) async fn list<E: Endpoint>(
        &self,
        endpoint: &E,
        filter: Option<&str>,
        reading: Reading,
    ) -> Result<Answer<E::Response>, CallError> {
        let filter: Vec<_> = filter.map(|filter| ("filter", filter.to_owned())).into_iter().collect();
        let response = self.ask(endpoint, &filter, Some(reading)).await?;
        let index = index_of(&response);
        Ok(Answer { value: parsed(&good(response)?)?, index })
    }

    /// Tells an endpoint that answers nothing of interest.
    pub(super) async fn tell<E: Endpoint>(
        &self,
        endpoint: &E,
        query: &[(&'static str, String)],
    ) -> Result<(), CallError> {
        good(self.ask(endpoint, query, None).await?).map(drop)
    }

    async fn ask<E: Endpoint>(
        &self,
        endpoint: &E,
        query: &[(&'static str, String)],
        reading: Option<Reading>,
    ) -> Result<Response<Vec<u8>>, CallError> {
        let garbled = |error: ClientError| CallError::Garbled(chain(&error));
        let mut request = endpoint.request(self.transport.base()).map_err(garbled)?;
        let mut pairs: Vec<(&str, String)> = self.always.iter().chain(query).cloned().collect();
        match reading {
            Some(Reading::Consistent) => pairs.push(("consistent", String::new())),
            Some(Reading::After(index)) => {
                pairs.push(("consistent", String::new()));
                pairs.push(("index", index.to_string()));
                pairs.push(("wait", format!("{}ms", self.wait.as_millis())));
                // Consul adds up to a sixteenth, so that not all come back at once.
                let patience = self.wait + self.wait / 16 + self.timeout.min(Duration::from_secs(5));
                request.extensions_mut().insert(Patience(patience));
            }
            Some(Reading::Default) | None => {}
        }
        *request.uri_mut() = with_query(request.uri(), &pairs)?;
        self.transport.execute(request).await.map_err(|error| CallError::Unanswered(chain(&error)))
    }
}

/// An address with more in its query.
fn with_query(uri: &Uri, pairs: &[(&str, String)]) -> Result<Uri, CallError> {
    let mut text = uri.to_string();
    for (at, (name, value)) in pairs.iter().enumerate() {
        text.push(if at == 0 && uri.query().is_none() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text.parse().map_err(|error: http_0_2::uri::InvalidUri| CallError::Garbled(error.to_string()))
}

fn index_of(response: &Response<Vec<u8>>) -> u64 {
    let index = response.headers().get("x-consul-index").and_then(|index| index.to_str().ok());
    index.and_then(|index| index.parse().ok()).unwrap_or(0)
}

/// The answer's body, if it is good news.
fn good(response: Response<Vec<u8>>) -> Result<Vec<u8>, CallError> {
    match response.status().as_u16() {
        200..=299 => Ok(response.into_body()),
        status @ (401 | 403) => {
            Err(CallError::Refused(format!("Consul answered {status}: {}", text_of(&response))))
        }
        status => Err(CallError::Failed(status, text_of(&response))),
    }
}

fn text_of(response: &Response<Vec<u8>>) -> String {
    let body = response.body();
    String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).trim().to_owned()
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| CallError::Garbled(error.to_string()))
}

/// An error with what caused it: the words that help stand at the end of the chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
