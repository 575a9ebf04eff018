//! What becomes of commits that come when something else was read in between.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::*;

fn step(revision: u64) -> Step {
    let commit = Commit { revision, at: Now::read(), written: Written::Completed, event: None };
    Step { id: revision, commit: Arc::new(commit), lease: LeaseChange::Keep }
}

fn head(revision: u64) -> Head {
    Head { history: "one".to_owned(), revision, ..Head::default() }
}

fn contents(revision: u64) -> Contents {
    Contents { revision, ..Contents::default() }
}

/// Begins with the first commits, each at the index of its revision.
fn read_up_to(revision: u64) -> Mirror {
    let log = (1..=revision).map(step).collect();
    let reading = Reading { head: head(revision), index: revision, contents: contents(revision), log };
    Mirror::new(&reading, 100, Layout::new("waypost"), mpsc::unbounded_channel().0, Now::read())
}

fn told(receiver: &mut mpsc::UnboundedReceiver<Watched>) -> Vec<u64> {
    std::iter::from_fn(|| receiver.try_recv().ok()).map(|told| told.expect("a commit").revision).collect()
}

#[test]
fn what_follows_on_something_unknown_waits_for_it() {
    let mut mirror = read_up_to(2);
    let mut watch = mirror.watch(1).expect("it is remembered");
    // Planned upon revision 3, which this mirror, read before, has not seen.
    mirror.install(&[step(4)], contents(4), head(4), 4, Now::read());
    assert_eq!(told(&mut watch), [2]);
    mirror.install(&[step(3)], contents(3), head(3), 3, Now::read());
    mirror.install(&[step(4)], contents(4), head(4), 4, Now::read());
    assert_eq!(told(&mut watch), [3, 4], "in order, and each");
    mirror.install(&[step(4)], contents(4), head(4), 4, Now::read());
    assert!(told(&mut watch).is_empty(), "once");
    assert_eq!(told(&mut mirror.watch(0).expect("it is remembered")), [1, 2, 3, 4]);
}
