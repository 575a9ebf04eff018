//! Query parameters: each is known and has a good value, or the request is refused.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, Query},
    http::{Uri, request::Parts},
};
use waypost_proto::error::Violation;

use super::{operation::Parameter, problem::Refusal};

/// The parameters of a request, in order.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        Ok(Self::of(&parts.uri)?)
    }
}

impl Parameters {
    /// The parameters of a request.
    ///
    /// # Errors
    /// The query is none.
    pub(super) fn of(uri: &Uri) -> Result<Self, Violation> {
        Query::try_from_uri(uri).map(|Query(pairs)| Self(pairs)).map_err(|_| {
            let query = uri.query().unwrap_or_default();
            Violation::new("query", query, "must be NAME=VALUE pairs joined by '&', percent-encoded")
        })
    }

    /// Refuses what is not `known`, with the nearest name that is, and what comes more than once though it may not.
    pub(super) fn check(&self, known: &[Parameter]) -> Result<(), Violation> {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let Some(parameter) = known.iter().find(|known| known.name == name) else {
                let names: Vec<&str> = known.iter().map(|known| known.name).collect();
                return Err(Violation::new(name, value, unknown(name, &names)));
            };
            let before = self.0[..at].iter().any(|(other, _)| other == name);
            if before && !parameter.repeats {
                return Err(Violation::new(name, value, "must be given once"));
            }
        }
        Ok(())
    }

    /// A parameter's value; empty where it is not given.
    pub(super) fn text(&self, name: &str) -> String {
        self.all(name).next().unwrap_or_default()
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.clone())
    }

    /// A number; 0 where it is not given.
    pub(super) fn number<N: std::str::FromStr + Default>(&self, name: &str) -> Result<N, Violation> {
        match self.text(name) {
            text if text.is_empty() => Ok(N::default()),
            text => {
                text.parse().map_err(|_| Violation::new(name, &text, "must be a whole number, 0 or more"))
            }
        }
    }

    /// A switch: off where it is not given, on where it has no value.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Violation> {
        match self.all(name).next().as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(Violation::new(name, other, "must be true or false")),
        }
    }

    /// A length of time; `None` where it is not given.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Violation> {
        match self.text(name) {
            text if text.is_empty() => Ok(None),
            text => humantime::parse_duration(&text).map(Some).map_err(|_| {
                Violation::new(name, &text, "must be a length of time, for example \"10s\" or \"500ms\"")
            }),
        }
    }
}

/// The one that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|other| (strsim::jaro_winkler(name, other), *other));
    let similar = scored.filter(|(likeness, _)| *likeness > 0.8);
    similar.max_by(|left, right| left.0.total_cmp(&right.0)).map(|(_, nearest)| nearest)
}

fn unknown(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("is not a parameter here; did you mean {nearest:?}?"),
        None if known.is_empty() => "is not a parameter here; there are none".to_owned(),
        None => format!("is not a parameter here; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::operation::Kind;

    fn parameters(query: &str) -> Parameters {
        Parameters::of(&format!("/?{query}").parse().expect("a URI")).expect("a query")
    }

    fn parameter(name: &'static str) -> Parameter {
        Parameter::new(name, Kind::Text, "")
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_the_nearest_one() {
        let known = ["namespace", "service"].map(parameter);
        let refused = parameters("namespcae=x").check(&known).expect_err("a slip");
        assert_eq!(refused.rule, "is not a parameter here; did you mean \"namespace\"?");
        let refused = parameters("q=x").check(&known).expect_err("something else");
        assert_eq!(refused.rule, "is not a parameter here; there are namespace, service");
        let refused = parameters("q=x").check(&[]).expect_err("nothing is known");
        assert_eq!(refused.rule, "is not a parameter here; there are none");
    }

    #[test]
    fn a_parameter_comes_once_unless_it_may_repeat() {
        let twice = parameters("tag=a&tag=b%20c");
        assert_eq!(twice.check(&[parameter("tag").repeats()]), Ok(()));
        assert_eq!(twice.all("tag").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(twice.check(&[parameter("tag")]).expect_err("it may not").value, "b c");
    }

    #[test]
    fn switches_and_lengths_of_time_are_checked() {
        for (query, on) in [("", false), ("dry_run", true), ("dry_run=true", true), ("dry_run=false", false)]
        {
            assert_eq!(parameters(query).flag("dry_run"), Ok(on), "{query}");
        }
        assert_eq!(parameters("dry_run=1").flag("dry_run").expect_err("no switch").value, "1");
        assert_eq!(parameters("").duration("wait"), Ok(None));
        assert_eq!(parameters("wait=500ms").duration("wait"), Ok(Some(Duration::from_millis(500))));
        assert_eq!(parameters("wait=5").duration("wait").expect_err("5 what?").value, "5");
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!(parameters("").number::<u32>("limit"), Ok(0));
        assert_eq!(parameters("limit=7").number::<u32>("limit"), Ok(7));
        for bad in ["limit=-1", "limit=x", "limit=4294967296"] {
            assert_eq!(parameters(bad).number::<u32>("limit").expect_err(bad).field, "limit");
        }
    }
}
