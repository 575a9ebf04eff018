//! Awaiting conditions: the only waiting that tests do.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks again and again until `look` succeeds, and gives what it found.
///
/// # Panics
/// It has not succeeded within `deadline`; says what was awaited and what was seen last.
pub async fn eventually<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => {
                assert!(begin.elapsed() < deadline, "{what}: not within {deadline:?}; last seen: {seen}");
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Looks again and again for the whole of `period`; `look` must succeed each time.
///
/// # Panics
/// It failed once; says what had to hold and what was seen.
pub async fn throughout<E: Display>(
    what: &str,
    period: Duration,
    mut look: impl AsyncFnMut() -> Result<(), E>,
) {
    let begin = Instant::now();
    while begin.elapsed() < period {
        if let Err(seen) = look().await {
            panic!("{what}: failed after {:?}: {seen}", begin.elapsed());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// `Ok` where `condition` holds, else what was seen instead.
///
/// # Errors
/// `seen`, where the condition does not hold.
pub fn holds(condition: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(seen()) }
}
