//! What `waypost dev` says when everything runs.

use std::net::SocketAddr;

use serde_json::json;
use waypost_proto::DEFAULT_GRPC_LISTEN;

use super::stack::Stack;
use crate::{failure::Failure, output::Output};

/// Says what runs where, and what to try.
///
/// # Errors
/// Nobody reads it.
pub(super) fn show(stack: &Stack, output: &Output, demo: bool) -> Result<(), Failure> {
    let proxies = stack.proxies();
    if !output.format.is_table() {
        let url = |address: &SocketAddr| format!("http://{address}");
        let proxies: Vec<_> = proxies
            .iter()
            .map(|proxy| json!({ "traffic": url(&proxy.traffic), "admin": url(&proxy.admin) }))
            .collect();
        let (grpc, http) = (url(&stack.grpc()), url(&stack.http()));
        return output.document(&json!({ "control_plane": grpc, "http_api": http, "proxies": proxies }));
    }
    let mut text = format!(
        "\nWaypost runs on this machine, until Ctrl-C.\n\n  \
         control plane  http://{} (gRPC), http://{} (HTTP)\n",
        stack.grpc(),
        stack.http()
    );
    for proxy in &proxies {
        text.push_str(&format!("  proxy          http://{}, admin http://{}\n", proxy.traffic, proxy.admin));
    }
    if let Some(proxy) = proxies.first() {
        text.push_str(&format!(
            "\nTry, in another terminal:\n{}\n",
            commands(stack.grpc(), proxy.traffic, demo)
        ));
    }
    output.text(&text)
}

fn commands(control_plane: SocketAddr, traffic: SocketAddr, demo: bool) -> String {
    let to = if control_plane.to_string() == DEFAULT_GRPC_LISTEN {
        String::new()
    } else {
        format!(" --control-plane {control_plane}")
    };
    let commands = if demo {
        [
            format!("curl http://{traffic}/greeter/hello"),
            format!("waypost instances{to}"),
            format!("waypost drain{to} greeter/greeter-v1-1 --wait"),
        ]
    } else {
        [
            "python3 -m http.server 9001 --bind 127.0.0.1 &".to_owned(),
            format!("waypost register{to} --service files --address 127.0.0.1:9001 &"),
            format!("curl http://{traffic}/files/"),
        ]
    };
    commands.map(|command| format!("  {command}")).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_what_runs() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(!commands(at(7400), at(8080), true).contains("--control-plane"));
        let other = commands(at(5000), at(8080), false);
        assert!(
            other.contains("--control-plane 127.0.0.1:5000")
                && other.contains("http://127.0.0.1:8080/files/")
        );
    }
}
