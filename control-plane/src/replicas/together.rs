//! Questions about all control planes that share the store: our own answer and that of each other one.
//!
//! A proxy may move from one to another while they are asked, and be missed by both. So what holds everywhere is
//! taken for true only after a round that was quick: within the grace in which whom a proxy has left still waits
//! for it.
//!
//! Deliberately absent: how to reach the others (see `peer`).

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use futures_util::future;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Response, Status, transport::Channel};
use waypost_proto::{
    error::{Error, ErrorCode},
    time::{self, wire_duration},
    v1::{self, replicas_client::ReplicasClient},
};

use super::{Replicas, peer::Peer, qualified};
use crate::hub::{AppliedEverywhere, Barrier, Behind};

/// A round that took no longer than this is always quick enough.
const SHORTEST_ROUND: Duration = Duration::from_millis(20);
/// How long one that does not answer is left alone before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How much longer than it waits an answer may take.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// How long a list or a status may take.
const GLANCE: Duration = Duration::from_secs(1);
/// How many names an error lists.
const MOST_NAMES: usize = 5;

/// How one control plane answered a question that takes a while.
enum Asked<T> {
    Answered(T),
    /// It has left, and whoever hung on it has come to others or is gone too.
    Gone,
    /// It did not answer before the deadline.
    Silent,
}

impl Replicas {
    /// Waits until no proxy of any control plane picks an instance or has anything in flight to it, or for
    /// `deadline`.
    pub async fn wait_drained(&self, barrier: &Barrier, deadline: Duration) -> v1::DrainOutcome {
        let started = Instant::now();
        let until = started + deadline;
        loop {
            let round = Instant::now();
            let peers = self.peers();
            let here = self.hub.wait_drained(barrier, until.saturating_duration_since(round));
            let there = future::join_all(peers.iter().map(|peer| self.drained_there(peer, barrier, until)));
            let (mut outcome, others) = future::join(here, there).await;
            outcome.waiting_for.iter_mut().for_each(|proxy| *proxy = self.name(proxy));
            for other in others {
                outcome.complete &= other.complete;
                outcome.in_flight += other.in_flight;
                outcome.waiting_for.extend(other.waiting_for);
            }
            let sure = self.was_sure(&peers, round.elapsed());
            if !outcome.complete || sure || Instant::now() >= until {
                outcome.took = Some(wire_duration(started.elapsed()));
                return outcome;
            }
        }
    }

    /// Waits until every live proxy of every control plane has applied a revision.
    ///
    /// # Errors
    /// `deadline` has passed; the error names the proxies that are behind.
    pub async fn wait_applied(&self, revision: u64, deadline: Duration) -> Result<AppliedEverywhere, Error> {
        self.everywhere(revision, deadline).await.result(revision)
    }

    /// The same; answers who is behind at the end, and nobody where all have applied it.
    pub async fn waiting_for(&self, revision: u64, deadline: Duration) -> Vec<String> {
        self.everywhere(revision, deadline).await.behind
    }

    async fn everywhere(&self, revision: u64, deadline: Duration) -> Everywhere {
        let until = Instant::now() + deadline;
        loop {
            let round = Instant::now();
            let peers = self.peers();
            // Later revisions than the head change nothing for proxies, so the head stands for them.
            let wanted = revision.min(self.registry.view().head());
            let here = self.hub.wait_applied(wanted, until.saturating_duration_since(round));
            let there = future::join_all(peers.iter().map(|peer| self.applied_there(peer, revision, until)));
            let (here, there) = future::join(here, there).await;
            let mut all = Everywhere::of(self, here);
            there.into_iter().for_each(|other| all.add(other));
            let sure = self.was_sure(&peers, round.elapsed());
            if !all.behind.is_empty() || sure || Instant::now() >= until {
                return all;
            }
        }
    }

    /// All proxies of all control planes, and the control planes that did not answer.
    pub async fn list_proxies(&self) -> v1::ListProxiesResponse {
        let peers = self.peers();
        let ask = |peer: Arc<Peer>| async move {
            let listed = glance(&peer, |mut client| async move {
                client.list_proxies(v1::ListReplicaProxiesRequest {}).await
            });
            (peer.clone(), listed.await)
        };
        let mut proxies: BTreeMap<String, v1::Proxy> = BTreeMap::new();
        let mut unreachable = Vec::new();
        add(&mut proxies, self.id(), self.hub.proxies());
        for (peer, listed) in future::join_all(peers.into_iter().map(ask)).await {
            match listed {
                Ok(listed) => add(&mut proxies, peer.id(), listed.proxies),
                Err(_) => unreachable.push(peer.id().to_owned()),
            }
        }
        v1::ListProxiesResponse { proxies: proxies.into_values().collect(), unreachable }
    }

    /// Adds to our own status how the others stand.
    pub async fn status(&self, mut status: v1::GetStatusResponse) -> v1::GetStatusResponse {
        let Some(me) = &self.me else { return status };
        status.replica = me.options.id.clone();
        status.replicas.push(v1::ReplicaStatus {
            id: me.options.id.clone(),
            address: me.address.clone(),
            reachable: true,
            revision: status.revision,
            watermark: status.watermark,
            proxies: status.proxies,
            store_lost_since: status.store_lost_since,
            reason: status.store_lost_reason.clone(),
        });
        let others = future::join_all(self.peers().into_iter().map(stands)).await;
        for other in others {
            if other.proxies > 0 {
                let alone = status.proxies == 0;
                status.watermark =
                    if alone { other.watermark } else { status.watermark.min(other.watermark) };
                status.proxies += other.proxies;
            }
            status.replicas.push(other);
        }
        status.replicas.sort_by(|left, right| left.id.cmp(&right.id));
        status
    }

    /// Whether a round has seen every proxy somewhere: one that has moved meanwhile was still waited for where it
    /// had been, as long as the round took a quarter of that grace and the move took less than the rest.
    fn was_sure(&self, peers: &[Arc<Peer>], took: Duration) -> bool {
        let quick = (self.drain_grace() / 4).max(SHORTEST_ROUND);
        (peers.is_empty() && self.peers().is_empty()) || took < quick
    }

    async fn drained_there(&self, peer: &Peer, barrier: &Barrier, until: Instant) -> v1::DrainOutcome {
        let asked = self.ask(peer, until, |mut client, deadline| {
            let request = v1::WaitReplicaDrainedRequest {
                key: Some(barrier.key.to_wire()),
                epoch: barrier.epoch,
                revision: barrier.revision,
                deadline: Some(wire_duration(deadline)),
            };
            async move { client.wait_drained(request).await }
        });
        let mut outcome = match asked.await {
            Asked::Answered(answer) => answer.outcome.unwrap_or_default(),
            Asked::Gone => return v1::DrainOutcome { complete: true, ..Default::default() },
            Asked::Silent => {
                let waiting_for = vec!["(this control plane does not answer)".to_owned()];
                v1::DrainOutcome { waiting_for, ..Default::default() }
            }
        };
        outcome.waiting_for.iter_mut().for_each(|proxy| *proxy = qualified(peer.id(), proxy));
        outcome
    }

    async fn applied_there(
        &self,
        peer: &Peer,
        revision: u64,
        until: Instant,
    ) -> v1::WaitReplicaAppliedResponse {
        let asked = self.ask(peer, until, |mut client, deadline| {
            let deadline = Some(wire_duration(deadline));
            let request = v1::WaitReplicaAppliedRequest { revision, deadline };
            async move { client.wait_applied(request).await }
        });
        let mut answer = match asked.await {
            Asked::Answered(answer) => answer,
            Asked::Gone => v1::WaitReplicaAppliedResponse { complete: true, ..Default::default() },
            Asked::Silent => {
                let behind = vec!["(this control plane does not answer)".to_owned()];
                v1::WaitReplicaAppliedResponse { behind, ..Default::default() }
            }
        };
        if !answer.complete && answer.behind.is_empty() {
            answer.behind.push(format!("(it has seen revision {} only)", answer.revision));
        }
        answer.behind.iter_mut().for_each(|proxy| *proxy = qualified(peer.id(), proxy));
        answer
    }

    /// Asks again and again, until it answers, is gone, or the deadline has passed.
    async fn ask<T, Answer>(
        &self,
        peer: &Peer,
        until: Instant,
        call: impl Fn(ReplicasClient<Channel>, Duration) -> Answer,
    ) -> Asked<T>
    where
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let remaining = until.saturating_duration_since(Instant::now());
            if let Some(client) = peer.client()
                && let Ok(Ok(answer)) = timeout(remaining + ANSWER_GRACE, call(client, remaining)).await
            {
                peer.reached();
                return Asked::Answered(answer.into_inner());
            }
            let now = Instant::now();
            peer.failed(now);
            // Looks who is there; whoever has left is noted.
            drop(self.peers());
            if peer.is_gone(now, self.drain_grace()) {
                return Asked::Gone;
            }
            if now >= until {
                return Asked::Silent;
            }
            sleep_until(until.min(now + ASK_AGAIN)).await;
        }
    }
}

/// Who has applied a revision and who has not.
struct Everywhere {
    behind: Vec<String>,
    watermark: u64,
    proxies: usize,
}

impl Everywhere {
    fn of(replicas: &Replicas, here: Result<AppliedEverywhere, Behind>) -> Self {
        match here {
            Ok(AppliedEverywhere { watermark, proxies }) => Self { behind: Vec::new(), watermark, proxies },
            Err(Behind { proxies, live, newest, watermark }) => {
                let mut behind: Vec<String> = proxies.iter().map(|proxy| replicas.name(proxy)).collect();
                if behind.is_empty() {
                    behind.push(format!("(this control plane has published revision {newest} only)"));
                }
                Self { behind, watermark, proxies: live }
            }
        }
    }

    fn add(&mut self, other: v1::WaitReplicaAppliedResponse) {
        if other.proxies > 0 {
            let alone = self.proxies == 0;
            self.watermark = if alone { other.watermark } else { self.watermark.min(other.watermark) };
            self.proxies += other.proxies as usize;
        }
        self.behind.extend(other.behind);
    }

    fn result(self, revision: u64) -> Result<AppliedEverywhere, Error> {
        if self.behind.is_empty() {
            return Ok(AppliedEverywhere { watermark: self.watermark, proxies: self.proxies });
        }
        let mut names = self.behind.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
        if self.behind.len() > MOST_NAMES {
            names.push_str(", …");
        }
        let message = format!(
            "{} of the live proxies have not applied revision {revision} yet: {names}; \
             ListProxies says what each serves by and what it last rejected",
            self.behind.len()
        );
        Err(Error::new(ErrorCode::DeadlineExceeded, message))
    }
}

/// Asks once, for something that is there at once.
pub(super) async fn glance<T, Answer>(
    peer: &Peer,
    call: impl FnOnce(ReplicasClient<Channel>) -> Answer,
) -> Result<T, String>
where
    Answer: Future<Output = Result<Response<T>, Status>>,
{
    let client = peer.client().ok_or_else(|| format!("{:?} is no address", peer.address()))?;
    let answered = match timeout(GLANCE, call(client)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(format!("it does not answer: {}", status.message())),
        Err(_) => Err(format!("it does not answer within {GLANCE:?}")),
    };
    match &answered {
        Ok(_) => peer.reached(),
        Err(_) => peer.failed(Instant::now()),
    }
    answered
}

/// How another control plane stands, by its last word if it does not answer.
async fn stands(peer: Arc<Peer>) -> v1::ReplicaStatus {
    let asked =
        glance(&peer, |mut client| async move { client.get_status(v1::GetReplicaStatusRequest {}).await });
    let (status, silent) = match asked.await {
        Ok(status) => {
            peer.says(status.clone());
            (status, None)
        }
        Err(reason) => (peer.said().unwrap_or_default(), Some(reason)),
    };
    v1::ReplicaStatus {
        id: peer.id().to_owned(),
        address: peer.address().to_owned(),
        reachable: silent.is_none(),
        revision: status.revision,
        watermark: status.watermark,
        proxies: status.proxies,
        store_lost_since: status.store_lost_since,
        reason: silent.unwrap_or(status.store_lost_reason),
    }
}

/// Adds the proxies of one control plane. Of a proxy that has moved, what its present one says counts.
fn add(all: &mut BTreeMap<String, v1::Proxy>, replica: &str, proxies: Vec<v1::Proxy>) {
    let since = |proxy: &v1::Proxy| proxy.since.as_ref().map(time::system_time);
    for mut proxy in proxies {
        proxy.replica = replica.to_owned();
        let better = all
            .get(&proxy.id)
            .is_none_or(|known| (proxy.connected, since(&proxy)) > (known.connected, since(known)));
        if better {
            all.insert(proxy.id.clone(), proxy);
        }
    }
}
