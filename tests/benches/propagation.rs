//! From commit to applied: 50 subscribers, 10,000 instances, 100 changes a second.
//!
//! The subscribers run in this process; each applies every delta to a snapshot of its own and reports it, as a
//! proxy does. Two clocks tell how long that took: ours, from the commit time that a delta carries to the end
//! of applying it, and the control plane's, from commit to the report of each proxy.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use tokio::time::{MissedTickBehavior, interval, sleep};
use waypost_proto::{
    time,
    v1::{SubscribeResponse, subscribe_response::Kind},
};
use waypost_tests::{
    api::Api,
    cluster::ControlPlane,
    measure::{Subscriber, big, register_all, say},
};

const SUBSCRIBERS: u32 = 50;
const INSTANCES: u32 = 10_000;
const CHANGES_A_SECOND: u32 = 100;
const SECONDS: u32 = 20;
const TARGET_P99: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() {
    let plane = ControlPlane::start(&[]).await;
    register_all(&plane.api, (0..INSTANCES).map(big)).await;
    let first = plane.api.status().await.expect("a status").revision;
    let last = first + u64::from(CHANGES_A_SECOND * SECONDS);

    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        // Each has a connection of its own, as proxies have.
        let api = Api::new(plane.grpc);
        let subscriber = Subscriber::start(&api, &format!("bench-{number}")).await;
        subscribers.push(tokio::spawn(follow(subscriber, last)));
    }
    let mut ticks = interval(Duration::from_secs(1) / CHANGES_A_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..CHANGES_A_SECOND * SECONDS {
        ticks.tick().await;
        let mut instance = big(number % INSTANCES);
        instance.version = format!("2.0.{number}");
        plane.api.register(&instance, Duration::from_secs(3600)).await.expect("a lease");
    }
    let mut all = histogram();
    let mut deltas = 0;
    for subscriber in subscribers {
        let (applied, count) = subscriber.await.expect("the subscriber ends well");
        all.add(applied).expect("the histograms are alike");
        deltas += count;
    }
    // The last reports are on their way.
    sleep(Duration::from_millis(200)).await;
    let status = plane.api.status().await.expect("a status");
    let propagation = status.propagation.unwrap_or_default();
    let theirs =
        |wire: Option<pbjson_types::Duration>| wire.as_ref().and_then(time::duration).unwrap_or_default();

    say(format!(
        "commit -> applied: {SUBSCRIBERS} subscribers, {INSTANCES} instances, {CHANGES_A_SECOND} changes a second"
    ));
    let at = |quantile| Duration::from_micros(all.value_at_quantile(quantile));
    say(format!("  by our clock          p50 {:?}   p99 {:?}   max {:?}", at(0.5), at(0.99), at(1.0)));
    say(format!(
        "  by the control plane  p50 {:?}   p99 {:?}   max {:?}",
        theirs(propagation.p50),
        theirs(propagation.p99),
        theirs(propagation.max)
    ));
    let changes = u64::from(CHANGES_A_SECOND * SECONDS * SUBSCRIBERS);
    say(format!("  {deltas} deltas for {changes} (change, subscriber) pairs"));
    say(format!(
        "  target: p99 <= {TARGET_P99:?}: {}",
        if at(0.99) <= TARGET_P99 { "met" } else { "MISSED" }
    ));
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// Applies deltas up to a revision; how long each took in microseconds, and how many there were.
async fn follow(mut subscriber: Subscriber, last: u64) -> (Histogram<u64>, u64) {
    let (mut took, mut count) = (histogram(), 0);
    while subscriber.revision() < last {
        let message = subscriber.apply_next().await;
        let SubscribeResponse { kind: Some(Kind::Delta(delta)) } = message else { continue };
        let committed = delta.committed_at.as_ref().map_or(SystemTime::UNIX_EPOCH, time::system_time);
        let elapsed = SystemTime::now().duration_since(committed).unwrap_or_default();
        took.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        count += 1;
    }
    (took, count)
}
