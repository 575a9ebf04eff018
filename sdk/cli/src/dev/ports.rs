//! Whether the ports are free, asked before anything starts.
//!
//! Proxies share a port willingly (SO_REUSEPORT), so a second `waypost dev` would get half of the first one's
//! traffic instead of an error. Who holds a port is looked up in `/proc`, as far as that may be read.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use crate::failure::{Exit, Failure};

/// Checks that every address can be listened on.
///
/// # Errors
/// Names the first that cannot, who holds it, and the flag that changes it.
pub(super) fn check(addresses: &[(&'static str, SocketAddr)]) -> Result<(), Failure> {
    for (flag, address) in addresses {
        let Err(error) = TcpListener::bind(address) else { continue };
        let ip = address.ip();
        let free = if address.is_ipv6() { format!("[{ip}]:0") } else { format!("{ip}:0") };
        let way_out = format!("take a free port with: {flag} {free}");
        return Err(match error.kind() {
            ErrorKind::AddrInUse => {
                Failure::new(Exit::Failed, format!("{address} is taken{}", holder(address.port())))
                    .way_out(format!("{way_out}; or end an earlier one with: waypost dev down"))
            }
            _ => Failure::new(Exit::Failed, format!("{address} cannot be listened on: {error}"))
                .way_out(way_out),
        });
    }
    Ok(())
}

/// `, by NAME (pid N)`, or how to find out.
fn holder(port: u16) -> String {
    match find_holder(port) {
        Some((pid, name)) => format!(" by {name} (pid {pid})"),
        None => format!("; see by whom with: ss -ltnp 'sport = :{port}'"),
    }
}

fn find_holder(port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter(|entry| holds(&entry.path(), &inodes)).find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((pid, name.trim().to_owned()))
    })
}

/// The sockets of a `/proc/net/tcp` table that listen on the port.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTEN)
            .then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn holds(process: &Path, inodes: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.filter_map(|target| target.to_str().map(str::to_owned)).any(|target| inodes.contains(&target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder_and_the_way_out() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = held.local_addr().expect("it is bound");
        let failure = check(&[("--listen", address)]).expect_err("it is taken");
        let pid = format!("(pid {})", std::process::id());
        assert!(failure.message.contains(&address.to_string()), "{failure}");
        if cfg!(target_os = "linux") {
            assert!(failure.message.contains(&pid), "{failure}");
        }
        assert!(failure.way_out.is_some_and(|way_out| way_out.contains("--listen 127.0.0.1:0")));
        drop(held);
        assert_eq!(check(&[("--listen", address)]), Ok(()));
    }
}
