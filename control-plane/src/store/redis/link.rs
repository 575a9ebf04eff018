//! One shared connection that comes back by itself, with a deadline for every request.
//!
//! A request is repeated over a new connection when the old one breaks or stays silent, until its deadline: whatever
//! is sent here may be repeated, because reading changes nothing, beats can be repeated, and commits leave a receipt.
//!
//! ```text
//!            connect            breaks, silent
//!   absent ───────────▶ ready ─────────────────▶ absent
//!     │ ▲
//!     └─┘ fails: not again before a pause that grows, with jitter
//! ```
//!
//! Deliberately absent: blocking commands, which would hold up everybody else's; a watch has its own connection.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, FromRedisValue, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout_at},
};

use super::{dial::Dialer, fault::Fault, scripts::Request};
use crate::store::StoreError;

const SHORTEST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After how many failures the pause is the longest.
const GROWS: u32 = 6;

/// A connection to whichever server holds the registry.
pub(super) struct Link {
    dialer: Arc<Dialer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Option<MultiplexedConnection>,
    /// Counts connections, so that nobody takes down a newer one than the one that failed.
    generation: u64,
    failures: u32,
    /// When to connect again, and what was wrong the last time.
    pause: Option<(Instant, String)>,
}

impl Link {
    /// Connects when it is first used.
    pub(super) fn new(dialer: Arc<Dialer>) -> Self {
        Self { dialer, state: Mutex::default() }
    }

    /// Asks until there is an answer or the time is up.
    pub(super) async fn ask<T: FromRedisValue>(&self, request: &Request) -> Result<T, StoreError> {
        self.ask_and_then(request, None).await.map(|(answer, _)| answer)
    }

    /// The same, and then something else over the same connection.
    pub(super) async fn ask_and_then<T: FromRedisValue>(
        &self,
        request: &Request,
        then: Option<&Cmd>,
    ) -> Result<(T, Option<i64>), StoreError> {
        let patience = self.dialer.settings.timeout;
        let deadline = Instant::now() + patience;
        let mut failures = 0;
        loop {
            // Half of the time, so that a connection that leads nowhere leaves the other half.
            let until = if failures == 0 { deadline - patience / 2 } else { deadline };
            let fault = match self.once(request, then, until, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(fault @ Fault::Final(_)) => return Err(fault.into_error()),
                Err(fault) => fault,
            };
            failures += 1;
            let again = Instant::now() + pause(failures);
            if again >= deadline {
                return Err(fault.into_error());
            }
            sleep_until(again).await;
        }
    }

    async fn once<T: FromRedisValue>(
        &self,
        request: &Request,
        then: Option<&Cmd>,
        until: Instant,
        deadline: Instant,
    ) -> Result<(T, Option<i64>), Fault> {
        let (mut connection, generation) = self.connection(deadline).await?;
        let asked = async {
            let answer = request.ask(&mut connection).await?;
            let next = match then {
                Some(command) => Some(command.query_async(&mut connection).await?),
                None => None,
            };
            Ok((answer, next))
        };
        // What was connected late gets what is left of the time.
        let until = if until <= Instant::now() { deadline } else { until };
        let fault = match timeout_at(until, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.dialer.fault(&error),
            Err(_) => Fault::Broken("the server does not answer".to_owned()),
        };
        if let Fault::Broken(_) = fault {
            let mut state = self.state.lock().await;
            if state.generation == generation {
                state.ready = None;
            }
        }
        Err(fault)
    }

    async fn connection(&self, deadline: Instant) -> Result<(MultiplexedConnection, u64), Fault> {
        let late = |reason: &str| Fault::Broken(reason.to_owned());
        let Ok(mut state) = timeout_at(deadline, self.state.lock()).await else {
            return Err(late("the server cannot be connected to"));
        };
        if let Some(connection) = &state.ready {
            return Ok((connection.clone(), state.generation));
        }
        if let Some((until, reason)) = &state.pause {
            if *until >= deadline {
                return Err(late(reason));
            }
            sleep_until(*until).await;
        }
        let outcome = match timeout_at(deadline, self.dialer.connect()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(late("the server does not answer")),
        };
        match outcome {
            Ok(connection) => {
                state.generation += 1;
                (state.failures, state.pause) = (0, None);
                state.ready = Some(connection.clone());
                Ok((connection, state.generation))
            }
            Err(fault) => {
                state.failures = state.failures.saturating_add(1);
                if let Fault::Broken(reason) | Fault::Busy(reason) = &fault {
                    state.pause = Some((Instant::now() + pause(state.failures), reason.clone()));
                }
                Err(fault)
            }
        }
    }
}

/// How long to wait after this many failures; no two wait equally long.
fn pause(failures: u32) -> Duration {
    let longest = (SHORTEST_PAUSE * 2_u32.pow(failures.min(GROWS))).min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}
