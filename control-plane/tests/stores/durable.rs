//! The memory store with a data directory: what was acknowledged survives whatever ends the process.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use libtest_mimic::Trial;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use waypost_control_plane::store::{
    Commit, Finding, Lapsed, LeaseChange, LeaseStatus, Loaded, Memory, Mutation, Now, Renewal, Store,
    StoreError, StoreOptions, Watch, Written,
    conformance::{self, Fixture, ManualClock, Time, event, record},
    open,
};
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    v1::EventKind,
};

use crate::{Histories, Open, Opened, every_promise, history, trial};

const NAME: &str = "durable memory";
/// Set in a process that is to be killed, or to run out of space: which of both, and where.
const CHILD: &str = "WAYPOST_TEST_DURABLE_CHILD";
/// How often the process is killed.
const KILLS: usize = 20;
/// How many tasks commit in it.
const TASKS: usize = 4;

pub(crate) fn trials() -> Vec<Trial> {
    let fresh: Open = Arc::new(|| {
        Box::pin(async {
            let (directory, clock) = (directory(), ManualClock::new());
            let store = Arc::new(reopened(directory.path(), clock.now()));
            Opened { fixture: Fixture::new(store, Time::Manual(clock)), _holds: Box::new(directory) }
        })
    });
    let restarting: Open = Arc::new(|| {
        Box::pin(async {
            let (directory, clock) = (directory(), ManualClock::new());
            let store = Arc::new(Restarting::new(directory.path(), clock.clone()));
            Opened { fixture: Fixture::new(store, Time::Manual(clock)), _holds: Box::new(directory) }
        })
    });
    let mut trials = every_promise(NAME, &fresh, Histories { count: 5, steps: 60 });
    trials.extend([
        trial(NAME, "it is a plain map that restarts all the time", async move || {
            for seed in 0..5 {
                conformance::model::compare(&restarting().await.fixture, seed, 60).await;
            }
        }),
        trial(NAME, "a history of concurrent operations is linearizable", async || {
            let directory = directory();
            let store = Arc::new(reopened(directory.path(), Now::read()));
            history::hold_under(vec![store.clone(), store], async {}).await;
        }),
        trial(NAME, "a restart changes nothing but the leases", a_restart_changes_nothing_but_the_leases),
        trial(NAME, "what it forgets it forgets on disk too", what_it_forgets_it_forgets_on_disk_too),
        trial(NAME, "those that wait share a transaction", those_that_wait_share_a_transaction),
        trial(
            NAME,
            "what a killed process acknowledged is there",
            what_a_killed_process_acknowledged_is_there,
        ),
        trial(NAME, "a full disk refuses and recovers", a_full_disk_refuses_and_recovers),
        trial(NAME, "a directory belongs to one process", a_directory_belongs_to_one_process),
        trial(
            NAME,
            "a file that it cannot read is left as it is",
            a_file_that_it_cannot_read_is_left_as_it_is,
        ),
        trial(NAME, "how long a commit takes", how_long_a_commit_takes).with_ignored_flag(true),
    ]);
    trials
}

/// Runs what a test has started this program again for.
pub(crate) fn child() -> Option<ExitCode> {
    let task = std::env::var(CHILD).ok()?;
    let (task, directory) = task.split_once(' ').expect("what to do, and where");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    match task {
        "commit" => runtime.block_on(commit_until_killed(Path::new(directory))),
        _ => runtime.block_on(run_out_of_space(Path::new(directory))),
    }
    Some(ExitCode::SUCCESS)
}

/// This program, started again for a task; a file that grows beyond a limit is an error for it, not its end.
fn spawn_child(task: &str, directory: &Path) -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\""]).arg(program);
    command.env(CHILD, format!("{task} {}", directory.display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn reopened(directory: &Path, now: Now) -> Memory {
    when_free(directory, &StoreOptions::default(), now).expect("it opens")
}

/// Opens a directory, maybe one that was given back just now: a process that another test starts at that moment has
/// its lock, too, until it becomes its program.
fn when_free(directory: &Path, options: &StoreOptions, now: Now) -> Result<Memory, StoreError> {
    let begun = Instant::now();
    loop {
        match Memory::open(directory, options, now) {
            Err(StoreError::Refused(_)) if begun.elapsed() < Duration::from_secs(20) => thread::yield_now(),
            outcome => return outcome,
        }
    }
}

fn put(key: &str, epoch: u64, expected: Option<u64>, now: Now) -> Mutation {
    let record = record(key, epoch, now);
    let event = Some(event(&record, EventKind::Registered));
    Mutation::Put { record, expected, lease: LeaseChange::Grant, event }
}

/// The commits after a revision, as far as there are any.
async fn commits(store: &Memory, after: u64) -> Vec<Arc<Commit>> {
    let revision = store.load().await.expect("it loads").revision;
    let count = usize::try_from(revision - after).expect("not that many");
    let watch = store.watch(after).await.expect("it is watched");
    watch.take(count).map(|commit| commit.expect("a commit")).collect().await
}

/// All that a store says of itself, the instants aside.
async fn told(store: &Memory, after: u64) -> String {
    let commits = commits(store, after).await;
    let commits: Vec<_> = commits
        .iter()
        .map(|commit| (commit.revision, commit.at.wall, commit.written.clone(), commit.event.clone()))
        .collect();
    format!("{:#?}\n{commits:#?}", store.load().await.expect("it loads"))
}

/// A store that is closed and opened again before every third thing that it does.
struct Restarting {
    directory: PathBuf,
    clock: Arc<ManualClock>,
    memory: Mutex<(u32, Option<Arc<Memory>>)>,
}

impl Restarting {
    fn new(directory: &Path, clock: Arc<ManualClock>) -> Self {
        Self { directory: directory.to_owned(), clock, memory: Mutex::default() }
    }

    fn memory(&self) -> Arc<Memory> {
        let (turn, memory) = &mut *self.memory.lock().expect("no other test has failed in here");
        *turn += 1;
        if *turn % 3 == 0 {
            *memory = None;
        }
        memory.get_or_insert_with(|| Arc::new(reopened(&self.directory, self.clock.now()))).clone()
    }
}

#[tonic::async_trait]
impl Store for Restarting {
    fn url(&self) -> &str {
        "memory://"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.memory().load().await
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        self.memory().watch(after).await
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        self.memory().commit(mutation, now).await
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        self.memory().renew(leases, now).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        self.memory().lapsed(now).await
    }

    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        self.memory().leases(service, now).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.memory().examine().await
    }
}

async fn a_restart_changes_nothing_but_the_leases() {
    let (directory, clock) = (directory(), ManualClock::new());
    let directory = directory.path().join("made/by/itself");
    let memory = reopened(&directory, clock.now());
    for (path, mode) in [(directory.clone(), 0o700), (directory.join("registry.redb"), 0o600)] {
        let found = fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
    let commit = async |mutation| memory.commit(mutation, clock.now()).await.expect("it commits");
    let a = commit(put("users/a", 1, None, clock.now())).await;
    commit(put("users/b", 2, None, clock.now())).await;
    let found = Mutation::Put {
        record: record("orders/found", 3, clock.now()),
        expected: None,
        lease: LeaseChange::Keep,
        event: None,
    };
    commit(found).await;
    let c = commit(put("left/c", 1, None, clock.now())).await;
    let left = record("left/c", 1, clock.now());
    commit(Mutation::Remove {
        key: left.key().clone(),
        expected: c,
        lapsed: false,
        emptied: conformance::emptied(&left, clock.now()),
        event: event(&left, EventKind::Deregistered),
    })
    .await;
    commit(Mutation::Complete).await;
    commit(put("users/a", 4, Some(a), clock.now())).await;
    clock.pass(Duration::from_secs(9));
    let before = told(&memory, 0).await;
    drop(memory);

    let memory = reopened(&directory, clock.now());
    assert_eq!(told(&memory, 0).await, before);
    clock.pass(Duration::from_secs(9));
    assert!(
        memory.lapsed(clock.now()).await.expect("it answers").leases.is_empty(),
        "a full length from the start"
    );
    let mut lapsed = memory.lapsed(clock.pass(Duration::from_secs(1))).await.expect("it answers").leases;
    lapsed.sort();
    let leased = [("users/a", 4), ("users/b", 2)].map(|(key, epoch)| (key.parse().expect("a key"), epoch));
    assert_eq!(lapsed, leased, "what had no lease has none");
}

async fn what_it_forgets_it_forgets_on_disk_too() {
    let (directory, clock) = (directory(), ManualClock::new());
    let options = StoreOptions { remembered: 3, events: 5, ..StoreOptions::default() };
    let open = || when_free(directory.path(), &options, clock.now()).expect("it opens");
    let mut memory = open();
    let mut revision = None;
    for epoch in 0..10 {
        revision = Some(
            memory
                .commit(put("users/a", epoch, revision, clock.now()), clock.now())
                .await
                .expect("it commits"),
        );
        let before = told(&memory, epoch.saturating_sub(2)).await;
        drop(memory);
        memory = open();
        assert_eq!(told(&memory, epoch.saturating_sub(2)).await, before);
    }
    assert_eq!(memory.watch(6).await.err(), Some(StoreError::Compacted { oldest: 7 }));
    let events: Vec<_> =
        memory.load().await.expect("it loads").events.iter().map(|past| past.revision).collect();
    assert_eq!(events, [6, 7, 8, 9, 10]);
    drop(memory);
    let less = StoreOptions { remembered: 1, events: 1, ..options.clone() };
    let memory = when_free(directory.path(), &less, clock.now());
    let memory = memory.expect("it opens with less to remember");
    assert_eq!(memory.watch(8).await.err(), Some(StoreError::Compacted { oldest: 9 }));
}

/// Were each to sync by itself, so many would take seconds on any disk that keeps its promises.
async fn those_that_wait_share_a_transaction() {
    let directory = directory();
    let memory = reopened(directory.path(), Now::read());
    let commit = |number| memory.commit(put(&format!("users/i{number}"), 1, None, Now::read()), Now::read());
    let mut took = Vec::new();
    // A pause of the machine's may hit those that wait: then others try again.
    for first in [0, 2000, 4000] {
        let alone = Instant::now();
        for number in first..first + 20 {
            commit(number).await.expect("it commits");
        }
        let alone = alone.elapsed() / 20;
        let together = Instant::now();
        let outcomes = futures_util::future::join_all((first + 20..first + 1020).map(commit)).await;
        let together = together.elapsed() / 1000;
        assert!(outcomes.iter().all(Result::is_ok));
        let mut revisions: Vec<u64> =
            outcomes.into_iter().map(|outcome| outcome.expect("it commits")).collect();
        revisions.dedup();
        assert!(revisions.is_sorted() && revisions.len() == 1000, "each has a revision of its own, in order");
        if together < alone {
            return;
        }
        took.push((together, alone));
    }
    panic!("each of a thousand took as long as one alone: {took:?}");
}

/// Commits in several tasks, each to an instance of its own, and says what was acknowledged.
async fn commit_until_killed(directory: &Path) {
    let memory = Arc::new(reopened(directory, Now::read()));
    let loaded = memory.load().await.expect("it loads");
    let mut held: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in &loaded.records {
        held.insert(record.key().id().to_owned(), (record.epoch, record.revision));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (memory, id) = (memory.clone(), format!("i{task}"));
        let found = held.get(&id).copied();
        tasks.spawn(async move {
            let (mut epoch, mut expected) =
                found.map_or((0, None), |(epoch, revision)| (epoch, Some(revision)));
            loop {
                epoch += 1;
                let mutation = put(&format!("users/{id}"), epoch, expected, Now::read());
                let revision = memory.commit(mutation, Now::read()).await.expect("it commits");
                expected = Some(revision);
                let line = format!("{revision} {id} {epoch}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).expect("somebody reads");
            }
        });
    }
    tasks.join_next().await.expect("there are tasks").expect("it goes on until it is killed");
}

async fn what_a_killed_process_acknowledged_is_there() {
    let directory = directory();
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut seen, mut acknowledged, mut history) = (0, 0, None);
    for _ in 0..KILLS {
        let mut child = spawn_child("commit", directory.path());
        let output = child.stdout.take().expect("it is piped");
        let reader = thread::spawn(move || {
            let lines = BufReader::new(output).lines();
            let mut acks: BTreeMap<u64, (String, u64)> = BTreeMap::new();
            for line in lines.map_while(Result::ok) {
                let mut words = line.split(' ');
                let mut word = || words.next().expect("three words");
                let revision = word().parse().expect("a revision");
                acks.insert(revision, (word().to_owned(), word().parse().expect("an epoch")));
            }
            acks
        });
        tokio::time::sleep(Duration::from_millis(rng.u64(50..400))).await;
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let acks = reader.join().expect("it reads to the end");
        acknowledged += acks.len();

        let memory = reopened(directory.path(), Now::read());
        let loaded = memory.load().await.expect("it loads");
        assert_eq!(*history.get_or_insert(loaded.history.clone()), loaded.history);
        let mut by_watch: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for commit in commits(&memory, seen.max(loaded.revision.saturating_sub(4096))).await {
            assert!(commit.revision > seen, "revisions go on");
            let Written::Put(record) = &commit.written else {
                panic!("nothing else was committed: {commit:?}")
            };
            let written = (record.key().id().to_owned(), record.epoch);
            if let Some(ack) = acks.get(&commit.revision) {
                assert_eq!(*ack, written, "revision {} is what was acknowledged", commit.revision);
            }
            by_watch.insert(written.0, (written.1, commit.revision));
        }
        let last = acks.keys().last().copied().unwrap_or(seen);
        assert!(loaded.revision >= last, "{last} was acknowledged, and {} is there", loaded.revision);
        for record in &loaded.records {
            let kept = (record.epoch, record.revision);
            assert!(
                by_watch.get(record.key().id()).is_none_or(|told| *told == kept),
                "watching and loading agree"
            );
        }
        seen = loaded.revision;
    }
    assert!(acknowledged > KILLS, "the processes lived long enough to commit: {acknowledged}");
}

async fn a_full_disk_refuses_and_recovers() {
    let directory = directory();
    let output = spawn_child("fill", directory.path()).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Commits until a limit on the size of files stands in for a full disk, and goes on once it is lifted.
async fn run_out_of_space(directory: &Path) {
    let memory = reopened(directory, Now::read());
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).expect("there is a limit");
    let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, most).expect("the soft limit is ours");
    let size = fs::metadata(directory.join("registry.redb")).expect("it is there").len();
    limit(size + (64 << 10));
    let commit = async |number: u64| {
        memory.commit(put(&format!("users/i{number}"), 1, None, Now::read()), Now::read()).await
    };
    let mut watch = memory.watch(0).await.expect("it is watched");
    let mut acknowledged = 0;
    let refused = loop {
        let several = (0..16).map(|number| commit(acknowledged + number));
        let outcomes = futures_util::future::join_all(several).await;
        acknowledged = outcomes.iter().flatten().copied().max().unwrap_or(acknowledged);
        if let Some(error) = outcomes.into_iter().find_map(Result::err) {
            break error.to_string();
        }
    };
    // Not even what was acknowledged would fit into a new file.
    limit(4096);
    assert!(
        refused.contains("registry.redb cannot be written") && refused.contains("try again"),
        "{refused}"
    );
    for revision in 1..=acknowledged {
        let commit = watch.next().await.expect("it goes on").expect("a commit");
        assert_eq!(commit.revision, revision);
    }
    let early = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
    assert!(early.is_err(), "nobody sees what is not on disk: {early:?}");
    assert!(commit(acknowledged).await.is_err(), "there is still no space");
    assert_eq!(memory.load().await.expect("readers go on").revision, acknowledged);
    let findings = memory.examine().await.expect("it answers");
    assert!(findings.iter().any(|finding| !finding.good && !finding.remedy.is_empty()), "{findings:?}");
    let beat = ("users/i0".parse().expect("a key"), 1);
    assert_eq!(memory.renew(&[beat], Now::read()).await, Ok(vec![Renewal::Renewed]), "beats go on");

    limit(most);
    let begun = Instant::now();
    let revision = loop {
        match commit(acknowledged).await {
            Ok(revision) => break revision,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(revision, acknowledged + 1, "what was refused has left nothing behind");
    assert!(memory.examine().await.expect("it answers").iter().all(|finding| finding.good));
    let before = told(&memory, revision - 100).await;
    drop(memory);
    assert_eq!(told(&reopened(directory, Now::read()), revision - 100).await, before);
}

async fn a_directory_belongs_to_one_process() {
    let directory = directory();
    let memory = reopened(directory.path(), Now::read());
    let options = StoreOptions { data_dir: Some(directory.path().to_owned()), ..StoreOptions::default() };
    let error = open("memory://", &options).await.err().expect("it is taken").to_string();
    assert!(
        error.contains(&directory.path().display().to_string()) && error.contains("stop that one"),
        "{error}"
    );
    drop(memory);
    drop(reopened(directory.path(), Now::read()));
    let file = directory.path().join("registry.redb").join("below-a-file");
    let options = StoreOptions { data_dir: Some(file.clone()), ..options };
    let error = open("memory://", &options).await.err().expect("no such directory can be").to_string();
    assert!(error.contains(&file.display().to_string()) && error.contains("--data-dir must be"), "{error}");
}

async fn a_file_that_it_cannot_read_is_left_as_it_is() {
    let directory = directory();
    let file = directory.path().join("registry.redb");
    let memory = reopened(directory.path(), Now::read());
    for number in 0..50 {
        memory
            .commit(put(&format!("users/i{number}"), 1, None, Now::read()), Now::read())
            .await
            .expect("it commits");
    }
    let before = told(&memory, 0).await;
    drop(memory);
    let good = fs::read(&file).expect("it is there");
    let mut rng = fastrand::Rng::with_seed(3);
    let mut spoilt: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"a file of somebody else".to_vec(),
        good[..good.len() / 2].to_vec(),
        good[..4096].to_vec(),
    ];
    let used: Vec<usize> = (0..good.len())
        .step_by(512)
        .filter(|at| good[*at..].iter().take(512).any(|byte| *byte != 0))
        .collect();
    for _ in 0..30 {
        let mut bytes = good.clone();
        let at = used[rng.usize(..used.len())];
        let end = bytes.len().min(at + 512);
        bytes[at..end].fill(rng.u8(1..));
        spoilt.push(bytes);
    }
    let mut refused = 0;
    for bytes in spoilt {
        fs::write(&file, &bytes).expect("it is written");
        match when_free(directory.path(), &StoreOptions::default(), Now::read()) {
            // What was hit was of no use.
            Ok(memory) => assert_eq!(told(&memory, 0).await, before),
            Err(error) => {
                refused += 1;
                let told = error.to_string();
                assert!(
                    matches!(error, StoreError::Malformed { .. }) && told.contains("registry.redb"),
                    "{told}"
                );
                assert!(fs::read(&file).expect("it is there") == bytes, "it is left as it is");
            }
        }
    }
    assert!(refused > 4, "some of the damage matters: {refused}");
}

fn said(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("somebody reads");
}

/// Prints what a commit costs here, next to what the disk's own sync costs.
async fn how_long_a_commit_takes() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the disk");
    let median = |mut times: Vec<Duration>| {
        times.sort();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    let mut file = fs::File::create(directory.path().join("plain")).expect("a file");
    let mut syncs = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        file.write_all(&[7; 4096]).expect("it is written");
        file.sync_data().expect("it is synced");
        syncs.push(begun.elapsed());
    }
    said(&format!("write 4 KiB + fdatasync: p50, p99 {:?}", median(syncs)));
    let memory = reopened(directory.path(), Now::read());
    let timed = async |number: u64| {
        let begun = Instant::now();
        memory
            .commit(put(&format!("users/i{number}"), 1, None, Now::read()), Now::read())
            .await
            .expect("it commits");
        begun.elapsed()
    };
    let mut alone = Vec::new();
    for number in 0..500 {
        alone.push(timed(number).await);
    }
    said(&format!("one commit after the other: p50, p99 {:?}", median(alone)));
    for together in [10, 100, 1000] {
        let begun = Instant::now();
        let first = together * 1_000_000;
        let each = futures_util::future::join_all((first..first + together).map(timed)).await;
        said(&format!("{together} at once: {:?} in all, each p50, p99 {:?}", begun.elapsed(), median(each)));
    }
}
