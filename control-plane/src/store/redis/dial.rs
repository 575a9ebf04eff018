//! Finds the server that holds the registry, and gets a connection to it ready for use.
//!
//! There is always just one: the server of the URL, the master that the sentinels name, or the node of a cluster that
//! owns the registry's slot. So a plain connection does, and what is sent over it is sent once. (The client library's
//! own cluster connection repeats requests by itself.)
//!
//! Deliberately absent: trying again, which [`super::link::Link`] does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{
    fault::Fault,
    scripts::{self, Request},
    settings::{Keys, Settings},
};
use crate::store::{Kind, StoreError};

/// What the registry is written as; a later one may add to it.
const FORMAT: &str = "1";
/// The shortest time that one server gets to answer, where there are several.
const LEAST: Duration = Duration::from_millis(200);

/// Finds the server and connects to it.
pub(super) struct Dialer {
    /// Which Redis, and how to use it.
    pub(super) settings: Settings,
    /// What its keys are called.
    pub(super) keys: Keys,
    /// The latest revision that anybody here has seen.
    seen: AtomicU64,
    /// Members of the cluster beyond those that the URL names.
    members: Mutex<Vec<(String, u16)>>,
}

/// A server that was found, and what it says about itself (the answer to `INFO`).
pub(super) struct Found {
    /// A connection to it.
    pub(super) connection: MultiplexedConnection,
    info: String,
}

impl Found {
    /// One value of `INFO`.
    pub(super) fn info(&self, key: &str) -> Option<&str> {
        let mut pairs = self.info.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.trim())
    }
}

impl Dialer {
    /// For this Redis.
    pub(super) fn new(settings: Settings) -> Arc<Self> {
        let keys = Keys::new(&settings.prefix);
        Arc::new(Self { settings, keys, seen: AtomicU64::new(0), members: Mutex::default() })
    }

    /// Notes a revision: a server that does not know it has lost something.
    pub(super) fn saw(&self, revision: u64) {
        self.seen.fetch_max(revision, Ordering::AcqRel);
    }

    /// What an error means here.
    pub(super) fn fault(&self, error: &redis::RedisError) -> Fault {
        Fault::of(error, self.settings.kind == Kind::RedisCluster)
    }

    /// A connection that is ready for use: all that we need is permitted, and the registry's history has begun.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, Fault> {
        let mut found = self.find().await?;
        let refused = self.refused(&mut found.connection).await?;
        if !refused.is_empty() {
            let (commands, tag) = (refused.join(", "), self.keys.tag());
            let reason =
                format!("its user may not use {commands} on keys that begin with {tag}; grant it in the ACL");
            return Err(Fault::Final(StoreError::Refused(reason)));
        }
        let open = Request::script(&scripts::OPEN, &self.keys.all)
            .arg(found.info("run_id").unwrap_or_default())
            .arg(uuid::Uuid::new_v4().to_string())
            .arg(self.seen.load(Ordering::Acquire))
            .arg(FORMAT);
        let _history: String = self.ask(&open, &mut found.connection).await?;
        Ok(found.connection)
    }

    /// The commands that we need and that are not permitted.
    pub(super) async fn refused(&self, connection: &mut MultiplexedConnection) -> Result<Vec<String>, Fault> {
        let probe = self.keys.probe(&uuid::Uuid::new_v4().to_string());
        self.ask(&Request::script(&scripts::PROBE, &probe), connection).await
    }

    /// The server that holds the registry.
    pub(super) async fn find(&self) -> Result<Found, Fault> {
        let mut connection = match self.settings.kind {
            Kind::RedisSentinel => self.by_sentinel().await?,
            Kind::RedisCluster => self.by_cluster().await?,
            _ => {
                let (host, port) = &self.settings.hosts[0];
                self.reach(host, *port).await?
            }
        };
        let info = self.ask(&Request::Plain(redis::cmd("INFO")), &mut connection).await?;
        let found = Found { connection, info };
        if found.info("role").is_some_and(|role| role != "master") {
            return Err(Fault::Broken("the server is a replica, not the master".to_owned()));
        }
        Ok(found)
    }

    async fn by_sentinel(&self) -> Result<MultiplexedConnection, Fault> {
        let hosts = &self.settings.hosts;
        let mut last = None;
        for (host, port) in hosts {
            match timeout(self.share(hosts.len()), self.ask_sentinel(host, *port)).await {
                Ok(Ok((host, port))) => return self.reach(&host, port).await,
                Ok(Err(fault)) => last = Some(fault),
                Err(_) => last = Some(Fault::Broken(format!("the sentinel {host}:{port} does not answer"))),
            }
        }
        Err(last.expect("a URL names at least one host"))
    }

    async fn ask_sentinel(&self, host: &str, port: u16) -> Result<(String, u16), Fault> {
        let mut fault = None;
        for authenticate in [false, true] {
            let client =
                self.settings.sentinel(host, port, authenticate).map_err(|error| self.fault(&error))?;
            let question: Request = Request::Plain({
                let mut command = redis::cmd("SENTINEL");
                command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.settings.master);
                command
            });
            let answer = match open(&client).await {
                Ok(mut connection) => question.ask::<Option<(String, u16)>>(&mut connection).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(Some(master)) => return Ok(master),
                Ok(None) => {
                    let reason = format!("the sentinels know no master called {:?}", self.settings.master);
                    return Err(Fault::Final(StoreError::Refused(reason)));
                }
                Err(error) if error.code() == Some("NOAUTH") => fault = Some(self.fault(&error)),
                Err(error) => return Err(self.fault(&error)),
            }
        }
        Err(fault.expect("both ways were refused"))
    }

    async fn by_cluster(&self) -> Result<MultiplexedConnection, Fault> {
        let mut hosts = self.settings.hosts.clone();
        hosts.extend(
            self.members.lock().iter().filter(|member| !self.settings.hosts.contains(member)).cloned(),
        );
        let mut last = None;
        for (host, port) in &hosts {
            match timeout(self.share(hosts.len()), self.ask_cluster(host, *port)).await {
                Ok(Ok((host, port))) => return self.reach(&host, port).await,
                Ok(Err(fault @ Fault::Final(_))) => return Err(fault),
                Ok(Err(fault)) => last = Some(fault),
                Err(_) => last = Some(Fault::Broken(format!("the node {host}:{port} does not answer"))),
            }
        }
        Err(last.expect("a URL names at least one host"))
    }

    /// Which node owns the registry's slot, as another one sees it.
    async fn ask_cluster(&self, host: &str, port: u16) -> Result<(String, u16), Fault> {
        let mut connection = self.reach(host, port).await?;
        let cluster = |word: &str| {
            let mut command = redis::cmd("CLUSTER");
            command.arg(word);
            command
        };
        let mut keyslot = cluster("KEYSLOT");
        keyslot.arg(self.keys.tag());
        let slot: i64 = self.ask(&Request::Plain(keyslot), &mut connection).await?;
        let slots: Vec<Vec<Value>> = self.ask(&Request::Plain(cluster("SLOTS")), &mut connection).await?;
        let ranges: Vec<Range> = slots.iter().filter_map(|range| Range::read(range, host)).collect();
        *self.members.lock() = ranges.iter().flat_map(|range| range.nodes.iter().cloned()).collect();
        let owner = ranges.into_iter().find(|range| (range.first..=range.last).contains(&slot));
        let master = owner.and_then(|range| range.nodes.into_iter().next());
        master.ok_or_else(|| Fault::Broken(format!("no node of the cluster owns slot {slot}")))
    }

    async fn reach(&self, host: &str, port: u16) -> Result<MultiplexedConnection, Fault> {
        let client = self.settings.client(host, port).map_err(|error| self.fault(&error))?;
        open(&client).await.map_err(|error| match self.fault(&error) {
            Fault::Broken(reason) => Fault::Broken(format!("{host}:{port}: {reason}")),
            fault => fault,
        })
    }

    async fn ask<T: FromRedisValue>(
        &self,
        request: &Request,
        connection: &mut MultiplexedConnection,
    ) -> Result<T, Fault> {
        request.ask(connection).await.map_err(|error| self.fault(&error))
    }

    /// The time that one of several hosts gets.
    fn share(&self, hosts: usize) -> Duration {
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX).saturating_add(1);
        (self.settings.timeout / hosts).max(LEAST)
    }
}

/// Connects without timeouts of its own: every caller has a deadline.
async fn open(client: &Client) -> Result<MultiplexedConnection, redis::RedisError> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// Slots of a cluster, and who has them: the master first.
struct Range {
    first: i64,
    last: i64,
    nodes: Vec<(String, u16)>,
}

impl Range {
    /// Reads one entry of `CLUSTER SLOTS`. A node that does not know its own host is the one that was asked.
    fn read(entry: &[Value], asked: &str) -> Option<Self> {
        let (first, rest) = entry.split_first()?;
        let (last, nodes) = rest.split_first()?;
        let node = |value: &Value| {
            let Value::Array(parts) = value else { return None };
            let (host, port) = (parts.first()?, parts.get(1)?);
            let host: Option<String> = FromRedisValue::from_redis_value_ref(host).ok()?;
            let host =
                host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.to_owned());
            Some((host, u16::from_redis_value_ref(port).ok()?))
        };
        Some(Self {
            first: i64::from_redis_value_ref(first).ok()?,
            last: i64::from_redis_value_ref(last).ok()?,
            nodes: nodes.iter().filter_map(node).collect(),
        })
    }
}
