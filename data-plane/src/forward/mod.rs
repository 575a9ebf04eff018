//! One request, from its head to its answer.
//!
//! ```text
//! request ─▶ draft ─▶ find ─▶ pick ─▶ connect ─▶ send ─▶ answer ─▶ client
//!              │        │       ▲        │         │
//!              │        │       └─ again, elsewhere ┘   (retry: only what cannot have been done)
//!             400    404/405    └─ nothing left ─▶ 502, 503, 504 with the reason
//! ```
//!
//! Where a rule of a declared route takes the request, what the rule says comes between `find` and `pick`, and between
//! the answer and the client (see [`declared`]).
//!
//! Deliberately absent: `CONNECT`, which is for forward proxies, but for WebSocket; 1xx answers other than 100 and 101,
//! which hyper's server cannot send to clients that speak HTTP/1.1.

mod answered;
mod attempt;
mod body;
mod body_copy;
mod client_body;
mod declared;
mod draft;
mod entrance;
mod grpc_web;
mod measure;
mod mirror;
mod request_body;
mod retry;
mod tunnel;
mod watch;
mod websocket;

use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use waypost_proto::reason::Reason;

use self::{answered::Answered, attempt::Attempts, declared::Taken, draft::Draft};
pub(crate) use self::{
    body::ResponseBody,
    client_body::ClientBody,
    draft::host_of,
    entrance::https_only,
    mirror::MirrorPlaces,
    request_body::{BodyFailure, RequestBody},
};
use crate::{
    answer::{Answer, Manner},
    serve::{ClientConnection, RequestScope, Worker},
    table::{Found, Table, Target},
};

/// Answers a request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    client: Rc<ClientConnection>,
    request: Request<ClientBody>,
) -> Response<ResponseBody> {
    let scope = RequestScope::begin(worker, client);
    let manner = Manner::of(&request);
    match forward(&scope, request).await {
        Ok(Reply::Instance(answered)) => answered.into_response(scope),
        Ok(Reply::Own(response)) => {
            scope.set_status(response.status());
            response.map(|bytes| ResponseBody::own(bytes, scope))
        }
        Err(answer) => answer.into_response(manner, scope),
    }
}

/// An answer that is not a refusal.
enum Reply {
    /// An instance's.
    Instance(Answered),
    /// What a rule says, without asking anybody.
    Own(Response<Bytes>),
}

async fn forward(scope: &RequestScope, request: Request<ClientBody>) -> Result<Reply, Answer> {
    let worker = &scope.worker;
    let mut table = worker.table().ok_or_else(no_table)?;
    let mut draft = Draft::of(request, scope)?;
    entrance::check(&scope.client, table.edge(), draft.host())?;
    let mut attempts = Attempts::new(worker, scope.began());
    loop {
        let target = match find(scope, &table, &draft) {
            Ok(Taker::Route(target)) => target,
            // Boxed, so that it does not make every other request's future larger.
            Ok(Taker::Rule(taken)) => return Box::pin(taken.serve(draft, attempts)).await,
            // There may be an answer from before the route went.
            Err(answer) => return attempts.spare_or(answer).map(Reply::Instance),
        };
        attempts.admit(&target)?;
        if let Some(outcome) = attempts.run(&target, &mut draft).await {
            return outcome.map(Reply::Instance);
        }
        // Nothing is left in the table that the request began with; there may be in the one of now.
        let current = worker.table().ok_or_else(no_table)?;
        if Rc::ptr_eq(&table, &current) {
            if attempts.go_back() {
                continue;
            }
            return attempts.spare_or(attempts.nobody_left(&target)).map(Reply::Instance);
        }
        table = current;
    }
}

/// What takes a request.
enum Taker<'a> {
    Route(Target<'a>),
    Rule(Taken<'a>),
}

fn find<'a>(scope: &'a RequestScope, table: &'a Table, draft: &Draft) -> Result<Taker<'a>, Answer> {
    let (method, path) = (&draft.method, draft.path());
    match table.find(&draft.view(scope.client.port())) {
        Found::Route(target) => Ok(Taker::Route(target)),
        Found::Rule { rule, matched_prefix_len, .. } => {
            Ok(Taker::Rule(Taken { scope, table, rule, matched: matched_prefix_len }))
        }
        Found::MethodNotAllowed { allow } => {
            let methods = allow.join(", ");
            let detail = format!("no route takes {method} for {path}; it can be asked with {methods}");
            Err(Answer::method_not_allowed(detail, &allow))
        }
        Found::None => Err(Answer::new(
            Reason::NoRoute,
            format!(
                "no route matches {method} {path}; `waypost routes` lists what there is, and a service is reachable \
                 under its prefix as soon as one of its instances is registered"
            ),
        )),
    }
}

fn no_table() -> Answer {
    Answer::new(
        Reason::NoTable,
        "this proxy has not received a routing table yet; try again when its /readyz says that it is ready",
    )
}
