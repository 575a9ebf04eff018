//! `waypost dev --demo --tour`: the main job with real requests, act by act.
//!
//!     register & route ──▶ balance ──▶ replace under load ──▶ kill under load ──▶ outage under load
//!
//! Each act says what it does, counts what it sent, and names what did not hold; the exit code is the sum.
//! Deliberately absent: how things are started; see [`crate::dev`].

mod acts;
mod load;
mod report;

use tokio::time::Instant;

use self::{acts::Tour, report::Report};
use crate::{dev::Stack, failure::Failure, output::Output};

/// Walks through all acts.
///
/// # Errors
/// An act did not hold, or could not go on.
pub(crate) async fn run(stack: &mut Stack, output: &Output) -> Result<(), Failure> {
    let started = Instant::now();
    let mut tour = Tour::new(stack, Report::new(output))?;
    let played = tour.play().await;
    let ended = tour.end(started.elapsed());
    let result = played.and(ended);
    if result.is_err() {
        stack.show_last_words();
    }
    result
}
