//! Fuzzes for some seconds (`FUZZ_SECONDS`, 2), with no need of a nightly compiler: seeds as they are, then seeds that
//! were edited by lot, a few edits at a time, so that a failure comes down to few of them.
//!
//! Deliberately absent: a look at what inputs cover; that is libFuzzer's (`make fuzz`).

use std::{
    env, fs,
    io::{self, Write as _},
    panic::catch_unwind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestError, TestRunner},
};
use waypost_fuzz::{Target, hpack, http2, matching, paths, resources};

/// The longest input; libFuzzer's is the same.
const LONGEST: usize = 4096;
/// How many inputs are tried between two looks at the clock.
const ROUND: u32 = 8;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What an input is made of that is another one, edited.
#[derive(Clone, Debug)]
enum Edit {
    /// A byte is another one.
    Set(Index, u8),
    /// Bytes come in between.
    Insert(Index, Vec<u8>),
    /// Some go.
    Remove(Index, usize),
    /// A part of a seed comes in between.
    Splice { at: Index, seed: Index, from: Index, length: usize },
}

fn edit() -> impl Strategy<Value = Edit> {
    let telling = b"\0\t\n \"#%&'*+,-./09:;=?@AZ[\\]_az{|}~\x7f\x80\xc3\xe2\xff".to_vec();
    let byte = prop_oneof![select(telling), any::<u8>()].boxed();
    let at = any::<Index>;
    prop_oneof![
        (at(), byte.clone()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (at(), vec(byte, 1..16)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at(), 1..64_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        (at(), at(), at(), 1..256_usize).prop_map(|(at, seed, from, length)| Edit::Splice {
            at,
            seed,
            from,
            length
        }),
    ]
}

/// A seed after these edits.
fn edited(seeds: &[Vec<u8>], seed: Index, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = seed.get(seeds).clone();
    for edit in edits {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match edit {
            Edit::Set(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Edit::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Edit::Remove(at, length) => {
                let at = place(at);
                bytes.drain(at..bytes.len().min(at + length));
            }
            Edit::Splice { at, seed, from, length } => {
                let at = place(at);
                let other = seed.get(seeds);
                let from = from.index(other.len() + 1);
                let part = &other[from..other.len().min(from + length)];
                bytes.splice(at..at, part.iter().copied());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// What lies in `seeds`, and an input that is empty.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    let Ok(entries) = fs::read_dir(folder().join("seeds").join(name)) else { return seeds };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    seeds.extend(paths.iter().map(|path| fs::read(path).expect("a seed")));
    seeds
}

/// The documents of the cases of `proto/tests/refusals`.
fn documents() -> Vec<Vec<u8>> {
    let cases = folder().join("../../proto/tests/refusals");
    let mut documents = Vec::new();
    for entry in fs::read_dir(cases).expect("the cases") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a text");
        let blocks = text.split("\n```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next());
        documents.extend(blocks.map(|block| block.as_bytes().to_vec()));
    }
    assert!(documents.len() > 100, "the cases are found: {}", documents.len());
    documents
}

fn fuzz(name: &str, target: Target, seeds: &[Vec<u8>]) {
    for (number, seed) in seeds.iter().enumerate() {
        if catch_unwind(|| target(seed)).is_err() {
            report(name, seed, &format!("seed {number}"));
        }
    }
    let seconds = env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let end = Instant::now() + Duration::from_secs(seconds);
    let config = Config { cases: ROUND, failure_persistence: None, ..Config::default() };
    let mut tried = 0;
    while Instant::now() < end {
        let input = (any::<Index>(), vec(edit(), 1..12));
        let tried_all = TestRunner::new(config.clone()).run(&input, |(seed, edits)| {
            target(&edited(seeds, seed, &edits));
            Ok(())
        });
        match tried_all {
            Ok(()) => tried += ROUND,
            Err(TestError::Fail(why, (seed, edits))) => {
                report(name, &edited(seeds, seed, &edits), why.message());
            }
            Err(TestError::Abort(why)) => panic!("{name}: {why}"),
        }
    }
    // Past the test runner, which holds back what tests print that hold.
    let told = format!("fuzzed: {name} for {seconds} s, {tried} inputs\n");
    io::stderr().write_all(told.as_bytes()).expect("written");
}

/// Leaves an input where it is found again, and fails.
fn report(name: &str, input: &[u8], why: &str) -> ! {
    let found: PathBuf = Path::new("artifacts").join(format!("{name}-brief"));
    let path = folder().join(&found);
    fs::create_dir_all(folder().join("artifacts")).and_then(|()| fs::write(&path, input)).expect("written");
    panic!(
        "{name}: {why}\n{:?}\nThe input is in tests/fuzz/{}; once it is mended, move it to tests/fuzz/seeds/{name}",
        String::from_utf8_lossy(input),
        found.display()
    );
}

#[test]
fn documents_are_read_or_refused_and_stored_as_they_are() {
    let seeds = [seeds("resources"), documents()].concat();
    fuzz("resources", resources::run, &seeds);
}

#[test]
fn paths_mean_the_same_when_they_are_normalised_and_lead_out_of_nowhere() {
    fuzz("paths", paths::run, &seeds("paths"));
}

#[test]
fn a_table_that_was_changed_finds_what_a_new_one_finds() {
    fuzz("matching", matching::run, &seeds("matching"));
}

#[test]
fn an_http2_connection_keeps_to_the_rules_and_within_its_bounds() {
    fuzz("http2", http2::run, &seeds("http2"));
}

#[test]
fn headers_are_read_and_written_as_another_implementation_does() {
    fuzz("hpack", hpack::run, &seeds("hpack"));
}
