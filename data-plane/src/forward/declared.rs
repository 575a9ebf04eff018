//! A request that a rule of a declared route takes: whom the rule sends it to, and within which limits.
//!
//! The rule is that of the table which the request began with, whatever comes later. The instances behind its backend
//! are those of now: a request finds instances that came after it had begun.
//!
//! Deliberately absent: which rule takes it (see [`crate::table::declared`]); what rules say, in pure functions (see
//! [`crate::rule`]).

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Response, header::LOCATION};
use waypost_proto::reason::Reason;

use super::{Reply, attempt::Attempts, draft::Draft, mirror};
use crate::{
    answer::Answer,
    rule::{Asked, Caller, Cors, PREFLIGHT_STATUS, Redirect, Rule, RuleBackend, Scheme, Token, Visit},
    serve::RequestScope,
    table::{
        Table, Target,
        declared::{Backend, BackendRef, host_name},
    },
};

/// A rule, and the request that it takes.
pub(super) struct Taken<'a> {
    pub(super) scope: &'a RequestScope,
    /// The table that the rule is of.
    pub(super) table: &'a Table,
    pub(super) rule: &'a Rule,
    /// How many bytes of the path the rule's prefix has matched.
    pub(super) matched: usize,
}

impl<'a> Taken<'a> {
    /// Answers the request.
    pub(super) async fn serve(self, mut draft: Draft, attempts: Attempts<'a>) -> Result<Reply, Answer> {
        let answered = self.marked(&mut draft, attempts.by(self.rule)).await;
        if self.rule.grpc { answered.map_err(Answer::for_grpc) } else { answered }
    }

    /// Answers it, or says why not; in a way that scripts from elsewhere may read, where the rule allows that.
    async fn marked(&self, draft: &mut Draft, attempts: Attempts<'a>) -> Result<Reply, Answer> {
        let Some(cors) = &self.rule.filters.cors else { return self.answer(draft, attempts).await };
        if let Some(preflight) = preflight(cors, draft) {
            return Ok(preflight);
        }
        let caller = cors.caller(draft.headers());
        mark(cors, &caller, self.answer(draft, attempts).await)
    }

    async fn answer(&self, draft: &mut Draft, attempts: Attempts<'a>) -> Result<Reply, Answer> {
        if let Some(redirect) = &self.rule.filters.redirect {
            return self.redirect(redirect, None, draft);
        }
        let visit = self
            .rule
            .session
            .as_ref()
            .map(|session| session.visit(draft.headers(), draft.path(), SystemTime::now()));
        let backend = self.backend(visit.as_ref().and_then(Visit::token))?;
        let Some(cors) = &backend.filters.cors else {
            return self.ask(backend, visit, draft, attempts).await;
        };
        if let Some(preflight) = preflight(cors, draft) {
            return Ok(preflight);
        }
        let caller = cors.caller(draft.headers());
        mark(cors, &caller, self.ask(backend, visit, draft, attempts).await)
    }

    /// Asks a backend.
    async fn ask(
        &self,
        backend: &'a RuleBackend,
        visit: Option<Visit>,
        draft: &mut Draft,
        mut attempts: Attempts<'a>,
    ) -> Result<Reply, Answer> {
        if let Some(redirect) = &backend.filters.redirect {
            return self.redirect(redirect, Some(backend), draft);
        }
        let reference = self.reference(backend)?;
        let mut target = self.target(self.table, reference).ok_or_else(|| unknown(reference))?;
        attempts.admit(&target)?;
        if let Some(token) = visit.as_ref().and_then(Visit::token)
            && let Some(instance) =
                target.endpoints.members().iter().find(|instance| token.is(instance.key()))
        {
            attempts.prefer(Arc::clone(instance));
        }
        self.change_request(backend, draft);
        mirror::send(&self.scope.worker, &self.rule.filters.mirrors, draft);
        mirror::send(&self.scope.worker, &backend.filters.mirrors, draft);
        let (mut known, mut held) = (std::ptr::from_ref(self.table), None);
        let outcome = loop {
            if let Some(outcome) = attempts.run(&target, draft).await {
                break outcome;
            }
            // Nothing is left in the table that the request began with; there may be in the one of now.
            let nobody = attempts.nobody_left(&target);
            let current = self.scope.worker.table();
            let Some(current) = current.filter(|current| !std::ptr::eq(known, &raw const ***current)) else {
                if attempts.go_back() {
                    continue;
                }
                break attempts.spare_or(nobody);
            };
            known = &raw const **current;
            match self.target(held.insert(current), reference) {
                Some(found) => target = found,
                None => break attempts.spare_or(nobody),
            }
        };
        let mut answered = outcome?;
        self.change_response(Some(backend), answered.headers_mut());
        if let (Some(session), Some(visit)) = (&self.rule.session, &visit) {
            let tls = self.scope.client.tls().is_some();
            let (instance, headers) = answered.instance_and_headers();
            session.write(visit, reference, instance, tls, headers);
        }
        Ok(Reply::Instance(answered))
    }

    /// The backend that the client was sent to before, or else the one whose turn it is. A backend that has lost its
    /// weight keeps the clients of the instances that are there (GEP-1619, "Traffic Splitting").
    fn backend(&self, token: Option<&Token>) -> Result<&'a RuleBackend, Answer> {
        let backends = &self.rule.backends;
        let keeps = |backend: &RuleBackend, has_weight: bool, token: &Token| {
            backend.to.as_ref().is_ok_and(|to| token.is_for(to) && (has_weight || self.has(to, token)))
        };
        if let Some(token) = token
            && let Some((backend, _)) =
                backends.all().find(|(backend, has_weight)| keeps(backend, *has_weight, token))
        {
            return Ok(backend);
        }
        let place = backends.choose(|below| self.scope.worker.rng.borrow_mut().u64(..below));
        place.and_then(|place| backends.get(place)).ok_or_else(|| {
            let route = &self.rule.route_id;
            Answer::new(
                Reason::NoSuchBackend,
                format!("{route} has no backend with a weight in the rule for this request; name one in backendRefs"),
            )
        })
    }

    /// Whether the instance that a client was sent to before is there.
    fn has(&self, reference: &BackendRef, token: &Token) -> bool {
        let backend = self.table.backend(reference);
        backend.is_some_and(|backend| backend.endpoints.members().iter().any(|one| token.is(one.key())))
    }

    fn reference(&self, backend: &'a RuleBackend) -> Result<&'a BackendRef, Answer> {
        backend.to.as_ref().map_err(|why| {
            let route = &self.rule.route_id;
            Answer::new(
                Reason::NoSuchBackend,
                format!("{route} names a backend that nothing is sent to: {why}"),
            )
        })
    }

    /// Makes the request into what the backend gets.
    fn change_request(&self, backend: &RuleBackend, draft: &mut Draft) {
        let (all, its) = (&self.rule.filters, &backend.filters);
        all.change_request(draft.headers_mut());
        its.change_request(draft.headers_mut());
        if let Some(host) = its.host.as_ref().or(all.host.as_ref()) {
            draft.set_host(host.clone());
        }
        if let Some(path) = its.path.as_ref().or(all.path.as_ref()) {
            draft.set_target(path.apply(draft.target(), self.matched));
        }
    }

    /// Makes the answer's fields into what the client gets.
    fn change_response(&self, backend: Option<&RuleBackend>, headers: &mut HeaderMap) {
        if let Some(backend) = backend {
            backend.filters.change_response(headers);
        }
        self.rule.filters.change_response(headers);
    }

    fn redirect(
        &self,
        redirect: &Redirect,
        backend: Option<&RuleBackend>,
        draft: &Draft,
    ) -> Result<Reply, Answer> {
        let client = &self.scope.client;
        let asked = Asked {
            scheme: if client.tls().is_some() { Scheme::Https } else { Scheme::Http },
            hostname: host_name(draft.host()),
            port: client.listener_port(),
            target: draft.target(),
            matched: self.matched,
        };
        let location = redirect.location(&asked).ok_or_else(|| {
            let detail = format!("{} redirects to where no header field can point", self.rule.route_id);
            Answer::new(Reason::Internal, detail)
        })?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = redirect.status;
        response.headers_mut().insert(LOCATION, location);
        self.change_response(backend, response.headers_mut());
        Ok(Reply::Own(response))
    }

    fn target<'t>(&'t self, table: &'t Table, reference: &BackendRef) -> Option<Target<'t>> {
        let Backend { service, endpoints } = table.backend(reference)?;
        Some(Target { service, route_id: &self.rule.route_id, strip: 0, endpoints })
    }
}

/// The answer to a preflight, if the request is one.
fn preflight(cors: &Cors, draft: &Draft) -> Option<Reply> {
    let headers = cors.preflight(&draft.method, draft.headers())?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = PREFLIGHT_STATUS;
    *response.headers_mut() = headers;
    Some(Reply::Own(response))
}

/// Says in an answer who may read it.
fn mark(cors: &Cors, caller: &Caller, mut answered: Result<Reply, Answer>) -> Result<Reply, Answer> {
    match &mut answered {
        Ok(Reply::Instance(answered)) => cors.mark(caller, answered.headers_mut()),
        Ok(Reply::Own(response)) => cors.mark(caller, response.headers_mut()),
        Err(_) => {
            let mut marks = HeaderMap::new();
            cors.mark(caller, &mut marks);
            return answered.map_err(|answer| answer.marked(marks));
        }
    }
    answered
}

fn unknown(reference: &BackendRef) -> Answer {
    let service = &reference.service;
    Answer::new(
        Reason::NoSuchBackend,
        format!(
            "no service {service} is registered, which this route sends requests to; `waypost services` lists them"
        ),
    )
}
