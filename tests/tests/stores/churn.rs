//! Registrations that come and go all the time, and a record of what was acknowledged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waypost_proto::v1::InstanceKey;
use waypost_tests::api::{Api, spec};

const SERVICE: &str = "churn";
const PERIOD: Duration = Duration::from_millis(50);
/// Longer than the test, since nobody beats for them.
const LEASE: Duration = Duration::from_secs(3600);

/// What is known of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Its registration was acknowledged, and nobody asked for it to leave.
    There,
    /// Its deregistration was acknowledged.
    Gone,
    /// The last call about it failed: it may have been done or not.
    Unknown,
}

/// A task that registers and deregisters.
pub(super) struct Churn {
    known: Arc<Mutex<BTreeMap<String, Known>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Churn {
    /// Begins, at all these control planes in turn.
    pub(super) fn start(planes: Vec<Api>) -> Self {
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(work(planes, known.clone(), stop.clone()));
        Self { known, stop, task }
    }

    /// Stops; then `there` must hold what was acknowledged.
    pub(super) async fn stop(self) -> Acknowledged {
        self.stop.cancel();
        self.task.await.expect("the churn ends well");
        let known = std::mem::take(&mut *self.known.lock());
        Acknowledged(known)
    }
}

/// What was acknowledged.
pub(super) struct Acknowledged(BTreeMap<String, Known>);

impl Acknowledged {
    /// How many outcomes are known.
    pub(super) fn count(&self) -> usize {
        self.0.values().filter(|known| **known != Known::Unknown).count()
    }

    /// Compares with what a control plane holds.
    pub(super) async fn held_by(&self, plane: &Api) -> Result<(), String> {
        let held = plane.instances(SERVICE).await.map_err(|status| status.to_string())?;
        let held: Vec<&str> =
            held.iter().filter_map(|one| one.key.as_ref()).map(|key| key.id.as_str()).collect();
        let is_held = |id: &String| held.contains(&id.as_str());
        let lost: Vec<&String> = self.ids(Known::There).filter(|id| !is_held(id)).collect();
        let ghosts: Vec<&String> = self.ids(Known::Gone).filter(|id| is_held(id)).collect();
        if lost.is_empty() && ghosts.is_empty() {
            Ok(())
        } else {
            Err(format!("lost after it was acknowledged: {lost:?}; there after its removal was: {ghosts:?}"))
        }
    }

    fn ids(&self, wanted: Known) -> impl Iterator<Item = &String> {
        self.0.iter().filter(move |(_, known)| **known == wanted).map(|(id, _)| id)
    }
}

async fn work(planes: Vec<Api>, known: Arc<Mutex<BTreeMap<String, Known>>>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0_usize.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let plane = &planes[number % planes.len()];
        let id = format!("c-{number}");
        let mut declared = spec(SERVICE, "127.0.0.1:9");
        declared.id.clone_from(&id);
        declared.prefix = Some(String::new());
        let registered = plane.register(&declared, LEASE).await;
        let state = if registered.is_ok() { Known::There } else { Known::Unknown };
        known.lock().insert(id.clone(), state);
        let Ok(registered) = registered else { continue };
        // Two of three leave again, through another control plane.
        if number % 3 != 0 {
            let key = InstanceKey { service: SERVICE.into(), id: id.clone(), ..Default::default() };
            let other = &planes[(number + 1) % planes.len()];
            let gone = other.deregister(&key, registered.epoch, None).await;
            // Another replica may not have heard of it yet, and says so: then it is still there.
            let state = match gone {
                Ok(_) => Known::Gone,
                Err(status) if status.code() == tonic::Code::NotFound => Known::There,
                Err(_) => Known::Unknown,
            };
            known.lock().insert(id, state);
        }
    }
}
