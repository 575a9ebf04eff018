//! A worker's listening sockets beside its own: those that tables ask for.
//!
//! Each is a task that accepts. One that is told to close takes what the kernel has accepted already, so that no
//! client that believes to be connected is turned away.

use std::{collections::HashMap, net::TcpListener as StdListener, rc::Rc};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{
    Worker,
    ports::Command,
    worker::{accept_failed, take, take_backlog},
};

/// Open ports.
#[derive(Default)]
pub(super) struct Doors(HashMap<u16, Door>);

struct Door {
    close: oneshot::Sender<()>,
    closed: JoinHandle<()>,
}

impl Doors {
    /// Opens or closes a port.
    pub(super) async fn obey(&mut self, worker: &Rc<Worker>, command: Command) {
        match command {
            Command::Open { port, listener } => self.open(worker, port, listener),
            Command::Close { port, closed } => {
                if let Some(door) = self.0.remove(&port) {
                    door.shut().await;
                    worker.retire_port(port);
                }
                drop(closed);
            }
        }
    }

    fn open(&mut self, worker: &Rc<Worker>, port: u16, listener: StdListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(port, %error, "a worker cannot accept connections at a port");
                return;
            }
        };
        let (close, told) = oneshot::channel();
        let closed = tokio::task::spawn_local(accept(Rc::clone(worker), port, listener, told));
        self.0.insert(port, Door { close, closed });
    }

    /// Closes all ports. Their connections are left as they are.
    pub(super) async fn close_all(&mut self) {
        for (_, door) in self.0.drain() {
            door.shut().await;
        }
    }
}

impl Door {
    async fn shut(self) {
        // A task that has ended has closed its socket.
        let _ = self.close.send(());
        let _ = self.closed.await;
    }
}

async fn accept(worker: Rc<Worker>, port: u16, listener: TcpListener, mut told: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            biased;
            _ = &mut told => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => take(&worker, stream, peer, port),
                Err(error) => tokio::select! {
                    () = accept_failed(&error) => {}
                    _ = &mut told => break,
                },
            },
        }
    }
    take_backlog(&worker, listener, port);
}
