//! What the URL and the options say about a Redis, checked; and what its keys are called.
//!
//! Deliberately absent: talking to a server.

use std::{fs, io, path::Path, path::PathBuf, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisResult,
    TlsCertificates,
};

use crate::store::{Kind, Location, StoreError, StoreOptions};

const PARAMETERS: [&str; 3] = ["db", "prefix", "wait_replicas"];
const MAX_PREFIX: usize = 100;

/// A Redis and how to use it.
#[derive(Clone)]
pub(super) struct Settings {
    /// Where it is, without credentials.
    pub(super) url: String,
    /// [`Kind::Redis`], [`Kind::RedisSentinel`] or [`Kind::RedisCluster`].
    pub(super) kind: Kind,
    /// The server, the sentinels, or members of the cluster.
    pub(super) hosts: Vec<(String, u16)>,
    /// The master's name among the sentinels; empty without them.
    pub(super) master: String,
    /// What all keys begin with, without its braces.
    pub(super) prefix: String,
    /// How many replicas must have a commit before it is acknowledged.
    pub(super) wait_replicas: u32,
    /// The longest time that one operation may take.
    pub(super) timeout: Duration,
    /// How many changes are remembered.
    pub(super) remembered: usize,
    /// How many events are remembered.
    pub(super) events: usize,
    db: i64,
    user: String,
    password: String,
    tls: bool,
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    /// Checks what a URL says.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] says what is wrong with it.
    pub(super) fn read(mut location: Location, options: &StoreOptions) -> Result<Self, StoreError> {
        let url = location.to_string();
        let refuse = |reason: String| StoreError::Unknown { url: url.clone(), reason };
        let db = location.take("db");
        let prefix = location.take("prefix").unwrap_or_else(|| "waypost".to_owned());
        let wait_replicas = location.take("wait_replicas").unwrap_or_else(|| "0".to_owned());
        location.nothing_else(&PARAMETERS)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte);
        if !(1..=MAX_PREFIX).contains(&prefix.len()) || !prefix.bytes().all(plain) {
            return Err(refuse(format!(
                "prefix must be 1 to {MAX_PREFIX} letters, digits, '-', '_', '.', ':' or '/'"
            )));
        }
        let path = location.path.as_str();
        let (db, master) = match location.kind {
            Kind::RedisSentinel if path.is_empty() => {
                return Err(refuse("it must end in /NAME, the master's name among the sentinels".to_owned()));
            }
            Kind::RedisSentinel => (db, path.to_owned()),
            Kind::RedisCluster if db.is_some() => {
                return Err(refuse("a cluster has no db".to_owned()));
            }
            Kind::RedisCluster if !path.is_empty() => {
                return Err(refuse("a cluster has no path".to_owned()));
            }
            Kind::Redis if location.hosts.len() > 1 => {
                return Err(refuse(
                    "it names more than one host; redis+sentinel:// and redis+cluster:// take several"
                        .to_owned(),
                ));
            }
            // As other programs write it: redis://HOST/DB.
            _ => (db.or_else(|| (!path.is_empty()).then(|| path.to_owned())), String::new()),
        };
        let number = |name: &str, text: &str| {
            let number = text.parse::<u16>();
            number.map_err(|_| refuse(format!("{name} must be a number up to {}, not {text:?}", u16::MAX)))
        };
        let db = db.map_or(Ok(0), |db| number("db", &db))?;
        let wait_replicas = number("wait_replicas", &wait_replicas)?;
        let secret = |given: String| if given.is_empty() { None } else { Some(given) };
        let password = secret(location.password.clone()).or_else(|| options.password.clone());
        let settings = Self {
            kind: location.kind,
            hosts: location.hosts.clone(),
            master,
            prefix,
            wait_replicas: wait_replicas.into(),
            timeout: options.timeout,
            remembered: options.remembered,
            events: options.events,
            db: db.into(),
            user: location.user.clone(),
            password: password.unwrap_or_default(),
            tls: location.tls,
            ca_file: options.ca_file.clone(),
            identity: options.identity.clone(),
            url: url.clone(),
        };
        if location.tls {
            settings.certificates().map_err(|error| refuse(error.to_string()))?;
            // Whoever was first has installed the same one.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        Ok(settings)
    }

    /// A client for a server that holds data.
    pub(super) fn client(&self, host: &str, port: u16) -> RedisResult<Client> {
        let mut who = RedisConnectionInfo::default().set_db(self.db).set_skip_set_lib_name();
        if !self.user.is_empty() {
            who = who.set_username(&self.user);
        }
        if !self.password.is_empty() {
            who = who.set_password(&self.password);
        }
        self.connect_as(host, port, who)
    }

    /// A client for a sentinel, which may ask for the password or not.
    pub(super) fn sentinel(&self, host: &str, port: u16, authenticate: bool) -> RedisResult<Client> {
        let mut who = RedisConnectionInfo::default().set_skip_set_lib_name();
        if authenticate && !self.user.is_empty() {
            who = who.set_username(&self.user);
        }
        if authenticate && !self.password.is_empty() {
            who = who.set_password(&self.password);
        }
        self.connect_as(host, port, who)
    }

    fn connect_as(&self, host: &str, port: u16, who: RedisConnectionInfo) -> RedisResult<Client> {
        let host = host.to_owned();
        if !self.tls {
            let info: ConnectionInfo = ConnectionAddr::Tcp(host, port).into_connection_info()?;
            return Client::open(info.set_redis_settings(who));
        }
        let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
        let info = address.into_connection_info()?.set_redis_settings(who);
        // Read for each connection, so that certificates can be renewed while we run.
        let certificates = self.certificates()?;
        Client::build_with_tls(info, certificates)
    }

    fn certificates(&self) -> io::Result<TlsCertificates> {
        let read = |file: &Path| {
            fs::read(file)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
        };
        let client = |(certificate, key): &(PathBuf, PathBuf)| {
            Ok::<_, io::Error>(redis::ClientTlsConfig {
                client_cert: read(certificate)?,
                client_key: read(key)?,
            })
        };
        Ok(TlsCertificates {
            client_tls: self.identity.as_ref().map(client).transpose()?,
            root_cert: self.ca_file.as_deref().map(read).transpose()?,
        })
    }
}

/// What the registry's keys are called. They share a hash tag, so that a cluster keeps them in one slot.
pub(super) struct Keys {
    tag: String,
    /// The keys that every script takes, in the scripts' order.
    pub(super) all: [String; 9],
}

impl Keys {
    /// The keys under a prefix.
    pub(super) fn new(prefix: &str) -> Self {
        let tag = format!("{{{prefix}}}");
        let names =
            ["meta", "instances", "names", "empty", "leases", "deadlines", "changes", "events", "resources"];
        let all = names.map(|name| format!("{tag}:{name}"));
        Self { tag, all }
    }

    /// What all keys begin with.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// The hash of services without instances.
    pub(super) fn empty(&self) -> &str {
        &self.all[3]
    }

    /// The stream of changes.
    pub(super) fn changes(&self) -> &str {
        &self.all[6]
    }

    /// The stream of events.
    pub(super) fn events(&self) -> &str {
        &self.all[7]
    }

    /// The hash of declared resources.
    pub(super) fn resources(&self) -> &str {
        &self.all[8]
    }

    /// The key under which a commit is remembered for a while.
    pub(super) fn receipt(&self, id: &str) -> String {
        format!("{}:commit:{id}", self.tag)
    }

    /// The keys on which permissions are tried.
    pub(super) fn probe(&self, id: &str) -> [String; 4] {
        ["hash", "set", "stream", "plain"].map(|kind| format!("{}:probe:{id}:{kind}", self.tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Settings, StoreError> {
        Settings::read(Location::parse(url)?, &StoreOptions::default())
    }

    #[test]
    fn a_url_says_which_redis_and_how() {
        let settings = read("redis://me:p%40ss@one:7?db=3&prefix=a/b&wait_replicas=1").expect("a good URL");
        assert_eq!((settings.db, settings.prefix.as_str(), settings.wait_replicas), (3, "a/b", 1));
        assert_eq!((settings.user.as_str(), settings.password.as_str()), ("me", "p@ss"));
        assert_eq!(settings.url, "redis://one:7");
        assert_eq!(read("redis://one/4").expect("a good URL").db, 4);
        assert_eq!(read("redis+sentinel://one,two/primary?db=1").expect("a good URL").master, "primary");
        assert_eq!(Keys::new("waypost").all[0], "{waypost}:meta");
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (url, reason) in [
            ("redis://a?db=x", "db must be a number"),
            ("redis://a/x", "db must be a number"),
            ("redis://a?prefix={b}", "prefix must be"),
            ("redis://a?prefix=", "prefix must be"),
            ("redis://a?wait_replicas=-1", "wait_replicas must be"),
            ("redis://a,b", "more than one host"),
            ("redis://a?sentinel=x", "no parameter \"sentinel\""),
            ("redis+sentinel://a", "the master's name"),
            ("redis+cluster://a?db=1", "a cluster has no db"),
            ("redis+cluster://a/1", "a cluster has no path"),
        ] {
            let error = read(url).err().expect(url).to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
        let options = StoreOptions { ca_file: Some("/nowhere/ca.pem".into()), ..StoreOptions::default() };
        let location = Location::parse("rediss://a").expect("a good URL");
        let error = Settings::read(location, &options).err().expect("there is no such file").to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }
}
