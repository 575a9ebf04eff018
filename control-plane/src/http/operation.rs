//! What the API offers, one [`Operation`] each: the router, the index and the OpenAPI document are made of them, so that
//! nothing is served that is not documented, and no parameter is taken that is not.
//!
//! Deliberately absent: the table itself, which is `table`.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::{self, Next},
    response::IntoResponse,
    routing::MethodRouter,
};
use serde_json::Value;
use waypost_proto::error::ErrorCode;

use super::{problem::Refusal, query::Parameters};
use crate::server::Plane;

/// Something that can be asked for.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// What generated clients call it.
    pub(super) id: &'static str,
    /// What it does, in a sentence.
    pub(super) summary: &'static str,
    /// What stands in the query.
    pub(super) query: &'static [Parameter],
    pub(super) body: Option<Content>,
    pub(super) status: StatusCode,
    pub(super) answer: Content,
    /// How it fails, beside what every operation may fail by.
    pub(super) problems: &'static [ErrorCode],
    /// What bad input is answered with.
    pub(super) refusal: StatusCode,
    serve: Serve,
}

type Serve = fn() -> MethodRouter<Arc<Plane>>;

/// A body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// A message of the contract, by its name.
    Message(&'static str),
    /// The same without its `key`, which the path gives.
    MessageWithoutKey(&'static str),
    /// Such messages, one on each line.
    Lines(&'static str),
    /// Text of a kind.
    Text(&'static str, &'static str),
    /// JSON that is no message of the contract, by its schema.
    Json(fn() -> Value),
}

/// A query parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) about: &'static str,
    /// Whether it may come more than once.
    pub(super) repeats: bool,
    pub(super) required: bool,
}

/// What a parameter's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Number,
    Duration,
    Time,
    State,
}

impl Parameter {
    pub(super) const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, kind, about, repeats: false, required: false }
    }

    pub(super) const fn repeats(self) -> Self {
        Self { repeats: true, ..self }
    }

    pub(super) const fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

impl Operation {
    pub(super) const fn new(
        (method, path): (&'static str, &'static str),
        id: &'static str,
        summary: &'static str,
        answer: Content,
        serve: Serve,
    ) -> Self {
        Self {
            method,
            path,
            id,
            summary,
            query: &[],
            body: None,
            status: StatusCode::OK,
            answer,
            problems: &[],
            refusal: StatusCode::BAD_REQUEST,
            serve,
        }
    }

    pub(super) const fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    pub(super) const fn takes(self, body: Content) -> Self {
        Self { body: Some(body), ..self }
    }

    pub(super) const fn creates(self) -> Self {
        Self { status: StatusCode::CREATED, ..self }
    }

    pub(super) const fn fails(self, problems: &'static [ErrorCode]) -> Self {
        Self { problems, ..self }
    }

    /// Answers bad input as Tapper does.
    pub(super) const fn unprocessable(self) -> Self {
        Self { refusal: StatusCode::UNPROCESSABLE_ENTITY, ..self }
    }

    /// Whether it changes something.
    pub(super) fn writes(&self) -> bool {
        self.method != "GET"
    }
}

/// Serves all of these.
pub(super) fn router(operations: &'static [Operation]) -> Router<Arc<Plane>> {
    operations.iter().fold(Router::new(), |router, operation| {
        let check = middleware::from_fn(move |request: Request, next: Next| async move {
            match Parameters::of(request.uri()).and_then(|given| given.check(operation.query)) {
                Ok(()) => next.run(request).await,
                Err(violation) => Refusal::from(violation).into_response(),
            }
        });
        router.route(operation.path, (operation.serve)().route_layer(check))
    })
}
