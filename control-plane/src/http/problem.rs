//! Errors as problem details (RFC 9457).

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use waypost_proto::error::{Error, Problem, Violation};

/// A request that is not answered with what it asked for.
#[derive(Debug)]
pub(super) struct Refusal(Problem);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error.problem())
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Error::from(violation).into()
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
    Refusal(problem(StatusCode::NOT_FOUND, "not_found", detail))
}

/// There is something at this path, but it can only be read.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    let detail = format!("{method} does nothing at {}; GET reads it, and gRPC changes things", uri.path());
    let refusal = Refusal(problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail));
    ([(header::ALLOW, HeaderValue::from_static("GET, HEAD"))], refusal).into_response()
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
