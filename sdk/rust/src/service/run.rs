//! The life of a service around its server: join, attend, leave, stop.
//!
//! The server runs all the while; it is told to stop only when no proxy sends it anything any more. Where no control
//! plane is there, it serves and goes on trying to register; where one refuses the registration, it stops, since only
//! another program or another registry can help.

use std::{
    convert::Infallible,
    error::Error as StdError,
    future::{Future, pending},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::OnceLock,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use waypost_proto::{DEFAULT_GRPC_LISTEN, name::InstanceKey, v1};

use super::{
    Service, address,
    checks::{Checks, INTERVAL},
};
use crate::{
    client::Client,
    error::Error,
    launch,
    registered::{DrainOutcome, LeaseStatus, Registered},
};

/// How long the server may take to end what did not come through a proxy, after the drain.
pub(super) const FINISH: Duration = Duration::from_secs(5);
/// How long one attempt to register goes on before the log says that it has not worked yet.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a registration that is under way is waited for at the end, so that it leaves no ghost.
const REGISTRATION_GRACE: Duration = Duration::from_secs(1);
/// How long proxies may go by what they knew after a control plane has lost its registry: its settle time, by default.
const SETTLE: Duration = Duration::from_secs(10);

/// Ready when a server is to stop: it takes no connection any more, ends what is under way, and returns.
pub type Stopped = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a service has ended, other than by being asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// What was to be registered breaks a rule, or the control plane has refused it.
    #[error(transparent)]
    Registration(#[from] Error),
    /// The listener does not say its address, or signals cannot be listened for.
    #[error("the system refuses what a server needs")]
    System(#[from] io::Error),
    /// Another process has registered as the same instance.
    #[error(
        "another process has registered as {0}; give each an address, or an id (WAYPOST_INSTANCE_ID), of its own"
    )]
    Superseded(InstanceKey),
    /// The server itself has failed.
    #[error("the server has failed: {0}")]
    Server(Box<dyn StdError + Send + Sync>),
}

impl Service {
    /// Runs a server as this service, until SIGTERM or Ctrl-C: registers it when it can answer, keeps it registered,
    /// and on the signal drains it, and only then has it stop. A second signal ends it without waiting any longer.
    ///
    /// `local` is what the server's listener is bound to; `server` gets the future that tells it to stop.
    /// `crate::axum::serve` does this for an axum router.
    ///
    /// # Errors
    /// The registration is refused, another process takes its place, or the server fails.
    pub async fn run<F, E>(
        self,
        local: SocketAddr,
        server: impl FnOnce(Stopped) -> F,
    ) -> Result<(), ServeError>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        let stop = async {
            let signal = launch::shutdown().await?;
            tracing::info!(signal, "draining");
            Ok(())
        };
        let hurry = async {
            if launch::shutdown_again().await.is_err() {
                pending::<()>().await;
            }
        };
        Box::pin(self.live(local, server, stop, hurry)).await
    }

    /// The same, until `stop` is ready instead of a signal.
    ///
    /// # Errors
    /// As [`Service::run`].
    pub async fn run_until<F, E>(
        self,
        local: SocketAddr,
        server: impl FnOnce(Stopped) -> F,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        let stop = async {
            stop.await;
            Ok(())
        };
        Box::pin(self.live(local, server, stop, pending())).await
    }

    async fn live<F, E>(
        mut self,
        local: SocketAddr,
        server: impl FnOnce(Stopped) -> F,
        stop: impl Future<Output = io::Result<()>>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        self.fill_in(|name| std::env::var(name).ok());
        let client = self.check(local)?;
        let (stopping, stopped) = oneshot::channel::<()>();
        let stopped: Stopped = Box::pin(async {
            // An error means that the sender is gone, which is the sign.
            let _ = stopped.await;
        });
        // A set, because it ends what is in it where this future is dropped.
        let mut serving = JoinSet::new();
        serving.spawn(server(stopped));
        let (mut stop, mut hurry) = (pin!(stop), pin!(hurry));
        let registered = OnceLock::new();
        let lived = {
            let mut life = pin!(self.life(&client, local, &registered, stop.as_mut(), hurry.as_mut()));
            tokio::select! {
                ended = ended(&mut serving) => {
                    if registered.get().is_none() {
                        let _ = timeout(REGISTRATION_GRACE, life).await;
                    }
                    if let Some(registered) = registered.get() {
                        let left = registered.deregister().await;
                        left.unwrap_or_else(|error| tracing::warn!(%error, "not deregistered; the lease runs out"));
                    }
                    return ended;
                }
                lived = &mut life => lived,
            }
        };
        drop(stopping);
        let hurried = lived.as_ref().is_ok_and(|hurried| *hurried);
        if hurried {
            return Ok(());
        }
        tokio::select! {
            ended = timeout(FINISH, ended(&mut serving)) => match ended {
                Ok(ended) => lived.and(ended),
                Err(_) => {
                    tracing::warn!(after = ?FINISH, "connections are cut that were still open");
                    lived.map(drop)
                }
            },
            () = hurry => lived.map(drop),
        }
    }

    /// From the first check to the end of the drain; says whether its end was hurried.
    async fn life(
        &self,
        client: &Client,
        local: SocketAddr,
        held: &OnceLock<Registered>,
        mut stop: Pin<&mut impl Future<Output = io::Result<()>>>,
        hurry: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, ServeError> {
        let mut checks = Checks::new(local, self.health.clone());
        let (registered, asked) = {
            let mut joining = pin!(self.join(client, local, &mut checks));
            tokio::select! {
                joined = &mut joining => (joined?, false),
                stopped = &mut stop => {
                    stopped?;
                    match timeout(REGISTRATION_GRACE, joining).await {
                        Ok(joined) => (joined?, true),
                        Err(_) => return Ok(false),
                    }
                }
            }
        };
        let registered = held.get_or_init(|| registered);
        if !asked {
            tokio::select! {
                stopped = stop => stopped?,
                () = superseded(registered) => return Err(ServeError::Superseded(registered.key().clone())),
                never = self.attend(registered, &mut checks) => match never {},
            }
        }
        tokio::select! {
            () = self.leave(registered) => Ok(false),
            () = hurry => Ok(true),
            never = self.attend(registered, &mut checks) => match never {},
        }
    }

    /// Registers as soon as the service can answer and a control plane takes it.
    async fn join(
        &self,
        client: &Client,
        local: SocketAddr,
        checks: &mut Checks,
    ) -> Result<Registered, Error> {
        checks.passed().await;
        loop {
            let reason = match self.complete(local).await {
                Err(error) => {
                    sleep(INTERVAL).await;
                    format!("this machine's address on the way to the control plane is not known: {error}")
                }
                Ok(registration) => match client.register(registration).await {
                    Ok(registered) => {
                        greet(&registered);
                        return Ok(registered);
                    }
                    Err(error) if error.is_retryable() => error.to_string(),
                    Err(error) => return Err(error),
                },
            };
            tracing::warn!(reason, "not registered yet; serving, and trying again");
        }
    }

    /// The registration with an address.
    async fn complete(&self, local: SocketAddr) -> io::Result<crate::Registration> {
        let mut registration = self.registration.clone();
        if registration.spec().address.is_empty() {
            let default = [DEFAULT_GRPC_LISTEN.to_owned()];
            let planes = if self.control_planes.is_empty() { &default[..] } else { &self.control_planes };
            registration.spec_mut().address = address::advertised(local, planes).await?.to_string();
        }
        Ok(match registration.timeout() {
            Some(_) => registration,
            None => registration.register_timeout(REGISTER_TIMEOUT),
        })
    }

    /// Says how busy and how well the instance is, for as long as it lives.
    async fn attend(&self, registered: &Registered, checks: &mut Checks) -> Infallible {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = registered.set_load(self.busy()) {
                tracing::warn!(%error, "the load is not reported");
            }
            if let Some((healthy, reason)) = checks.turn().await {
                tracing::info!(healthy, reason, "health has changed");
                registered.set_health(healthy, reason);
            }
        }
    }

    async fn leave(&self, registered: &Registered) {
        let until = Instant::now() + self.drain_deadline;
        let outcome = registered.drain(self.drain_deadline).await;
        match outcome {
            DrainOutcome::Complete { .. } => tracing::info!(%outcome, "drained"),
            _ => tracing::warn!(%outcome, "drained"),
        }
        if let DrainOutcome::Gone { .. } = outcome {
            // A control plane that has lost its registry cannot say who still sends requests here.
            sleep_until(until.min(Instant::now() + SETTLE)).await;
        }
    }
}

/// Waits for the server's end.
async fn ended<E>(serving: &mut JoinSet<Result<(), E>>) -> Result<(), ServeError>
where
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    match serving.join_next().await {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(ServeError::Server(error.into())),
        Some(Err(error)) => Err(ServeError::Server(error.into())),
    }
}

async fn superseded(registered: &Registered) {
    let mut status = registered.status();
    if status.wait_for(|status| *status == LeaseStatus::Superseded).await.is_err() {
        pending::<()>().await;
    }
}

fn greet(registered: &Registered) {
    tracing::info!(instance = %registered.key(), revision = registered.revision(), "registered");
    let name = |key: &Option<v1::ServiceKey>| key.as_ref().map_or_else(String::new, |key| key.name.clone());
    for conflict in registered.conflicts() {
        let (route, winner) = (&conflict.route, name(&conflict.winner));
        tracing::warn!(route, winner, "this route belongs to a service whose claim is older");
    }
}
