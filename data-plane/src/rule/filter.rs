//! What a rule or one of its backends does with requests and their answers, from the list of filters that was declared.
//!
//! A change of header fields and a mirror may stand there more than once; of the others the first one of a kind counts.

use http::{HeaderMap, HeaderValue};
use waypost_proto::v1::{self, RouteFilter, route_filter::Kind};

use super::{Cors, Mirror, RuleError, header::HeaderChange, path::PathChange, redirect::Redirect};

/// What is done with requests and answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    request_headers: Vec<HeaderChange>,
    response_headers: Vec<HeaderChange>,
    /// Answers with a redirect.
    pub(crate) redirect: Option<Redirect>,
    /// Answers preflights and marks answers for other origins.
    pub(crate) cors: Option<Cors>,
    /// Replaces the host.
    pub(crate) host: Option<HeaderValue>,
    /// Changes the path.
    pub(crate) path: Option<PathChange>,
    /// Who gets copies.
    pub(crate) mirrors: Vec<Mirror>,
}

impl Filters {
    pub(super) fn compile(filters: &[RouteFilter]) -> Result<Self, RuleError> {
        let mut compiled = Self::default();
        for (at, filter) in filters.iter().enumerate() {
            compiled.take(filter).map_err(|error| error.within(&format!("filters[{at}]")))?;
        }
        Ok(compiled)
    }

    fn take(&mut self, filter: &RouteFilter) -> Result<(), RuleError> {
        match &filter.kind {
            Some(Kind::RequestHeaders(change)) => self.request_headers.push(HeaderChange::compile(change)?),
            Some(Kind::ResponseHeaders(change)) => self.response_headers.push(HeaderChange::compile(change)?),
            Some(Kind::Redirect(redirect)) => {
                let redirect = Redirect::compile(redirect)?;
                self.redirect.get_or_insert(redirect);
            }
            Some(Kind::Rewrite(rewrite)) => self.rewrite(rewrite)?,
            Some(Kind::Cors(cors)) => {
                let cors = Cors::compile(cors).map_err(|error| RuleError::new("cors", error.to_string()))?;
                self.cors.get_or_insert(cors);
            }
            Some(Kind::Mirror(mirror)) => self.mirrors.push(Mirror::compile(mirror)?),
            // What is not known may not be left out: it may be what keeps somebody out.
            None => return Err(RuleError::new("kind", "is not known to this version")),
        }
        Ok(())
    }

    fn rewrite(&mut self, rewrite: &v1::Rewrite) -> Result<(), RuleError> {
        if !rewrite.hostname.is_empty() {
            let host = HeaderValue::try_from(&rewrite.hostname)
                .map_err(|_| RuleError::new("hostname", format!("cannot be {:?}", rewrite.hostname)))?;
            self.host.get_or_insert(host);
        }
        let path = rewrite.path.as_ref().map(PathChange::compile).transpose()?.flatten();
        self.path = self.path.take().or(path);
        Ok(())
    }

    /// Changes a request's fields.
    pub(crate) fn change_request(&self, headers: &mut HeaderMap) {
        self.request_headers.iter().for_each(|change| change.apply(headers));
    }

    /// Changes an answer's fields.
    pub(crate) fn change_response(&self, headers: &mut HeaderMap) {
        self.response_headers.iter().for_each(|change| change.apply(headers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_wrong_or_not_known_is_named_by_its_place() {
        let filter = |kind| RouteFilter { kind: Some(kind) };
        let fine = filter(Kind::Rewrite(v1::Rewrite { hostname: "a.example".to_owned(), path: None }));
        let redirect = filter(Kind::Redirect(v1::Redirect { status: 200, ..v1::Redirect::default() }));
        let host = filter(Kind::Rewrite(v1::Rewrite { hostname: "a\nb".to_owned(), path: None }));
        for (bad, field) in [
            (RouteFilter { kind: None }, "filters[1].kind"),
            (redirect, "filters[1].status"),
            (host, "filters[1].hostname"),
        ] {
            let error = Filters::compile(&[fine.clone(), bad]).expect_err("it is wrong");
            assert_eq!(error.field, field);
        }
    }
}
