//! Another control plane: the way to it, and when it was last heard of.
//!
//! One channel to each is kept open and shared by all calls. It notices by pings when the other one is frozen.
//!
//! Deliberately absent: what is asked, and what becomes of the answer (see `together`).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use waypost_proto::v1::{GetReplicaStatusResponse, replicas_client::ReplicasClient};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A list of 100,000 proxies is about 20 MB.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Another control plane.
#[derive(Debug)]
pub(super) struct Peer {
    id: String,
    address: String,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    channel: Option<Channel>,
    /// Since when it does not answer, if it does not.
    lost_at: Option<Instant>,
    /// When it was seen to be registered no more.
    left_at: Option<Instant>,
    /// What it said last of itself.
    status: Option<GetReplicaStatusResponse>,
}

impl Peer {
    pub(super) fn new(id: &str, address: &str) -> Self {
        Self { id: id.to_owned(), address: address.to_owned(), notes: Mutex::default() }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A client on the channel that is kept open; `None` if the address is none. Must be called within a runtime.
    pub(super) fn client(&self) -> Option<ReplicasClient<Channel>> {
        let mut notes = self.notes.lock();
        if notes.channel.is_none() {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).ok()?;
            let endpoint = endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
            notes.channel = Some(endpoint.connect_lazy());
        }
        let channel = notes.channel.clone()?;
        Some(ReplicasClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
    }

    /// It has answered.
    pub(super) fn reached(&self) {
        self.notes.lock().lost_at = None;
    }

    /// It has not answered.
    pub(super) fn failed(&self, now: Instant) {
        self.notes.lock().lost_at.get_or_insert(now);
    }

    /// It is registered.
    pub(super) fn is_there(&self) {
        self.notes.lock().left_at = None;
    }

    /// It is not registered.
    pub(super) fn has_left(&self, now: Instant) {
        self.notes.lock().left_at.get_or_insert(now);
    }

    /// Whether it has left, and its proxies have had the time to come to somebody else.
    pub(super) fn is_gone(&self, now: Instant, grace: Duration) -> bool {
        let notes = self.notes.lock();
        notes.left_at.is_some_and(|left| now >= notes.lost_at.unwrap_or(left) + grace)
    }

    /// Takes what it says of itself.
    pub(super) fn says(&self, status: GetReplicaStatusResponse) {
        self.notes.lock().status = Some(status);
    }

    /// What it said last of itself.
    pub(super) fn said(&self) -> Option<GetReplicaStatusResponse> {
        self.notes.lock().status.clone()
    }
}
