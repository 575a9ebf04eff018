//! Session persistence (GEP-1619): a client stays with the instance that it was sent to first.
//!
//! ```text
//! request ─▶ visit ─▶ token of an earlier answer? ─▶ the backend and the instance that it names, if they are there
//!                        └ none, too old, garbage  ─▶ as the weights and the balancer choose
//! answer ◀─ write ◀───────────────────────────────────┘ only where the token is new, or its idle time begins anew
//! ```
//!
//! Proxies keep nothing: all is in the token, as a cookie or a field of the client's. It names the backend and the
//! instance by hashes, so that it tells nobody their names or addresses, and any proxy that has the route finds them
//! by comparing. The hashes take in the rule and the times, so that sessions of two rules are never one, and a token
//! whose times were changed names nothing.
//!
//! A token is no secret and gives no right: who forges one chooses an instance, which can be had by asking again, too.
//!
//! Deliberately absent: the instance's lease, since a session outlives a restart of the control plane; sessions that
//! instances begin by themselves; the token's removal from what the instance gets.

mod path;
mod token;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use waypost_proto::{
    name::InstanceKey,
    time,
    v1::{RuleMatch, SessionPersistence},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::token::Token;
use self::{path::CookiePath, token::Stamps};
use crate::table::declared::BackendRef;

/// How far the clocks of two proxies may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Why a session persistence cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A cookie or a field cannot be called so.
    #[error("{0:?} is no name of a cookie or header field")]
    Name(String),
    /// A permanent cookie needs an end.
    #[error("a permanent cookie needs an absolute timeout")]
    NoEnd,
    /// A length of time is negative or malformed.
    #[error("a timeout is negative or malformed")]
    Timeout,
}

/// How a rule's clients stay with instances.
#[derive(Clone, Debug)]
pub struct Session {
    carrier: Carrier,
    /// Where cookies are sent back to; the first that fits best counts.
    paths: Box<[CookiePath]>,
    /// `None`: as long as the instance.
    absolute: Option<Duration>,
    /// `None`: no limit.
    idle: Option<Duration>,
    /// What sets this rule's tokens apart from others'.
    seed: u64,
}

/// What carries the token.
#[derive(Clone, Debug)]
enum Carrier {
    Cookie { name: Box<str>, permanent: bool },
    Header(HeaderName),
}

/// What a request says of its session. To be taken from the request, whose fields and path may be others when there is
/// an answer.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    token: Option<Token>,
    /// Which of the rule's paths the cookie is for.
    path: Option<usize>,
    /// Milliseconds since 1970.
    now: u64,
}

impl Visit {
    /// Where the client was sent before; `None` where it begins a session.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

impl Session {
    /// Compiles a rule's session persistence. `route` and `rule` name the rule, which sets its sessions apart from
    /// other rules'. Where `rule` is empty the paths that it matches do; its sessions end when these are changed.
    ///
    /// # Errors
    /// A name or a length of time cannot be one.
    pub fn compile(
        wire: &SessionPersistence,
        route: &str,
        rule: &str,
        matches: &[RuleMatch],
    ) -> Result<Self, SessionError> {
        let name = HeaderName::try_from(&wire.name).map_err(|_| SessionError::Name(wire.name.clone()))?;
        let length = |wire| time::duration(wire).ok_or(SessionError::Timeout);
        let absolute = wire.absolute_timeout.as_ref().map(length).transpose()?;
        let idle = wire.idle_timeout.as_ref().map(length).transpose()?;
        if wire.permanent && absolute.is_none() {
            return Err(SessionError::NoEnd);
        }
        let carrier = if wire.header {
            Carrier::Header(name)
        } else {
            // Unlike fields' names, cookies' are told apart by case.
            Carrier::Cookie { name: wire.name.as_str().into(), permanent: wire.permanent }
        };
        let paths: Box<[CookiePath]> = matches.iter().map(CookiePath::of).collect();
        let unnamed = if rule.is_empty() { matches } else { &[] };
        let texts = [route, rule, &wire.name].into_iter().chain(unnamed.iter().map(|one| one.path.as_str()));
        let seed = texts.fold(0, |seed, text| xxh3_64_with_seed(text.as_bytes(), seed));
        Ok(Self { carrier, paths, absolute, idle, seed })
    }

    /// Reads what a request says of its session; `path` is the path that the rule was found by. The first token that
    /// holds counts: a client that sends two cookies of one name sends that of the longer path first (RFC 6265,
    /// section 5.4).
    pub fn visit(&self, headers: &HeaderMap, path: &str, now: SystemTime) -> Visit {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, millis);
        let holds =
            |text: &[u8]| Token::read(text, self.seed).filter(|token| self.holds(token.stamps(), now));
        let token = match &self.carrier {
            Carrier::Header(name) => {
                headers.get_all(name).iter().find_map(|value| holds(value.as_bytes().trim_ascii()))
            }
            Carrier::Cookie { name, .. } => {
                headers.get_all(COOKIE).iter().find_map(|field| cookies(field, name).find_map(holds))
            }
        };
        Visit { token, path: path::best(&self.paths, path), now }
    }

    /// Writes into an answer what makes the client stay with `instance`, which `backend` has sent it to. `tls`: the
    /// client came over TLS.
    ///
    /// Nothing is written where the client has all that already: it was sent to the same instance before, and no idle
    /// time begins anew.
    pub fn write(
        &self,
        visit: &Visit,
        backend: &BackendRef,
        instance: &InstanceKey,
        tls: bool,
        answer: &mut HeaderMap,
    ) {
        let same = visit.token.filter(|token| token.is_for(backend) && token.is(instance));
        if same.is_some_and(|token| self.idle.is_none() || token.stamps().seen >= visit.now) {
            return;
        }
        let issued = same.map_or(visit.now, |token| token.stamps().issued);
        let token = Token::new(Stamps { issued, seen: visit.now }, self.seed, backend, instance);
        match &self.carrier {
            Carrier::Header(name) => {
                answer.insert(name, token.value());
            }
            Carrier::Cookie { name, permanent } => {
                let lasts = self.absolute.filter(|_| *permanent);
                let left = lasts
                    .map(|most| most.saturating_sub(Duration::from_millis(visit.now.saturating_sub(issued))));
                let path = visit.path.and_then(|at| self.paths.get(at)).map_or("/", CookiePath::text);
                let cookie = cookie(name, &token, path, left, tls);
                if let Ok(cookie) = HeaderValue::try_from(cookie) {
                    answer.append(SET_COOKIE, cookie);
                }
            }
        }
    }

    /// Whether a session has not come to its end.
    fn holds(&self, stamps: Stamps, now: u64) -> bool {
        let Stamps { issued, seen } = stamps;
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        let begun = issued <= seen && seen <= now.saturating_add(millis(CLOCK_SKEW));
        begun
            && self.absolute.is_none_or(|most| since(issued) < most)
            && self.idle.is_none_or(|most| since(seen) <= most)
    }
}

/// The values of the cookies of a name in a field.
fn cookies<'a>(field: &'a HeaderValue, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let name = name.as_bytes();
    field.as_bytes().split(|byte| *byte == b';').filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name)?;
        value.strip_prefix(b"=")
    })
}

/// A `Set-Cookie` field (RFC 6265, section 4.1). Scripts have no use for it, and other sites' pages have none but for
/// links to here.
fn cookie(name: &str, token: &Token, path: &str, left: Option<Duration>, tls: bool) -> String {
    let token = token.value();
    let token = token.to_str().unwrap_or_default();
    let mut cookie = format!("{name}={token}; Path={path}; HttpOnly; SameSite=Lax");
    if tls {
        cookie.push_str("; Secure");
    }
    if let Some(left) = left {
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        cookie.push_str(&format!("; Max-Age={seconds}"));
    }
    cookie
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
