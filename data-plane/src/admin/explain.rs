//! `/explain`: why a request would go where it goes. Nothing is sent, and nothing that is served changes.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `url` | `http://host/path?query`, or a path alone; needed |
//! | `method` | GET where it is missing |
//! | `header` | `name:value`; may be there more than once |
//! | `port` | the listener's port; where it is missing the URL's (443 or 80 where it names none), if a listener has that, or else the proxy's own |
//! | `revision` | by the routing of an older revision that is kept; else by the current table |
//!
//! The request is looked at as of a client that is not trusted, after what is done to every request before it is matched:
//! fields of one hop are gone, `x-forwarded-*` are the proxy's own (of the client's address `unknown`). It came over TLS
//! where the URL begins with `https`, or with no scheme and the listeners for the host speak TLS alone.
//!
//! With `POST` the body is a `waypost.v1.Preview` as JSON, which the control plane answers a dry run with: the request is
//! explained by the current table with these entries in place.

use axum::{
    Json,
    body::Bytes,
    extract::{RawQuery, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::CONTENT_TYPE,
    uri::{PathAndQuery, Scheme},
};
use serde::Serialize;
use waypost_proto::{
    error::{Error, ErrorCode},
    v1::{InstanceKey, Preview, ServiceKey},
};

use super::{Admin, problem};
use crate::{
    forward::{host_of, https_only},
    headers::{self, Sender},
    table::{
        NotKept, Served, Table,
        declared::{
            RequestView,
            explain::{Explanation, explain, is_https_only},
        },
        path,
    },
};

/// The most bytes that a preview may have.
pub(super) const LARGEST_PREVIEW: usize = 4 << 20;

/// What is answered.
#[derive(Debug, Serialize)]
struct Explained {
    /// The revision by whose table it is explained.
    revision: u64,
    /// Whether that table is served by now.
    current: bool,
    /// What was put in place before.
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<PreviewReport>,
    #[serde(flatten)]
    explanation: Explanation,
}

/// What a preview puts in place.
#[derive(Debug, Serialize)]
struct PreviewReport {
    /// The revision that it is the difference from.
    revision: u64,
    /// The entries that are new or changed.
    changed: Vec<String>,
    /// The entries that are gone.
    removed: Vec<String>,
}

impl PreviewReport {
    fn of(preview: &Preview) -> Self {
        let removals = preview.removals.clone().unwrap_or_default();
        let changed = preview.declared.iter().map(|entry| entry.id.clone());
        let changed = changed.chain(preview.withheld.iter().cloned());
        let instances = preview.instances.iter().filter_map(|instance| instance.key.as_ref());
        Self {
            revision: preview.revision,
            changed: changed.chain(named(&preview.services, instances)).collect(),
            removed: removals
                .declared
                .iter()
                .cloned()
                .chain(named(&removals.services, removals.instances.iter()))
                .collect(),
        }
    }
}

/// Services and instances, named as entries are.
fn named<'a>(
    services: &'a [ServiceKey],
    instances: impl Iterator<Item = &'a InstanceKey> + 'a,
) -> impl Iterator<Item = String> + 'a {
    let service = |key: &ServiceKey| format!("service/{}/{}", key.namespace, key.name);
    let instance = |key: &InstanceKey| format!("instance/{}/{}/{}", key.namespace, key.service, key.id);
    services.iter().map(service).chain(instances.map(instance))
}

/// `GET /explain`
pub(super) async fn get(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    answered(admin, query, None).await
}

/// `POST /explain`
pub(super) async fn post(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    // A page of another site cannot send this type without being asked for permission first.
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return problem(&invalid(format!("content-type {kind:?}: must be application/json")));
    }
    match body {
        Ok(body) => answered(admin, query, Some(body)).await,
        Err(rejection) => problem(&invalid(format!(
            "the preview cannot be read: {}; it may have {LARGEST_PREVIEW} bytes: preview fewer manifests at once",
            rejection.body_text()
        ))),
    }
}

async fn answered(admin: Admin, query: Option<String>, preview: Option<Bytes>) -> Response {
    // The nearest misses are looked for among all routes, and a preview is compiled.
    let answer = tokio::task::spawn_blocking(move || {
        match explained(&admin, query.as_deref().unwrap_or_default(), preview.as_deref()) {
            Ok(explained) => Json(explained).into_response(),
            Err(error) => problem(&error),
        }
    });
    answer
        .await
        .unwrap_or_else(|_| problem(&Error::new(ErrorCode::Internal, "the request cannot be explained")))
}

fn explained(admin: &Admin, parameters: &str, preview: Option<&[u8]>) -> Result<Explained, Error> {
    let question = Question::of(parameters)?;
    let Served { table, is_current } = match (question.revision, preview) {
        (Some(_), Some(_)) => {
            let rule = "a preview is put into the current table; ask for an older revision with GET";
            return Err(invalid(format!("revision: {rule}")));
        }
        (Some(revision), None) => admin.table.at(revision).map_err(|refused| not_kept(&refused))?,
        (None, _) => {
            let table = admin.table.load().ok_or_else(no_table)?;
            Served { table, is_current: true }
        }
    };
    let revision = table.position().revision;
    let Some(body) = preview else {
        let explanation = question.answer(&table)?;
        return Ok(Explained { revision, current: is_current, preview: None, explanation });
    };
    let preview: Preview = serde_json::from_slice(body).map_err(|error| {
        invalid(format!("the preview is no waypost.v1.Preview that this proxy understands: {error}"))
    })?;
    let table = table.with(&preview).map_err(|error| invalid(error.to_string()))?;
    let explanation = question.answer(&table)?;
    Ok(Explained { revision, current: false, preview: Some(PreviewReport::of(&preview)), explanation })
}

fn no_table() -> Error {
    Error::new(ErrorCode::Unavailable, "there is no table yet; /readyz says why")
}

fn not_kept(refused: &NotKept) -> Error {
    match refused.current {
        Some(_) => Error::new(ErrorCode::NotFound, refused.to_string()),
        None => no_table(),
    }
}

/// A request that is asked about.
#[derive(Debug)]
struct Question {
    method: Method,
    scheme: Option<Scheme>,
    host: HeaderValue,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    port: Option<u16>,
    /// The URL's, or its scheme's.
    url_port: Option<u16>,
    revision: Option<u64>,
}

impl Question {
    /// Reads the parameters.
    ///
    /// # Errors
    /// Names the parameter that cannot be understood, or why the proxy would refuse the request.
    fn of(parameters: &str) -> Result<Self, Error> {
        let (mut method, mut url, mut headers) = (Method::GET, None, HeaderMap::new());
        let (mut port, mut revision) = (None, None);
        for (name, value) in form_urlencoded::parse(parameters.as_bytes()) {
            let refuse = |rule: &str| invalid(format!("{name}={value:?}: {rule}"));
            match &*name {
                "method" => {
                    method = Method::try_from(&*value).map_err(|_| refuse("is no HTTP method"))?;
                }
                "url" => url = Some(value.parse::<Uri>().map_err(|_| refuse("is no URL or path"))?),
                "port" => {
                    port = Some(
                        value
                            .parse::<u16>()
                            .map_err(|_| refuse("must be from 0 (the proxy's own) to 65535"))?,
                    );
                }
                "header" => {
                    let field = value.split_once(':').and_then(|(name, text)| {
                        let name = HeaderName::try_from(name.trim()).ok()?;
                        Some((name, HeaderValue::try_from(text.trim()).ok()?))
                    });
                    let (name, text) = field.ok_or_else(|| refuse("must be name:value"))?;
                    headers.append(name, text);
                }
                "revision" => {
                    revision =
                        Some(value.parse::<u64>().map_err(|_| refuse("must be a revision, such as 7"))?);
                }
                _ => return Err(refuse("is not known; there are url, method, header, port and revision")),
            }
        }
        let url = url.ok_or_else(|| invalid("url=http://HOST/PATH or url=/PATH is missing".to_owned()))?;
        // A question without a host is as a request of HTTP/1.0, which may do without.
        let host = host_of(&url, &headers, Version::HTTP_10).map_err(|answer| refused(answer.detail()))?;
        let by_scheme = match url.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        };
        let url_port = url.port_u16().or(by_scheme);
        let parts = url.into_parts();
        let target = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let path = path::normalised(target.path())
            .map_err(|error| refused(&format!("the path has {error}")))?
            .into_owned();
        let (scheme, query) = (parts.scheme, target.query().map(str::to_owned));
        Ok(Self { method, scheme, host, path, query, headers, port, url_port, revision })
    }

    /// Answers it.
    ///
    /// # Errors
    /// Why the proxy would refuse the request.
    fn answer(&self, table: &Table) -> Result<Explanation, Error> {
        let has_listener =
            |port: &u16| table.listeners().any(|listener| listener.entry.port == u32::from(*port));
        let port = self.port.or_else(|| self.url_port.filter(has_listener)).unwrap_or(0);
        let host = self.host.to_str().unwrap_or_default();
        let https_alone = is_https_only(table, port, host);
        let tls = self.scheme.as_ref().map_or(https_alone, |scheme| *scheme == Scheme::HTTPS);
        let mut fields = self.headers.clone();
        let address = HeaderValue::from_static("unknown");
        let sender = Sender { address: &address, trusted: false, tls, version: Version::HTTP_11 };
        headers::request(&mut fields, &sender, &self.host).map_err(|error| refused(&error.to_string()))?;
        if https_alone && !tls {
            return Err(refused(&https_only(host)));
        }
        let request = RequestView {
            method: &self.method,
            host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &fields,
            port,
        };
        Ok(explain(table, &request))
    }
}

/// What the proxy would not take from anybody.
fn refused(why: &str) -> Error {
    invalid(format!("the proxy answers 400: {why}"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}
