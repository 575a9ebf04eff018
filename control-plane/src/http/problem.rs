//! Errors as problem details (RFC 9457).

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use waypost_proto::error::{Error, Problem, Violation};

/// A request that is not answered with what it asked for.
#[derive(Debug)]
pub(super) struct Refusal(Box<Problem>);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(Box::new(error.problem()))
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Error::from(violation).into()
    }
}

impl Refusal {
    /// A problem that has no error code of its own.
    pub(super) fn plain(status: StatusCode, code: &str, detail: String) -> Self {
        Self(Box::new(problem(status, code, detail)))
    }

    /// Bad input answered with 422 instead of 400, for clients that know it so.
    pub(super) fn unprocessable(mut self) -> Self {
        if self.0.status == StatusCode::BAD_REQUEST.as_u16() {
            self.0.status = StatusCode::UNPROCESSABLE_ENTITY.as_u16();
        }
        self
    }

    /// The body cannot be read: it is too large, or the client has gone.
    pub(super) fn unreadable(status: StatusCode, detail: String) -> Self {
        Self::plain(status, "unreadable_body", detail)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// There is nothing at this path.
pub(super) async fn no_such_path(uri: Uri) -> Refusal {
    let detail = format!("there is nothing at {}; / lists what there is", uri.path());
    Refusal::plain(StatusCode::NOT_FOUND, "not_found", detail)
}

/// There is something at this path, but not for this method; the router adds for which.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let detail = format!("{method} does nothing at {}; / lists what does", uri.path());
    Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

fn problem(status: StatusCode, code: &str, detail: String) -> Problem {
    Problem {
        kind: format!("urn:waypost:error:{code}"),
        title: code.replace('_', " "),
        status: status.as_u16(),
        detail,
        code: code.to_owned(),
        violations: Vec::new(),
    }
}
