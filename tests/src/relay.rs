//! A TCP relay that can cut, freeze or delay what passes: the network between two parts, gone bad.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// What the relay does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Passes them on after a delay.
    Pass(Duration),
    /// Keeps connections open and passes nothing, as a network does that loses every packet.
    Freeze,
    /// Closes connections, and new ones at once.
    Cut,
}

/// A relay in front of one address. It ends when this is dropped.
pub struct Relay {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay to `target`.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (mode, modes) = watch::channel(Mode::Pass(Duration::ZERO));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target, modes.clone()));
            }
        });
        Self { address, mode, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and takes no new ones.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Passes nothing on, and closes nothing.
    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Freeze);
    }

    /// Passes everything on after a delay, per piece of at most 16 KiB.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_replace(Mode::Pass(delay));
    }

    /// Passes everything on again.
    pub fn heal(&self) {
        self.delay(Duration::ZERO);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn connection(client: TcpStream, target: SocketAddr, mut modes: watch::Receiver<Mode>) {
    if *modes.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    // What is delayed is delayed by the relay and not by Nagle's algorithm.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_read, client_write), (server_read, server_write)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        () = copy(client_read, server_write, modes.clone()) => {}
        () = copy(server_read, client_write, modes.clone()) => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>) {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut piece).await else { return };
        let passing = modes.wait_for(|mode| matches!(mode, Mode::Pass(_))).await.map(|mode| *mode);
        let Ok(Mode::Pass(delay)) = passing else { return };
        sleep(delay).await;
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
