//! A check that connects, and no more.

use tokio::net::TcpStream;

pub(super) async fn check(address: &str) -> Result<(), String> {
    TcpStream::connect(address)
        .await
        .map(drop)
        .map_err(|error| format!("{address} cannot be connected to: {error}"))
}
