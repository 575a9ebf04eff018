//! A look at etcd: is it there, new enough, roomy, and does it let us do what we must?
//!
//! What it writes lies in a folder of its own and hangs on a lease of its own, so that it goes even if the
//! look is cut short.
//!
//! Deliberately absent: rights of other users, and anything that only an administrator may ask.

use etcd_client::{Client, Error, GetOptions, PutOptions, StatusResponse};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Shared, connection::innermost, keys::end_of, lease};
use crate::store::{Finding, StoreError};

/// The oldest version with watches that can be asked for progress.
const OLDEST: (u64, u64) = (3, 4);
/// The look's own lease ends by itself after this.
const LEASE: std::time::Duration = std::time::Duration::from_secs(60);

/// Looks at all of it.
///
/// # Errors
/// No endpoint answers, or none lets us in.
pub(super) async fn examine(shared: &Shared) -> Result<Vec<Finding>, StoreError> {
    // Says why, where nobody answers or the password is wrong.
    shared.connection.call(|mut client| async move { client.status().await }).await?;
    let urls: Vec<&str> = shared.connection.urls().collect();
    let answers = join_all(urls.iter().map(|url| status(shared, url))).await;
    let there: Vec<&StatusResponse> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let mut findings = vec![reachable(&urls, &answers), version(&there), space(&there)];
    findings.extend(permissions(shared).await?);
    Ok(findings)
}

async fn status(shared: &Shared, url: &str) -> Result<StatusResponse, String> {
    let ask = async { shared.connection.to(url).await?.status().await };
    match timeout(shared.connection.patience(), ask).await {
        Ok(answer) => answer.map_err(|error| innermost(&error)),
        Err(_) => Err("does not answer".to_owned()),
    }
}

fn reachable(urls: &[&str], answers: &[Result<StatusResponse, String>]) -> Finding {
    let failed = urls.iter().zip(answers).filter_map(|(url, answer)| {
        let reason = answer.as_ref().err()?;
        Some(format!("{url}: {reason}"))
    });
    let failed: Vec<String> = failed.collect();
    if !failed.is_empty() {
        let remedy = "start these members, or take their addresses out of the store's URL".to_owned();
        return finding("reachable", false, failed.join("; "), remedy);
    }
    let detail = match urls {
        [url] => format!("{url}; it is the only endpoint named: name all members, so that one may fail"),
        urls => urls.join(", "),
    };
    finding("reachable", true, detail, String::new())
}

fn version(there: &[&StatusResponse]) -> Finding {
    let number = |version: &str| {
        let mut parts = version.split('.').map(|part| part.parse::<u64>().unwrap_or_default());
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    };
    let good = there.iter().all(|status| number(status.version()) >= OLDEST);
    let mut versions: Vec<&str> = there.iter().map(|status| status.version()).collect();
    versions.sort_unstable();
    versions.dedup();
    let remedy = if good { "" } else { "upgrade every member to etcd 3.4 or newer" };
    finding("version", good, versions.join(", "), remedy.to_owned())
}

fn space(there: &[&StatusResponse]) -> Finding {
    let largest = there.iter().map(|status| status.db_size()).max().unwrap_or_default() / (1 << 20);
    let alarms: Vec<&str> = there.iter().flat_map(|status| status.errors()).map(String::as_str).collect();
    if alarms.is_empty() {
        return finding("space", true, format!("the database takes {largest} MiB"), String::new());
    }
    let remedy = "for NOSPACE: etcdctl compact REVISION, etcdctl defrag --cluster, etcdctl alarm disarm; and raise \
                  --quota-backend-bytes or compact automatically";
    finding("space", false, format!("{largest} MiB; {}", alarms.join("; ")), remedy.to_owned())
}

/// Tries what a control plane does. What is not permitted is a finding, all else is an error.
async fn permissions(shared: &Shared) -> Result<Vec<Finding>, StoreError> {
    let folder = shared.keys.everything();
    let key = shared.keys.examination(&uuid::Uuid::new_v4().to_string());
    let everything = GetOptions::new().with_range(end_of(&folder)).with_count_only();
    let read = |mut client: Client| {
        let (folder, options) = (folder.clone(), everything.clone());
        async move { client.get(folder, Some(options)).await }
    };
    let read = shared.connection.call(read).await.map(drop);
    let lease = lease::grant(shared, LEASE).await;
    let attached = lease.as_ref().ok().copied().unwrap_or_default();
    let write = |mut client: Client| {
        let options = PutOptions::new().with_lease(attached);
        let key = key.clone();
        async move {
            client.put(key.as_str(), "", Some(options)).await?;
            client.delete(key, None).await
        }
    };
    let write = shared.connection.call(write).await.map(drop);
    let end = |mut client: Client| async move {
        match client.lease_revoke(attached).await {
            // Asked twice, because the first answer was lost.
            Err(Error::GRpcStatus(status)) if status.message().contains("lease not found") => Ok(()),
            ended => ended.map(drop),
        }
    };
    let leases = match lease {
        Ok(_) => shared.connection.call(end).await,
        Err(error) => Err(error),
    };
    let remedy = format!("etcdctl role grant-permission ROLE --prefix=true readwrite {folder}");
    let tried = [
        ("read", read, &*remedy),
        ("write", write, &*remedy),
        ("leases", leases, "let the user grant leases"),
    ];
    let outcome = |(what, outcome, remedy): (&str, Result<(), StoreError>, &str)| match outcome {
        Ok(()) => Ok(finding(what, true, format!("permitted on {folder}"), String::new())),
        Err(StoreError::Refused(reason)) => Ok(finding(what, false, reason, remedy.to_owned())),
        Err(error) => Err(error),
    };
    tried.into_iter().map(outcome).collect()
}

fn finding(subject: &str, good: bool, detail: String, remedy: String) -> Finding {
    Finding { subject: subject.to_owned(), good, detail, remedy }
}
