//! The signals that the agent takes, in the order in which they come.

use std::io;

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Asks the agent to end, or is meant for the command that it runs.
const TAKEN: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Signals as they come.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Takes the signals from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A signal cannot be listened for.
    pub fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for taken in TAKEN {
            let mut listener = signal(SignalKind::from_raw(taken as i32))?;
            let sender = sender.clone();
            tokio::spawn(
                async move { while listener.recv().await.is_some() && sender.send(taken).is_ok() {} },
            );
        }
        Ok(Self(receiver))
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // The listeners live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}

/// Whether a signal asks to end.
pub fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT)
}
