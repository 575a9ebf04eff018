//! What Waypost promises, shown on real programs: each module is a topic, each test one promise.
//!
//! Tests run side by side; those whose names say `under_load` are paced, and `WAYPOST_TEST_SOAK=10` makes them
//! ten times as long (`make soak`).

mod agent;
mod axum_service;
mod bad_input;
mod busy_instance;
mod churn_under_load;
mod cli;
mod drain;
mod first_five_minutes;
mod ghosts;
mod http_commands;
mod injected_faults;
mod killed_instance;
mod outage_under_load;
mod rolling_replacement_under_load;
mod stores;

use std::{env, time::Duration};

/// The length of a load, as it is asked for: `make soak` asks for more.
fn soaked(period: Duration) -> Duration {
    let factor = env::var("WAYPOST_TEST_SOAK").ok().and_then(|factor| factor.parse().ok());
    period * factor.unwrap_or(1)
}
