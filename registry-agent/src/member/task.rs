//! The task of one service: its checks, its registration, its departure.

use std::{future::pending, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use waypost_sdk::{
    Client, DrainOutcome, Error, LeaseStatus, Registered,
    health::{Health, Phase, Transition},
};

use super::{Command, Departure, MemberStatus};
use crate::{config::ServiceConfig, metrics::Metrics};

/// How long one attempt to register goes on before the log says that it has not worked yet.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the control plane has refused a registration: only a change on its side can help.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// How long a departure waits for a registration that is under way, so that it leaves no ghost.
const REGISTRATION_GRACE: Duration = Duration::from_secs(1);

type Done = oneshot::Sender<Option<DrainOutcome>>;

pub(super) struct Task {
    config: ServiceConfig,
    client: Client,
    metrics: Metrics,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<MemberStatus>,
    health: Health,
    reason: Option<String>,
    check: Check,
    registering: Option<BoxFuture<'static, Result<Registered, Error>>>,
    /// When to try again to register, after a refusal.
    register_at: Option<Instant>,
    registered: Option<Registered>,
    lease: Option<watch::Receiver<LeaseStatus>>,
}

enum Check {
    At(Instant),
    Running(Instant, BoxFuture<'static, Result<(), String>>),
}

enum Event {
    Command(Option<Command>),
    CheckDue,
    Checked(Result<(), String>),
    Registered(Box<Result<Registered, Error>>),
    RegisterDue,
    Lease,
}

impl Task {
    pub(super) fn new(
        config: ServiceConfig,
        client: Client,
        metrics: Metrics,
        commands: mpsc::UnboundedReceiver<Command>,
        status: watch::Sender<MemberStatus>,
    ) -> Self {
        let now = Instant::now();
        let health = Health::new(config.thresholds, now.into_std());
        Self {
            config,
            client,
            metrics,
            commands,
            status,
            health,
            reason: None,
            check: Check::At(now),
            registering: None,
            register_at: None,
            registered: None,
            lease: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.event().await {
                Event::Command(Some(Command::Reconfigure(config))) => self.reconfigure(*config),
                Event::Command(Some(Command::Leave(departure, done))) => {
                    return self.leave(departure, done).await;
                }
                Event::Command(None) => return,
                Event::CheckDue => {
                    let (probe, timeout) = (self.config.probe.clone(), self.config.check_timeout);
                    let check = async move { probe.check(timeout).await };
                    self.check = Check::Running(Instant::now(), check.boxed());
                }
                Event::Checked(result) => self.checked(result),
                Event::Registered(result) => self.on_registered(*result),
                Event::RegisterDue => self.register(),
                Event::Lease => self.on_lease(),
            }
            self.show(false);
        }
    }

    async fn event(&mut self) -> Event {
        let check = async {
            match &mut self.check {
                Check::At(at) => {
                    tokio::time::sleep_until(*at).await;
                    Event::CheckDue
                }
                Check::Running(_, check) => Event::Checked(check.await),
            }
        };
        let registering = async {
            match (&mut self.registering, self.register_at) {
                (Some(registering), _) => Event::Registered(Box::new(registering.await)),
                (None, Some(at)) => {
                    tokio::time::sleep_until(at).await;
                    Event::RegisterDue
                }
                (None, None) => pending().await,
            }
        };
        let lease = async {
            let Some(lease) = &mut self.lease else { return pending().await };
            match lease.changed().await {
                Ok(()) => Event::Lease,
                // The lease's task has ended with the runtime.
                Err(_) => pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => Event::Command(command),
            event = check => event,
            event = registering => event,
            event = lease => event,
        }
    }

    fn checked(&mut self, result: Result<(), String>) {
        let now = Instant::now();
        let began = match &self.check {
            Check::Running(began, _) => *began,
            Check::At(_) => now,
        };
        let passed = result.is_ok();
        let (service, instance) = self.labels();
        let outcome = if passed { "pass" } else { "fail" };
        self.metrics.checks.with_label_values(&[&*service, &*instance, outcome]).inc();
        self.reason = result.err();
        let reason = self.reason.as_deref().unwrap_or_default();
        match self.health.observe(passed, now.into_std()) {
            Some(Transition::Up) => {
                tracing::info!(%service, %instance, check = %self.config.probe, "healthy");
                match &self.registered {
                    Some(registered) => registered.set_health(true, format!("{} passes", self.config.probe)),
                    None => self.register(),
                }
            }
            Some(Transition::Down) => {
                tracing::warn!(%service, %instance, reason, "unhealthy");
                if let Some(registered) = &self.registered {
                    registered.set_health(false, reason);
                }
            }
            None if !passed => tracing::debug!(%service, %instance, reason, "check failed"),
            None => {}
        }
        let next = self.health.next_check(began.into_std(), self.config.check_interval);
        self.check = Check::At(Instant::from_std(next).max(now));
    }

    fn register(&mut self) {
        let registration = self.config.registration.clone().register_timeout(REGISTER_TIMEOUT);
        let client = self.client.clone();
        self.register_at = None;
        self.registering = Some(async move { client.register(registration).await }.boxed());
    }

    fn on_registered(&mut self, result: Result<Registered, Error>) {
        self.registering = None;
        let (service, instance) = self.labels();
        match result {
            Ok(registered) => {
                tracing::info!(%service, %instance, epoch = registered.epoch(), "registered");
                for conflict in registered.conflicts() {
                    tracing::warn!(%service, route = conflict.route, winner = ?conflict.winner, "another service holds this route");
                }
                if self.health.phase() == Phase::Unhealthy {
                    registered.set_health(false, self.reason.as_deref().unwrap_or_default());
                }
                self.lease = Some(registered.status());
                // The handle of an older configuration leaves with its older epoch, which changes nothing.
                self.registered = Some(registered);
            }
            Err(error) => {
                tracing::warn!(%service, %instance, %error, "not registered yet");
                let pause = if error.is_retryable() { Duration::ZERO } else { REFUSED_PAUSE };
                self.register_at = Some(Instant::now() + pause);
            }
        }
    }

    fn on_lease(&mut self) {
        let Some(lease) = &self.lease else { return };
        let superseded = *lease.borrow() == LeaseStatus::Superseded;
        if superseded && self.registering.is_none() {
            let (service, instance) = self.labels();
            tracing::error!(%service, %instance, "another process has registered under the same name; this one takes no more traffic");
        }
    }

    fn reconfigure(&mut self, config: ServiceConfig) {
        let renew = config.registration != self.config.registration;
        let recheck = config.probe != self.config.probe;
        self.health.set_thresholds(config.thresholds);
        self.config = config;
        if recheck {
            self.check = Check::At(Instant::now());
        }
        let registers = self.registered.is_some() || self.registering.is_some() || self.register_at.is_some();
        if renew && registers {
            self.register();
        }
    }

    async fn leave(mut self, departure: Departure, done: Done) {
        let (service, instance) = self.labels();
        self.show(true);
        if let Some(registering) = self.registering.take()
            && let Ok(Ok(registered)) = tokio::time::timeout(REGISTRATION_GRACE, registering).await
        {
            self.registered = Some(registered);
        }
        let Some(registered) = self.registered.take() else {
            let _ = done.send(None);
            return;
        };
        let mut waiting = vec![done];
        let outcome = match departure {
            Departure::Drain => {
                drain(&registered, &mut self.commands, self.config.drain_deadline, &mut waiting).await
            }
            Departure::AtOnce => None,
        };
        let word = match &outcome {
            Some(DrainOutcome::Complete { .. }) => "drained",
            Some(DrainOutcome::Incomplete { .. }) => "deadline",
            Some(DrainOutcome::Gone { .. }) => "gone",
            Some(DrainOutcome::Failed { .. }) => "failed",
            None => match registered.deregister().await {
                Ok(()) => "deregistered",
                Err(error) => {
                    tracing::warn!(%service, %instance, %error, "not deregistered, the lease will run out");
                    "failed"
                }
            },
        };
        match &outcome {
            Some(outcome) if !outcome.is_complete() => {
                tracing::warn!(%service, %instance, %outcome, "left without a complete drain");
            }
            _ => tracing::info!(%service, %instance, outcome = word, "left"),
        }
        self.metrics.departures.with_label_values(&[&*service, word]).inc();
        self.registered = Some(registered);
        self.show(true);
        self.metrics.forget(&service, &instance);
        for done in waiting {
            let _ = done.send(outcome.clone());
        }
    }

    fn labels(&self) -> (String, String) {
        let key = &self.config.spec.key;
        (key.service().to_string(), key.id().to_owned())
    }

    fn show(&self, leaving: bool) {
        let status = MemberStatus::of(&self.config);
        let status = status.with(&self.health, self.reason.as_ref(), self.registered.as_ref());
        let labels = [&*status.service, &*status.instance];
        let healthy = i64::from(self.health.phase() == Phase::Healthy);
        self.metrics.healthy.with_label_values(&labels).set(healthy);
        self.metrics.registered.with_label_values(&labels).set(i64::from(status.is_registered()));
        let status = MemberStatus { leaving, ..status };
        self.status.send_if_modified(|shown| {
            let modified = *shown != status;
            if modified {
                *shown = status;
            }
            modified
        });
    }
}

/// Drains, unless it is told meanwhile to leave at once; who told so then waits, too.
async fn drain(
    registered: &Registered,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    deadline: Duration,
    waiting: &mut Vec<Done>,
) -> Option<DrainOutcome> {
    let drain = registered.drain(deadline);
    tokio::pin!(drain);
    loop {
        tokio::select! {
            outcome = &mut drain => return Some(outcome),
            Some(command) = commands.recv() => if let Command::Leave(departure, done) = command {
                waiting.push(done);
                if departure == Departure::AtOnce {
                    return None;
                }
            }
        }
    }
}
