//! What follows a 101: bytes that are copied both ways and not looked at.
//!
//! Either side may end its half while the other goes on; the tunnel ends when both have. It counts as in
//! flight to its instance until then, whatever happens to the table meanwhile, and has no timeout: a peer that
//! vanished is noticed by TCP's keep-alive.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};

use crate::{
    serve::RequestScope,
    socket::ServerSocket,
    table::{InFlight, Place},
};

/// The instance's side of a connection that switches protocols.
pub(crate) struct Switched {
    /// The connection to the instance.
    pub(crate) socket: ServerSocket,
    /// What the instance has sent after its 101.
    pub(crate) received: Bytes,
    /// Counts the tunnel as in flight to the instance.
    pub(crate) in_flight: InFlight,
    /// Counts its connection.
    pub(crate) place: Place,
    /// Counts the tunnel as a request of its client.
    pub(crate) scope: RequestScope,
}

/// Copies until both directions have ended or one has failed. `received` is what the client has sent after its
/// request.
pub(crate) async fn run(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    received: Bytes,
    switched: Switched,
) {
    let Switched { mut socket, received: from_instance, in_flight, place, scope } = switched;
    let copied = async {
        socket.write_all(&received).await?;
        client.write_all(&from_instance).await?;
        socket.flush().await?;
        client.flush().await?;
        copy_bidirectional(&mut client, &mut socket).await
    };
    // Both sides learn of an end, clean or not, when their sockets close.
    if let Ok((from_client, from_instance)) = copied.await {
        scope.worker.metrics.received(from_client);
        scope.worker.metrics.sent(from_instance);
    }
    drop((place, in_flight));
}
