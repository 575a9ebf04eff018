//! Where proxies reach this process, where nobody has said it.
//!
//! A listener that is bound to one address is reached there. One that is bound to all is reached at the address from
//! which this machine would speak to the control plane, since proxies are where the control plane can be reached from,
//! too. Deliberately absent: the machine's name, which others may not be able to resolve.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::{UdpSocket, lookup_host};

use crate::control_planes::normalized;

/// The address to register for a listener at `local`.
///
/// # Errors
/// The listener is bound to all addresses, and the control plane cannot be found.
pub(super) async fn advertised(local: SocketAddr, control_planes: &[String]) -> io::Result<SocketAddr> {
    if !local.ip().is_unspecified() {
        return Ok(local);
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no control plane is named");
    for control_plane in control_planes.iter().flat_map(|list| list.split(',')).map(str::trim) {
        let url = normalized(control_plane).map_err(|violation| io::Error::other(violation.to_string()))?;
        match lookup_host(url.trim_start_matches("http://")).await {
            Ok(found) => {
                for there in found {
                    match on_the_way_to(there).await {
                        // A listener of IPv4 alone is not reached over IPv6.
                        Ok(ip) if ip.is_ipv6() && local.is_ipv4() => {}
                        Ok(ip) => return Ok(SocketAddr::new(ip, local.port())),
                        Err(error) => last = error,
                    }
                }
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The address that a packet to `there` would carry. A datagram socket is connected, which sends nothing.
async fn on_the_way_to(there: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(there).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(local: &str, control_planes: &[&str]) -> io::Result<String> {
        let control_planes: Vec<String> = control_planes.iter().map(ToString::to_string).collect();
        let found = advertised(local.parse().expect("an address"), &control_planes).await;
        found.map(|address| address.to_string())
    }

    #[tokio::test]
    async fn a_listener_on_one_address_is_reached_there() {
        assert_eq!(found("10.0.0.7:81", &[]).await.expect("its own"), "10.0.0.7:81");
    }

    #[tokio::test]
    async fn a_listener_on_all_is_reached_on_the_way_to_the_control_plane() {
        assert_eq!(found("0.0.0.0:81", &["http://127.0.0.1:7400"]).await.expect("loopback"), "127.0.0.1:81");
        assert_eq!(found("[::]:81", &["127.0.0.1:7400"]).await.expect("loopback"), "127.0.0.1:81");
        let second = found("0.0.0.0:81", &["no-such-host.invalid:1,localhost:7400"]).await;
        assert_eq!(second.expect("the one that is found"), "127.0.0.1:81");
    }

    #[tokio::test]
    async fn without_a_control_plane_to_be_found_there_is_none() {
        assert!(found("0.0.0.0:81", &["no-such-host.invalid:1"]).await.is_err());
    }
}
