//! Redirects (Gateway API, `HTTPRequestRedirectFilter`). What is not named stays as the request has it, but for the
//! port: without one, a scheme that is named goes to its own port, and else the listener's stays. A port that is the
//! scheme's own is left out.

use http::{HeaderValue, StatusCode, uri::PathAndQuery};
use waypost_proto::v1;

use super::{RuleError, path::PathChange};

/// What `Location` can say of how to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    scheme: Option<Scheme>,
    hostname: Option<Box<str>>,
    path: Option<PathChange>,
    port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub(crate) status: StatusCode,
}

/// What of a request a redirect goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// What it came by.
    pub(crate) scheme: Scheme,
    /// The host that it is for, without a port; empty where HTTP/1.0 names none.
    pub(crate) hostname: &'a str,
    /// The listener's port.
    pub(crate) port: u16,
    /// Its path and query.
    pub(crate) target: &'a PathAndQuery,
    /// How many bytes of the path the rule's prefix has matched.
    pub(crate) matched: usize,
}

impl Scheme {
    fn of(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| scheme.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn own_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Redirect {
    pub(super) fn compile(wire: &v1::Redirect) -> Result<Self, RuleError> {
        let wrong =
            |field: &str, what: &dyn std::fmt::Display| RuleError::new(field, format!("cannot be {what}"));
        let scheme = Some(wire.scheme.as_str()).filter(|scheme| !scheme.is_empty());
        let scheme = scheme.map(|text| Scheme::of(text).ok_or_else(|| wrong("scheme", &text))).transpose()?;
        if HeaderValue::try_from(wire.hostname.as_str()).is_err() {
            return Err(wrong("hostname", &wire.hostname));
        }
        let port = u16::try_from(wire.port).map_err(|_| wrong("port", &wire.port))?;
        let status = u16::try_from(wire.status).ok().filter(|status| matches!(status, 301..=303 | 307 | 308));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        Ok(Self {
            scheme,
            hostname: Some(wire.hostname.as_str()).filter(|hostname| !hostname.is_empty()).map(Box::from),
            path: wire.path.as_ref().map(PathChange::compile).transpose()?.flatten(),
            port: Some(port).filter(|port| *port != 0),
            status: status.ok_or_else(|| wrong("status", &wire.status))?,
        })
    }

    /// What `Location` says. A request that names no host is sent to a path on the one that it has reached.
    pub(crate) fn location(&self, asked: &Asked<'_>) -> Option<HeaderValue> {
        let changed = self.path.as_ref().map(|path| path.apply(asked.target, asked.matched));
        let target = changed.as_ref().unwrap_or(asked.target);
        let hostname = self.hostname.as_deref().unwrap_or(asked.hostname);
        if hostname.is_empty() {
            return HeaderValue::try_from(target.as_str()).ok();
        }
        let scheme = self.scheme.unwrap_or(asked.scheme);
        let port = self.port.unwrap_or_else(|| self.scheme.map_or(asked.port, Scheme::own_port));
        let port = if port == scheme.own_port() { String::new() } else { format!(":{port}") };
        HeaderValue::try_from(format!("{}://{hostname}{port}{target}", scheme.name())).ok()
    }
}

#[cfg(test)]
mod tests {
    use waypost_proto::v1::path_change::Kind;

    use super::*;

    const FOUND: v1::Redirect =
        v1::Redirect { scheme: String::new(), hostname: String::new(), path: None, port: 0, status: 302 };

    /// Where a request for `/foo/bar?x=1` is sent, which came by the listener at this port.
    fn location(scheme: Scheme, port: u16, redirect: &v1::Redirect) -> String {
        let target = PathAndQuery::from_static("/foo/bar?x=1");
        let asked = Asked { scheme, hostname: "a.example", port, target: &target, matched: 4 };
        let location = Redirect::compile(redirect).expect("sound").location(&asked).expect("a location");
        location.to_str().expect("text").to_owned()
    }

    #[test]
    fn if_redirect_scheme_is_not_empty_the_port_is_the_well_known_port_of_the_scheme() {
        let to = |scheme: &str| v1::Redirect { scheme: scheme.to_owned(), ..FOUND };
        assert_eq!(location(Scheme::Http, 8080, &to("https")), "https://a.example/foo/bar?x=1");
        assert_eq!(location(Scheme::Https, 8443, &to("http")), "http://a.example/foo/bar?x=1");
        assert_eq!(location(Scheme::Http, 8080, &to("http")), "http://a.example/foo/bar?x=1");
    }

    #[test]
    fn if_redirect_scheme_is_empty_the_port_is_the_listener_s() {
        let to = || v1::Redirect { hostname: "b.example".to_owned(), ..FOUND };
        assert_eq!(location(Scheme::Http, 8080, &to()), "http://b.example:8080/foo/bar?x=1");
        assert_eq!(location(Scheme::Https, 8443, &to()), "https://b.example:8443/foo/bar?x=1");
    }

    #[test]
    fn the_port_is_left_out_where_http_uses_80_and_https_uses_443() {
        let to = |scheme: &str, port| v1::Redirect { scheme: scheme.to_owned(), port, ..FOUND };
        assert_eq!(location(Scheme::Http, 80, &FOUND), "http://a.example/foo/bar?x=1");
        assert_eq!(location(Scheme::Https, 443, &FOUND), "https://a.example/foo/bar?x=1");
        assert_eq!(location(Scheme::Http, 443, &FOUND), "http://a.example:443/foo/bar?x=1");
        assert_eq!(location(Scheme::Http, 8080, &to("", 80)), "http://a.example/foo/bar?x=1");
        assert_eq!(location(Scheme::Http, 8080, &to("https", 443)), "https://a.example/foo/bar?x=1");
        assert_eq!(location(Scheme::Http, 8080, &to("https", 80)), "https://a.example:80/foo/bar?x=1");
        assert_eq!(location(Scheme::Https, 443, &to("http", 8080)), "http://a.example:8080/foo/bar?x=1");
    }

    #[test]
    fn the_path_is_changed_as_by_a_rewrite() {
        let to = |kind| v1::Redirect { path: Some(v1::PathChange { kind: Some(kind) }), ..FOUND };
        assert_eq!(
            location(Scheme::Http, 80, &to(Kind::Full("/new".to_owned()))),
            "http://a.example/new?x=1"
        );
        assert_eq!(
            location(Scheme::Http, 80, &to(Kind::Prefix("/new/".to_owned()))),
            "http://a.example/new/bar?x=1"
        );
        assert_eq!(location(Scheme::Http, 80, &to(Kind::Prefix(String::new()))), "http://a.example/bar?x=1");
    }

    #[test]
    fn a_request_without_a_host_is_sent_to_a_path() {
        let target = PathAndQuery::from_static("/a");
        let asked = Asked { scheme: Scheme::Http, hostname: "", port: 80, target: &target, matched: 0 };
        assert_eq!(Redirect::compile(&FOUND).expect("sound").location(&asked).expect("a location"), "/a");
    }

    #[test]
    fn what_cannot_be_is_named() {
        let named =
            |redirect: v1::Redirect| Redirect::compile(&redirect).map(|_| ()).map_err(|error| error.field);
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(named(v1::Redirect { status, ..FOUND }), Ok(()));
        }
        for status in [0, 200, 300, 304, 306, 309, 65837] {
            assert_eq!(named(v1::Redirect { status, ..FOUND }), Err("status".to_owned()));
        }
        assert_eq!(named(v1::Redirect { scheme: "ftp".to_owned(), ..FOUND }), Err("scheme".to_owned()));
        assert_eq!(named(v1::Redirect { port: 65536, ..FOUND }), Err("port".to_owned()));
        assert_eq!(named(v1::Redirect { hostname: "a\nb".to_owned(), ..FOUND }), Err("hostname".to_owned()));
    }
}
