//! `GET /explain`: why a request would go where it goes, by the table of this moment. Nothing is sent.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `url` | `http://host/path?query`, or a path alone; needed |
//! | `method` | GET where it is missing |
//! | `header` | `name:value`; may be there more than once |
//! | `port` | the listener's port; where it is missing the URL's, if a listener has that, or else the proxy's own |

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::HOST,
    uri::{Authority, PathAndQuery},
};
use waypost_proto::error::{Error, ErrorCode};

use crate::table::{
    Table,
    declared::{
        RequestView,
        explain::{Explanation, explain},
    },
    path,
};

/// A request that is asked about.
#[derive(Debug)]
pub(super) struct Question {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    port: Option<u16>,
    url_port: Option<u16>,
}

impl Question {
    /// Reads the parameters.
    ///
    /// # Errors
    /// Names the parameter that cannot be understood, or why the proxy would refuse the request.
    pub(super) fn of(parameters: &str) -> Result<Self, Error> {
        let (mut method, mut url, mut port, mut headers) = (Method::GET, None, None, HeaderMap::new());
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
                _ => return Err(refuse("is not known; there are url, method, header and port")),
            }
        }
        let url = url.ok_or_else(|| invalid("url=http://HOST/PATH or url=/PATH is missing".to_owned()))?;
        let field = headers.remove(HOST).and_then(|value| value.to_str().map(str::to_owned).ok());
        let host = url.authority().map(Authority::as_str).map(str::to_owned).or(field).unwrap_or_default();
        let url_port = url.port_u16();
        let target = url.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let path = path::normalised(target.path())
            .map_err(|error| invalid(format!("the proxy answers 400: the path has {error}")))?
            .into_owned();
        let query = target.query().map(str::to_owned);
        Ok(Self { method, host, path, query, headers, port, url_port })
    }

    /// Answers it.
    pub(super) fn answer(&self, table: &Table) -> Explanation {
        let has_listener =
            |port: &u16| table.listeners().any(|listener| listener.entry.port == u32::from(*port));
        let port = self.port.or_else(|| self.url_port.filter(has_listener)).unwrap_or(0);
        let request = RequestView {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            port,
        };
        explain(table, &request)
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}
