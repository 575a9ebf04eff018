//! What only Redis promises, and what must hold when it fails.

use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    Vec::new()
}

/// The permissions that a user needs, as `REDIS.md` says them.
pub(super) fn grants() -> Vec<&'static str> {
    let page = include_str!("../../../src/store/REDIS.md");
    let rule = page.lines().find(|line| line.contains("+evalsha")).expect("the page says which");
    rule.split_whitespace().filter(|word| word.starts_with('+')).collect()
}
