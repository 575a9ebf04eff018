//! What the subscription is doing, for the admin port.

use std::time::SystemTime;

use parking_lot::Mutex;
use waypost_proto::v1::Position;

/// A moment of the subscription.
#[derive(Clone, Debug)]
pub struct StatusView {
    /// The control plane that is connected.
    pub connected_to: Option<String>,
    /// Since when it is, or is not.
    pub since: SystemTime,
    /// What is served by.
    pub position: Option<Position>,
    /// Whether what is served by was read from the state directory and not confirmed since.
    pub restored: bool,
    /// How many times everything was asked for again.
    pub resyncs: u64,
    /// The last failure, with its time.
    pub last_error: Option<(SystemTime, String)>,
}

/// The subscription's state, shared with the admin port.
#[derive(Debug)]
pub struct Status(Mutex<StatusView>);

impl Status {
    /// Not connected since `now`, with nothing to serve by.
    pub fn new(now: SystemTime) -> Self {
        Self(Mutex::new(StatusView {
            connected_to: None,
            since: now,
            position: None,
            restored: false,
            resyncs: 0,
            last_error: None,
        }))
    }

    /// As it is now.
    pub fn view(&self) -> StatusView {
        self.0.lock().clone()
    }

    pub(crate) fn restored(&self, position: Option<Position>) {
        let mut status = self.0.lock();
        status.restored = position.is_some();
        status.position = position;
    }

    pub(super) fn connected(&self, url: &str) {
        let mut status = self.0.lock();
        status.connected_to = Some(url.to_owned());
        status.since = SystemTime::now();
    }

    pub(super) fn disconnected(&self) {
        let mut status = self.0.lock();
        if status.connected_to.take().is_some() {
            status.since = SystemTime::now();
        }
    }

    pub(super) fn applied(&self, position: Option<Position>) {
        let mut status = self.0.lock();
        status.position = position;
        status.restored = false;
    }

    pub(super) fn failed(&self, reason: &str, resyncs: u64) {
        let mut status = self.0.lock();
        status.last_error = Some((SystemTime::now(), reason.to_owned()));
        status.resyncs = resyncs;
    }
}
