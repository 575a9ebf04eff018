//! One request, from its head to its answer.
//!
//! ```text
//! request ─▶ draft ─▶ find ─▶ pick ─▶ connect ─▶ send ─▶ answer ─▶ client
//!              │        │       ▲        │         │
//!              │        │       └─ again, elsewhere ┘   (retry: only what cannot have been done)
//!             400    404/405    └─ nothing left ─▶ 502, 503, 504 with the reason
//! ```
//!
//! Deliberately absent: filters and policies, which belong between `find` and `pick`; `CONNECT`, which is for
//! forward proxies; 1xx answers other than 100 and 101, which hyper's server cannot send.

mod attempt;
mod body;
mod draft;
mod request_body;
mod retry;

use std::{convert::Infallible, rc::Rc};

use http::{Request, Response};
use hyper::body::Incoming;
use waypost_proto::reason::Reason;

use self::{
    attempt::{Answered, Attempts},
    draft::Draft,
};
pub(crate) use self::{
    body::ResponseBody,
    request_body::{BodyFailure, RequestBody},
};
use crate::{
    answer::{Answer, Manner},
    serve::{ClientConnection, RequestScope, Worker},
    table::{Found, Table, Target, path},
};

/// Answers a request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    client: Rc<ClientConnection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let scope = RequestScope::begin(worker, client);
    let manner = Manner::of(&request);
    Ok(match forward(&scope, request).await {
        Ok(answered) => answered.into_response(scope),
        Err(answer) => answer.into_response(manner, scope),
    })
}

async fn forward(scope: &RequestScope, request: Request<Incoming>) -> Result<Answered, Answer> {
    let worker = &scope.worker;
    let mut table = worker.table().ok_or_else(no_table)?;
    let mut draft = Draft::of(request, scope)?;
    let mut attempts = Attempts::new(scope);
    loop {
        let target = find(&table, &draft)?;
        if let Some(outcome) = attempts.run(&target, &mut draft).await {
            return outcome;
        }
        // Nothing is left in the table that the request began with; there may be in the one of now.
        let current = worker.table().ok_or_else(no_table)?;
        if Rc::ptr_eq(&table, &current) {
            return Err(attempts.exhausted(&target));
        }
        table = current;
    }
}

fn find<'a>(table: &'a Table, draft: &Draft) -> Result<Target<'a>, Answer> {
    let (method, path) = (&draft.method, draft.path());
    match table.find(method, path) {
        Found::Route(target) => Ok(target),
        Found::MethodNotAllowed { allow } => {
            let methods = allow.join(", ");
            let detail = format!("no route takes {method} for {path}; it can be asked with {methods}");
            Err(Answer::method_not_allowed(detail, &allow))
        }
        Found::None if !path::is_safe(path) => Err(Answer::new(
            Reason::BadRequest,
            format!(
                "the path {path} has a \".\" or \"..\" segment, which is not forwarded; send it resolved"
            ),
        )),
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
