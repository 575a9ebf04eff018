//! One program that is kept running.
//!
//!     Starting ──▶ Running ──▶ Ended ──(back-off)──▶ Starting        it died
//!                     └── stop, kill ──▶ Stopped ──(start)──▶ Starting
//!
//! It keeps the ports that it got first, so that others still find it after a restart.

use std::{ffi::OsString, net::SocketAddr, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    log::{Log, SUPERVISOR},
    process::{Addresses, Launch, Process},
    record::Record,
};
use crate::{
    failure::{Exit, Failure},
    output::text,
};

const START_LIMIT: Duration = Duration::from_secs(20);
/// Longer than a proxy's own deadline for what is in flight would be; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(40);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Whoever ran this long is started again without a longer wait.
const RAN_WELL: Duration = Duration::from_secs(30);
const TAIL: usize = 12;

/// What a unit runs.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// The program.
    pub(super) launch: Launch,
    /// The flags that give its addresses: flag, the address's name in its log, and what to listen on.
    pub(super) listens: Vec<(&'static str, &'static str, SocketAddr)>,
}

/// How a unit is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It was started and has not said where it listens.
    Starting,
    /// It listens.
    Running { addresses: Addresses },
    /// It ended by itself and will be started again.
    Ended { how: String },
    /// It was told to end, and has ended.
    Stopped,
}

#[derive(Debug)]
enum Order {
    Start,
    Stop,
    Kill,
}

/// A program that is kept running until it is told to stop.
pub(super) struct Unit {
    name: String,
    log: Log,
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
}

impl Unit {
    /// Starts keeping a program.
    pub(super) fn start(spec: Spec, log: &Log, record: &Record) -> Self {
        let name = spec.launch.name.clone();
        let (orders, received) = mpsc::unbounded_channel();
        let (state, watched) = watch::channel(State::Starting);
        let keeper = Keeper { spec, log: log.clone(), record: record.clone(), orders: received, state };
        tokio::spawn(keeper.run());
        Self { name, log: log.clone(), orders, state: watched }
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How it is doing.
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// It ended, or does not say where it listens in time; its last words are in the message.
    pub(super) async fn running(&self) -> Result<Addresses, Failure> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| *state != State::Starting);
        let now = match tokio::time::timeout(START_LIMIT, settled).await {
            Ok(Ok(now)) => now.clone(),
            Ok(Err(_)) => State::Stopped,
            Err(_) => State::Starting,
        };
        let why = match now {
            State::Running { addresses } => return Ok(addresses),
            State::Ended { how } => format!("{} ended while it was starting: {how}", self.name),
            State::Stopped => format!("{} was stopped while it was starting", self.name),
            State::Starting => format!(
                "{} has not said within {} where it listens; does --log hide its messages of level info?",
                self.name,
                text::span(START_LIMIT)
            ),
        };
        let mut tail = self.log.tail(&self.name, TAIL);
        tail.retain(|line| !line.starts_with(SUPERVISOR));
        let words = if tail.is_empty() {
            String::new()
        } else {
            format!("; its last words:\n    {}", tail.join("\n    "))
        };
        Err(Failure::new(Exit::Failed, format!("{why}{words}")))
    }

    /// Tells it to run again, after it was stopped.
    pub(super) async fn start_again(&self) {
        let _ = self.orders.send(Order::Start);
        let _ = self.state.clone().wait_for(|state| *state != State::Stopped).await;
    }

    /// Tells it to end (SIGTERM), finishing what is in flight.
    pub(super) fn order_stop(&self) {
        let _ = self.orders.send(Order::Stop);
    }

    /// Kills it (SIGKILL).
    pub(super) fn order_kill(&self) {
        let _ = self.orders.send(Order::Kill);
    }

    /// Waits until it has ended, as it was told to.
    pub(super) async fn stopped(&self) {
        // A keeper that is gone has no process either.
        let _ = self.state.clone().wait_for(|state| *state == State::Stopped).await;
    }
}

struct Keeper {
    spec: Spec,
    log: Log,
    record: Record,
    orders: mpsc::UnboundedReceiver<Order>,
    state: watch::Sender<State>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let started = Instant::now();
            let Err(how) = self.once().await else {
                self.state.send_replace(State::Stopped);
                if !self.wait_for_start().await {
                    return;
                }
                self.state.send_replace(State::Starting);
                continue;
            };
            backoff = if started.elapsed() > RAN_WELL { FIRST_BACKOFF } else { backoff };
            self.log.say(
                &self.spec.launch.name,
                &format!("{how}; starting it again in {}", text::short(backoff)),
            );
            self.state.send_replace(State::Ended { how });
            let again = Instant::now() + backoff;
            tokio::select! {
                () = tokio::time::sleep_until(again) => backoff = (backoff * 2).min(LONGEST_BACKOFF),
                order = self.orders.recv() => match order {
                    None => return,
                    Some(Order::Start) => {}
                    Some(Order::Stop | Order::Kill) => {
                        self.state.send_replace(State::Stopped);
                        if !self.wait_for_start().await {
                            return;
                        }
                    }
                }
            }
            self.state.send_replace(State::Starting);
        }
    }

    /// Runs the program once. `Ok` where it was told to end, otherwise how it ended.
    async fn once(&mut self) -> Result<(), String> {
        let mut process = Process::spawn(&self.launch(), &self.log).map_err(|failure| failure.message)?;
        let name = self.spec.launch.name.clone();
        self.record.started(&name, process.pid());
        let ended = self.attend(&mut process).await;
        self.record.ended(&name);
        ended
    }

    async fn attend(&mut self, process: &mut Process) -> Result<(), String> {
        let order = tokio::select! {
            addresses = process.listening() => {
                let Some(addresses) = addresses else { return Err(how(process).await) };
                self.pin(&addresses);
                self.state.send_replace(State::Running { addresses });
                tokio::select! {
                    _ = process.ended() => return Err(how(process).await),
                    order = self.orders.recv() => order,
                }
            }
            order = self.orders.recv() => order,
        };
        match order {
            Some(Order::Kill) => process.signal(Signal::SIGKILL),
            Some(Order::Stop) | None => process.signal(Signal::SIGTERM),
            Some(Order::Start) => return Box::pin(self.attend(process)).await,
        }
        let limit = tokio::time::sleep(STOP_LIMIT);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                _ = process.ended() => return Ok(()),
                () = &mut limit => {
                    self.log.say(&self.spec.launch.name, &format!("has not ended within {}: killing it", text::span(STOP_LIMIT)));
                    process.signal(Signal::SIGKILL);
                    process.ended().await;
                    return Ok(());
                }
                Some(order) = self.orders.recv() => {
                    if matches!(order, Order::Kill) {
                        process.signal(Signal::SIGKILL);
                    }
                }
            }
        }
    }

    /// Waits for the order to start; false where there will be none.
    async fn wait_for_start(&mut self) -> bool {
        loop {
            match self.orders.recv().await {
                Some(Order::Start) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }

    fn launch(&self) -> Launch {
        let mut launch = self.spec.launch.clone();
        let listens = self.spec.listens.iter();
        let flags = listens.flat_map(|(flag, _, address)| [OsString::from(flag), address.to_string().into()]);
        launch.args.extend(flags);
        launch
    }

    fn pin(&mut self, addresses: &Addresses) {
        for (_, name, address) in &mut self.spec.listens {
            if let Some(bound) = addresses.get(*name) {
                *address = *bound;
            }
        }
    }
}

async fn how(process: &mut Process) -> String {
    match process.ended().await {
        Some(status) => status.to_string(),
        None => "its end was not seen".to_owned(),
    }
}
