//! Where a store is, as one URL says it: `SCHEME://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][/PATH][?KEY=VALUE&…]`.
//!
//! Several hosts are one store's: members of a cluster, sentinels, endpoints. Percent-encoding (RFC 3986, section
//! 2.1) is undone in the user, the password and the values, where any character may be needed.
//!
//! Deliberately absent: what a path or a key means, which each store says itself.

use std::{collections::BTreeMap, fmt};

use super::StoreError;

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This process's memory.
    Memory,
    /// Redis, a single server or one with replicas that its address follows.
    Redis,
    /// Redis, found through sentinels.
    RedisSentinel,
    /// A Redis Cluster.
    RedisCluster,
    /// etcd.
    Etcd,
    /// Consul.
    Consul,
    /// A server that implements `waypost.v1.StorePlugin`.
    Plugin,
}

impl Kind {
    /// Its name, as metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis | Self::RedisSentinel | Self::RedisCluster => "redis",
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::Plugin => "plugin",
        }
    }
}

/// The schemes, whether each asks for TLS, and the port that it stands for.
const SCHEMES: [(&str, Kind, bool, u16); 13] = [
    ("memory", Kind::Memory, false, 0),
    ("redis", Kind::Redis, false, 6379),
    ("rediss", Kind::Redis, true, 6379),
    ("redis+sentinel", Kind::RedisSentinel, false, 26379),
    ("rediss+sentinel", Kind::RedisSentinel, true, 26379),
    ("redis+cluster", Kind::RedisCluster, false, 6379),
    ("rediss+cluster", Kind::RedisCluster, true, 6379),
    ("etcd", Kind::Etcd, false, 2379),
    ("etcds", Kind::Etcd, true, 2379),
    ("consul", Kind::Consul, false, 8500),
    ("consuls", Kind::Consul, true, 8501),
    ("plugin", Kind::Plugin, false, 7430),
    ("plugins", Kind::Plugin, true, 7430),
];

/// A store's URL, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    /// Which store.
    pub kind: Kind,
    /// The scheme as it was written.
    pub scheme: &'static str,
    /// Whether TLS is asked for.
    pub tls: bool,
    /// Hosts and ports, in the order in which they were written. An IPv6 address has no brackets.
    pub hosts: Vec<(String, u16)>,
    /// The user; empty if none is named.
    pub user: String,
    /// The password or token; empty if there is none.
    pub password: String,
    /// What follows the hosts, without slashes at its ends; may be empty.
    pub path: String,
    query: BTreeMap<String, String>,
}

impl Location {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let refuse = |reason: &str| StoreError::Unknown { url: redacted(text), reason: reason.to_owned() };
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let known = SCHEMES.iter().find(|(name, ..)| *name == scheme);
        let &(scheme, kind, tls, port) = known.ok_or_else(|| refuse("this kind of store is not built in"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may contain anything but a slash that is not percent-encoded.
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = who.split_once(':').unwrap_or((who, ""));
        let bad_escape = || refuse("a \"%\" must be followed by two hexadecimal digits");
        let text_of = |part: &str| decoded(part).ok_or_else(bad_escape);
        let hosts = match (kind, hosts) {
            (Kind::Memory, "") => Vec::new(),
            (Kind::Memory, _) => return Err(refuse("the memory store takes no address")),
            (_, "") => return Err(refuse("it names no host")),
            (_, hosts) => hosts
                .split(',')
                .map(|host| host_and_port(host, port))
                .collect::<Option<_>>()
                .ok_or_else(|| refuse("a host must be HOST, HOST:PORT or [IPV6]:PORT"))?,
        };
        let mut pairs = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if pairs.insert(text_of(key)?, text_of(value)?).is_some() {
                return Err(refuse(&format!("{key:?} is there twice")));
            }
        }
        Ok(Self {
            kind,
            scheme,
            tls,
            hosts,
            user: text_of(user)?,
            password: text_of(password)?,
            path: path.trim_matches('/').to_owned(),
            query: pairs,
        })
    }

    /// Takes a key's value out of the query.
    pub fn take(&mut self, key: &str) -> Option<String> {
        self.query.remove(key)
    }

    /// Checks that nothing is left in the query: a key that nobody knows is a mistake.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] names the key and those that are known.
    pub fn nothing_else(&self, known: &[&str]) -> Result<(), StoreError> {
        let Some(key) = self.query.keys().next() else { return Ok(()) };
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let reason = format!("it has no parameter {key:?}; known: {known}");
        Err(StoreError::Unknown { url: self.to_string(), reason })
    }
}

/// Without the password and the query, which may hold a secret.
impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://", self.scheme)?;
        for (at, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if host.contains(':') {
                write!(formatter, "{comma}[{host}]:{port}")?;
            } else {
                write!(formatter, "{comma}{host}:{port}")?;
            }
        }
        if self.path.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.path) }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A URL without what stands before the `@` and behind the `?`: it may be a secret.
pub(super) fn redacted(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(front, _)| front);
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}…{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let port = port.map_or(Some(default), |port| port.parse().ok().filter(|port| *port != 0))?;
    (!host.is_empty() && host.bytes().all(plain)).then(|| (host.to_owned(), port))
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url = "rediss+sentinel://me:p%40ss%2F@one,two:7,[::1]:8/primary/?db=3&tag=a%26b";
        let mut location = Location::parse(url).expect("a good URL");
        assert_eq!((location.kind, location.tls), (Kind::RedisSentinel, true));
        let hosts = [("one", 26379), ("two", 7), ("::1", 8)].map(|(host, port)| (host.to_owned(), port));
        assert_eq!(location.hosts, hosts);
        assert_eq!((location.user.as_str(), location.password.as_str()), ("me", "p@ss/"));
        assert_eq!(location.path, "primary");
        assert_eq!(location.take("db").as_deref(), Some("3"));
        let left = location.nothing_else(&["db"]).expect_err("a key is left").to_string();
        assert!(left.contains("\"tag\"") && left.contains("known: db"), "{left}");
        assert_eq!(location.to_string(), "rediss+sentinel://one:26379,two:7,[::1]:8/primary");
        assert!(Location::parse("memory").is_ok() && Location::parse("memory://").is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (url, reason) in [
            ("", "not built in"),
            ("memori://", "not built in"),
            ("memory://x", "takes no address"),
            ("redis://", "names no host"),
            ("redis://me:secret@", "names no host"),
            ("redis://me:secret@a b", "a host must be"),
            ("redis://a:0", "a host must be"),
            ("redis://a:70000", "a host must be"),
            ("redis://::1", "a host must be"),
            ("redis://[::1", "a host must be"),
            ("redis://me:secret%4@a", "two hexadecimal digits"),
            ("redis://a?x=1&x=2", "there twice"),
            ("etcd://a?secret=%zz", "two hexadecimal digits"),
        ] {
            let error = Location::parse(url).expect_err(url).to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
