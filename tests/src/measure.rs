//! What benchmarks share: the kernel's account of a process, medians, a subscriber that applies, and output.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use waypost_proto::{
    snapshot::Snapshot,
    v1::{
        Applied, Hello, InstanceSpec, SubscribeRequest, SubscribeResponse, subscribe_request,
        subscribe_response,
    },
};

use crate::api::{Api, spec};

/// A lease that no benchmark outlives.
const LEASE: Duration = Duration::from_secs(3600);
/// The kernel counts processor time in hundredths of a second (`sysconf(_SC_CLK_TCK)` on Linux).
const TICK: Duration = Duration::from_millis(10);

/// Prints a line of the benchmark's result.
#[expect(clippy::print_stdout, reason = "this is what a benchmark is run for")]
pub fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

/// The processor time that a process has used, user and system.
///
/// # Panics
/// It does not run.
pub fn cpu_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The second field is the name in brackets, which may hold blanks; proc(5) counts it as field 2.
    let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
    let field =
        |number: usize| fields.split_whitespace().nth(number - 3).and_then(|text| text.parse::<u32>().ok());
    let (user, system) = (field(14).unwrap_or(0), field(15).unwrap_or(0));
    TICK * (user + system)
}

/// The memory of a process that is resident, in bytes.
///
/// # Panics
/// It does not run.
pub fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    kilobytes * 1024
}

/// Whether a program is on the path, or where Debian puts servers.
pub fn find(program: &str) -> Option<String> {
    let paths = std::env::var("PATH").unwrap_or_default();
    let folders = paths.split(':').chain(["/usr/sbin", "/usr/local/sbin", "/sbin"]);
    folders.map(|folder| format!("{folder}/{program}")).find(|path| fs::metadata(path).is_ok())
}

/// Binds a process with all its threads to one core. Where that cannot be done, says so and goes on.
pub fn pin(pid: i32, core: usize) {
    let mut command = Command::new("taskset");
    command.args(["-a", "-c", "-p", &core.to_string(), &pid.to_string()]).stdout(Stdio::null());
    if !command.status().is_ok_and(|status| status.success()) {
        say(format!("  process {pid} is not pinned to core {core}: taskset failed"));
    }
}

/// The median, or the upper one of two.
///
/// # Panics
/// There are no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The specification of the `number`th instance of a big registry: 100 instances to a service.
pub fn big(number: u32) -> InstanceSpec {
    let [_, high, middle, low] = number.to_be_bytes();
    let mut instance = spec(&format!("service-{}", number / 100), &format!("10.{high}.{middle}.{low}:9000"));
    instance.version = "1.0.0".into();
    instance.zone = "zone-a".into();
    instance
}

/// Registers instances, many at a time.
///
/// # Panics
/// The control plane refuses one.
pub async fn register_all(api: &Api, instances: impl Iterator<Item = InstanceSpec>) {
    let registrations = stream::iter(instances).map(|instance| async move {
        api.register(&instance, LEASE).await.expect("a lease");
    });
    registrations.buffer_unordered(64).collect::<Vec<()>>().await;
}

/// A subscriber that does what a proxy does with the stream, except for routing by it.
pub struct Subscriber {
    responses: Streaming<SubscribeResponse>,
    requests: mpsc::Sender<SubscribeRequest>,
    snapshot: Option<Snapshot>,
}

impl Subscriber {
    /// Subscribes and applies the full snapshot.
    ///
    /// # Panics
    /// The control plane refuses, or what it sends cannot be applied.
    pub async fn start(api: &Api, id: &str) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let hello = Hello { proxy_id: id.to_owned(), version: "bench".into(), ..Default::default() };
        let kind = Some(subscribe_request::Kind::Hello(hello));
        requests.send(SubscribeRequest { kind }).await.expect("the channel is open");
        let mut client = api.snapshots().max_decoding_message_size(usize::MAX);
        let responses = client.subscribe(ReceiverStream::new(receiver)).await.expect("a subscription");
        let mut subscriber = Self { responses: responses.into_inner(), requests, snapshot: None };
        let mut chunks = Vec::new();
        while subscriber.snapshot.is_none() {
            let Some(subscribe_response::Kind::Chunk(chunk)) = subscriber.next().await.kind else {
                panic!("the first messages are chunks");
            };
            let last = chunk.last;
            chunks.push(chunk);
            if last {
                subscriber.snapshot = Some(Snapshot::from_chunks(&chunks).expect("a whole snapshot"));
            }
        }
        subscriber.acknowledge().await;
        subscriber
    }

    /// The next message.
    async fn next(&mut self) -> SubscribeResponse {
        let message = self.responses.message().await.expect("the stream goes on");
        message.expect("the stream goes on")
    }

    /// Waits for the next delta, applies it and says so; gives the delta as it came.
    ///
    /// # Panics
    /// Something else comes, or it cannot be applied.
    pub async fn apply_next(&mut self) -> SubscribeResponse {
        let message = self.next().await;
        let Some(subscribe_response::Kind::Delta(delta)) = &message.kind else { panic!("a delta") };
        let held = self.snapshot.as_ref().expect("the full snapshot came first");
        let (next, _) = held.apply(delta).expect("the delta builds on what is held");
        self.snapshot = Some(next);
        self.acknowledge().await;
        message
    }

    /// What it holds now.
    pub fn revision(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, Snapshot::revision)
    }

    async fn acknowledge(&mut self) {
        let position = self.snapshot.as_ref().map(Snapshot::position);
        let applied = Applied { position, draining: Vec::new() };
        let kind = Some(subscribe_request::Kind::Applied(applied));
        self.requests.send(SubscribeRequest { kind }).await.expect("the stream is open");
    }
}

/// What the `wrk` load generator printed: requests, and those that failed in any way.
pub fn wrk_result(output: &str) -> (u64, u64) {
    let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let requests = output.lines().find(|line| line.contains(" requests in ")).map_or(0, number);
    let failures = output.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    let numbers =
        failures.flat_map(|line| line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()));
    (requests, numbers.sum())
}

/// What the `h2load` load generator printed: requests, and those that failed in any way.
pub fn h2load_result(output: &str) -> (u64, u64) {
    let count = |prefix: &str, word: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or_default();
        let part = line.split(", ").find_map(|part| part.trim().strip_suffix(word)).unwrap_or_default();
        part.trim().parse::<u64>().unwrap_or(0)
    };
    let failed = ["failed", "errored", "timeout"].map(|word| count("requests:", word));
    let bad = ["3xx", "4xx", "5xx"].map(|word| count("status codes:", word));
    (count("requests:", "succeeded"), failed.into_iter().chain(bad).sum())
}

/// Prints measurements by name, the first of them as the measure of the others.
pub fn print_ratios(unit: &str, medians: &BTreeMap<&'static str, f64>, against: &str) {
    let base = medians.get(against).copied();
    for (name, value) in medians {
        let ratio = base.map_or(String::new(), |base| format!("   {:.2} x {against}", value / base));
        say(format!("  {name:<22} {value:>8.2} {unit}{ratio}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_this_process_can_be_read() {
        let own = i32::try_from(std::process::id()).expect("process ids are small");
        assert!(resident(own) > 1 << 20);
        assert!(cpu_time(own) < Duration::from_secs(3600));
    }

    #[test]
    fn what_wrk_prints_is_understood() {
        let clean = "  2 threads\n  123456 requests in 4.00s, 1.2MB read\n";
        assert_eq!(wrk_result(clean), (123_456, 0));
        let bad = "  10 requests in 1s\n  Socket errors: connect 0, read 3, write 0, timeout 1\n  Non-2xx or 3xx responses: 2\n";
        assert_eq!(wrk_result(bad), (10, 6));
    }

    #[test]
    fn what_h2load_prints_is_understood() {
        let counts = "requests: 90 total, 100 started, 90 done, 88 succeeded, 1 failed, 1 errored, 0 timeout";
        let text = format!("finished in 4.00s\n{counts}\nstatus codes: 87 2xx, 0 3xx, 0 4xx, 1 5xx\n");
        assert_eq!(h2load_result(&text), (88, 3));
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
