//! What is kept of the past, and what is not.

use http::{HeaderMap, Method};
use proptest::prelude::*;
use waypost_proto::{
    snapshot::Change,
    v1::{CertificateEntry, DeclaredEntry, Position, declared_entry::Kind},
};

use super::*;
use crate::table::declared::{
    RequestView,
    explain::{Outcome, explain},
    tests::{Scene, instance, prefix, service, simple},
};

/// Tables as they follow each other, without what they are compiled from.
struct Steps {
    scene: Scene,
    past: Past,
    table: Arc<Table>,
    now: Instant,
}

impl Steps {
    fn new() -> Self {
        let mut scene = Scene::new();
        let table = scene.change(Change { services: vec![service("s")], ..Change::default() });
        Self { scene, past: Past::default(), table, now: Instant::now() }
    }

    fn take(&mut self, change: Change, after: Duration) -> u64 {
        self.now += after;
        let next = self.scene.change(change);
        drop(self.past.note(&self.table, &next, self.now));
        self.table = next;
        self.table.position.revision
    }

    fn reroute(&mut self, number: u64, after: Duration) -> u64 {
        let declared = vec![simple("r", "", prefix(&format!("/p{number}")), "s")];
        self.take(Change { declared, ..Change::default() }, after)
    }

    fn register(&mut self, number: u64, after: Duration) -> u64 {
        let instances = vec![instance("s", &format!("i{number}"), "", &[])];
        self.take(Change { instances, ..Change::default() }, after)
    }
}

/// What the one route asks for.
fn asks(table: &Table) -> Option<String> {
    let headers = HeaderMap::new();
    match explain(table, &RequestView::plain(&Method::GET, "/nowhere", &headers)).outcome {
        Outcome::NoRoute { nearest, .. } => nearest.first().map(|miss| miss.asks.clone()),
        other => panic!("something takes it: {other:?}"),
    }
}

#[test]
fn a_burst_of_instances_does_not_push_out_what_routing_was() {
    let mut steps = Steps::new();
    let routed = steps.reroute(1, APART);
    for number in 0..100 {
        steps.register(number, Duration::from_millis(1));
    }
    let last = steps.table.position.revision;
    let other = steps.reroute(2, Duration::ZERO);
    assert_eq!(steps.past.revisions(), [1, routed, last]);
    for revision in routed..=last {
        let table = steps.past.at(revision).expect("it is kept");
        assert_eq!(asks(&table).as_deref(), Some("/p1/*"), "at {revision}");
    }
    assert_eq!(asks(&steps.past.at(1).expect("it is kept")), None);
    assert!(steps.past.at(0).is_none(), "older than all");
    // Where nothing but instances changes, one a second is kept, until there is no room.
    for number in 0..100 {
        steps.register(number, APART);
    }
    let kept = steps.past.revisions();
    assert_eq!((kept.len(), &kept[..3]), (MOST, &[1, routed, other][..]));
}

#[test]
fn nothing_of_another_history_is_kept_nor_what_has_the_same_number() {
    let mut steps = Steps::new();
    let routed = steps.reroute(1, APART);
    // The own port is known: the same revision once more.
    let mut same = Table::clone(&steps.table);
    same.declared.listen_on(8080);
    drop(steps.past.note(&steps.table, &same, steps.now));
    assert_eq!(steps.past.revisions(), [1]);
    steps.table = Arc::new(same);
    steps.register(0, Duration::ZERO);
    assert_eq!(steps.past.revisions(), [1, routed], "it is the first with its routing");
    let mut other = Table::clone(&steps.table);
    other.position = Position { history: "another".to_owned(), revision: 900, digest: 0 };
    drop(steps.past.note(&steps.table, &other, steps.now));
    assert_eq!(steps.past.revisions(), [0; 0]);
}

#[test]
fn what_is_kept_holds_no_private_key() {
    let mut steps = Steps::new();
    let certificate = CertificateEntry { chain: b"public".to_vec(), key: b"private".to_vec() };
    let id = "certificate/default/a".to_owned();
    let declared = vec![
        DeclaredEntry { id, kind: Some(Kind::Certificate(certificate)) },
        simple("r", "", prefix("/p0"), "s"),
    ];
    let revision = steps.take(Change { declared, ..Change::default() }, APART);
    assert!(format!("{:?}", steps.table).contains("112, 114, 105, 118, 97, 116, 101"), "the key's bytes");
    steps.reroute(1, APART);
    let kept = steps.past.at(revision).expect("it is kept");
    assert_eq!((kept.declared_entries().count(), kept.edge().ports().count()), (0, 0));
    assert!(!format!("{kept:?}").contains("112, 114, 105, 118, 97, 116, 101"));
    assert_eq!(asks(&kept).as_deref(), Some("/p0/*"), "and it is known all the same what routing was");
}

#[test]
fn the_table_of_a_revision_is_found_or_what_is_kept_is_named() {
    let mut scene = Scene::new();
    let shared = scene.shared();
    let refused = shared.at(1).expect_err("there is none yet");
    assert_eq!(refused.current, None);
    scene.declare(vec![simple("r", "", prefix("/a"), "s")]);
    assert!(shared.at(1).expect("it is current").is_current);
    assert!(shared.at(2).expect_err("not yet").to_string().contains("newer than the current one here, 1"));
    assert!(shared.at(0).expect_err("too old").to_string().ends_with("and none before it is kept"));
    scene.declare(vec![simple("r", "", prefix("/b"), "s")]);
    scene.declare(vec![simple("r", "", prefix("/c"), "s")]);
    let served = shared.at(2).expect("it is kept");
    assert_eq!((asks(&served.table).as_deref(), served.is_current), (Some("/b/*"), false));
    let refused = shared.at(0).expect_err("too old").to_string();
    assert!(refused.contains("any from 1 to 3 can be asked for (kept: 1, 2)"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever comes after what: each revision that can be asked for is answered by the routing that it had.
    #[test]
    fn routing_is_that_of_the_revision(steps in proptest::collection::vec((any::<bool>(), 0_u64..1500), 1..60)) {
        let mut run = Steps::new();
        let mut was = vec![(1, None)];
        for (number, (reroutes, millis)) in (0..).zip(steps) {
            let after = Duration::from_millis(millis);
            let revision = if reroutes { run.reroute(number, after) } else { run.register(number, after) };
            was.push((revision, asks(&run.table)));
        }
        let current = run.table.position.revision;
        let oldest = run.past.revisions().first().copied().unwrap_or(current);
        prop_assert!(run.past.revisions().len() <= MOST);
        for (revision, path) in was.into_iter().filter(|(revision, _)| *revision < current) {
            match run.past.at(revision) {
                Some(table) => prop_assert_eq!(asks(&table), path, "at {}", revision),
                None => prop_assert!(revision < oldest),
            }
        }
    }
}
