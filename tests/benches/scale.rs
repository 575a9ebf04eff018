//! What grows with the registry and what must not: bytes per change, and memory per instance.

use std::time::Duration;

use prost::Message;
use waypost_tests::{
    cluster::Cluster,
    measure::{Subscriber, big, register_all, resident, say},
};

const SMALL: u32 = 1_000;
const LARGE: u32 = 100_000;
const CHANGES: u32 = 200;

#[tokio::main]
async fn main() {
    let cluster = Cluster::builder().start().await;
    let memory = || {
        let plane = resident(cluster.control_plane.process.id());
        (plane, resident(cluster.proxies[0].process.id()))
    };
    let mut bytes = Vec::new();
    let mut resident = vec![(0, memory())];
    let mut registered = 0;
    for size in [SMALL, LARGE] {
        register_all(cluster.api(), (registered..size).map(big)).await;
        registered = size;
        cluster.converged().await;
        resident.push((size, memory()));
        bytes.push((size, bytes_per_change(&cluster, size).await));
    }

    say("bytes per change per subscriber (message, without gRPC's 5 bytes)");
    for (size, bytes) in &bytes {
        say(format!("  {size:>7} instances   {bytes:.1}"));
    }
    let ratio = bytes[1].1 / bytes[0].1;
    say(format!("  ratio {ratio:.2}; target: flat: {}", if ratio < 1.1 { "met" } else { "MISSED" }));

    say("resident memory (MiB), and bytes for each further instance");
    for pair in resident.windows(2) {
        let [(few, (plane_few, proxy_few)), (many, (plane_many, proxy_many))] = pair else { continue };
        let mib = |bytes: u64| bytes / (1 << 20);
        let each =
            |few_bytes: u64, many_bytes: u64| many_bytes.saturating_sub(few_bytes) / u64::from(many - few);
        say(format!(
            "  {few:>6} -> {many:>6} instances   control plane {:>4} MiB, {:>5} B per instance   proxy {:>4} MiB, \
             {:>5} B per endpoint",
            mib(*plane_many),
            each(*plane_few, *plane_many),
            mib(*proxy_many),
            each(*proxy_few, *proxy_many)
        ));
    }
}

/// The mean length of deltas that each carry one change.
async fn bytes_per_change(cluster: &Cluster, instances: u32) -> f64 {
    let mut subscriber = Subscriber::start(cluster.api(), "bench").await;
    let mut bytes = 0;
    for number in 0..CHANGES {
        let mut instance = big(number * (instances / CHANGES));
        instance.version = format!("2.{}.{}", instances % 7, 1000 + number);
        cluster.api().register(&instance, Duration::from_secs(3600)).await.expect("a lease");
        bytes += subscriber.apply_next().await.encoded_len();
    }
    bytes as f64 / f64::from(CHANGES)
}
