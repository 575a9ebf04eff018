//! Looks whether a Redis will do: version, permissions, what it does when memory runs out, and what it loses when it
//! ends.
//!
//! Deliberately absent: changing the server's configuration.

use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::{
    dial::{Dialer, Found},
    fault::Fault,
};
use crate::store::{Finding, StoreError};

/// The first version with streams and scripts that may ask for the time.
const OLDEST: (u32, u32) = (5, 0);

/// Looks, within the time of one operation.
pub(super) async fn examine(dialer: &Dialer) -> Result<Vec<Finding>, StoreError> {
    let looked = timeout(dialer.settings.timeout, look(dialer)).await;
    looked
        .map_err(|_| StoreError::Unavailable("the server does not answer".to_owned()))?
        .map_err(Fault::into_error)
}

async fn look(dialer: &Dialer) -> Result<Vec<Finding>, Fault> {
    let mut found = dialer.find().await?;
    let refused = dialer.refused(&mut found.connection).await?;
    let sync = append_sync(&mut found.connection).await;
    Ok(vec![
        reachable(&found),
        version(&found),
        permissions(&refused, dialer.keys.tag()),
        eviction(&found),
        persistence(&found, sync.as_deref()),
        replicas(&found, dialer.settings.wait_replicas),
    ])
}

fn good(subject: &str, detail: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), good: true, detail: detail.into(), remedy: String::new() }
}

fn bad(subject: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), good: false, detail: detail.into(), remedy: remedy.into() }
}

fn reachable(found: &Found) -> Finding {
    let port = found.info("tcp_port").unwrap_or("unknown");
    good("reachable", format!("the master answers, its port is {port}"))
}

fn version(found: &Found) -> Finding {
    let text = found.info("redis_version").unwrap_or("unknown");
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= OLDEST {
        return good("version", text);
    }
    bad("version", format!("{text}, which has no streams"), "run Redis 5.0 or newer; 6.0 for users and TLS")
}

fn permissions(refused: &[String], tag: &str) -> Finding {
    if refused.is_empty() {
        return good("permissions", format!("every command that is needed, on keys that begin with {tag}"));
    }
    let grants: Vec<String> = refused.iter().map(|command| format!("+{command}")).collect();
    let remedy = format!("ACL SETUSER <user> ~{tag}:* {}", grants.join(" "));
    bad("permissions", format!("refused: {}", refused.join(", ")), remedy)
}

fn eviction(found: &Found) -> Finding {
    match found.info("maxmemory_policy") {
        Some("noeviction") => good("eviction", "noeviction: when memory runs out, changes are refused"),
        Some(policy) => bad(
            "eviction",
            format!("{policy}: when memory runs out, parts of the registry vanish"),
            "CONFIG SET maxmemory-policy noeviction",
        ),
        None => good("eviction", "the server does not say"),
    }
}

/// `appendfsync`, if we may ask for it.
async fn append_sync(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg("appendfsync");
    let answer: Result<(String, String), _> = get.query_async(connection).await;
    answer.ok().map(|(_, value)| value)
}

fn persistence(found: &Found, sync: Option<&str>) -> Finding {
    if found.info("aof_enabled") != Some("1") {
        return bad(
            "persistence",
            "appendonly is off: a restart loses what changed since the last snapshot, or everything",
            "CONFIG SET appendonly yes, CONFIG SET appendfsync always, CONFIG REWRITE",
        );
    }
    match sync {
        Some("always") => {
            good("persistence", "appendfsync always: a power failure loses nothing acknowledged")
        }
        Some("no") => bad(
            "persistence",
            "appendfsync no: a power failure loses what the system has not written yet, up to half a minute",
            "CONFIG SET appendfsync always, CONFIG REWRITE",
        ),
        Some(sync) => good(
            "persistence",
            format!(
                "appendfsync {sync}: a power failure loses the last two seconds; \"always\" loses nothing"
            ),
        ),
        None => good(
            "persistence",
            "appendonly is on; whether each change is written at once is not told to this user (config|get)",
        ),
    }
}

fn replicas(found: &Found, wanted: u32) -> Finding {
    let count = found.info("connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0);
    if count < wanted {
        let detail = format!("{count} are connected, and wait_replicas={wanted}: no commit is acknowledged");
        return bad("replicas", detail, "start the replicas that are missing, or lower wait_replicas");
    }
    let detail = match (count, wanted) {
        (0, _) => "none: while this server is away, nothing can be registered".to_owned(),
        (_, 0) => {
            format!("{count}: a fail-over can lose the last changes; wait_replicas=1 waits for a replica")
        }
        (..) => format!("{count}, of which {wanted} have every change before it is acknowledged"),
    };
    good("replicas", detail)
}
