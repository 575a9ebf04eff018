//! `waypost explain`: asks a proxy where a request would go, and why. Nothing is sent there.
//!
//! The proxy's matcher answers, so what is shown is what would happen; see `GET /explain` of a proxy's admin port.
//! Deliberately absent: matching on this side.

mod account;

use std::time::Duration;

use serde_json::Value;
use waypost_sdk::Client;

use crate::{
    api,
    args::{Global, resource::ExplainArgs},
    dev::http,
    failure::{Exit, Failure},
    output::Output,
};

/// Explains a request.
///
/// # Errors
/// No proxy can be asked, or the proxy does not understand the request.
pub(super) async fn run(global: &Global, output: &Output, args: ExplainArgs) -> Result<(), Failure> {
    let path = question(&args);
    let admins = match &args.proxy {
        Some(address) => vec![address.clone()],
        None => known(&api::client(global)?).await?,
    };
    let explanation = ask(&admins, &path, global.timeout).await?;
    if output.format.is_table() {
        output.text(&account::told(&explanation, output.colour()))
    } else {
        output.document(&explanation)
    }
}

fn question(args: &ExplainArgs) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("method", args.method.as_str()).append_pair("url", &args.url.to_string());
    for header in &args.headers {
        query.append_pair("header", &format!("{}: {}", header.0, header.1));
    }
    format!("/explain?{}", query.finish())
}

/// The admin ports of the proxies that are connected.
async fn known(client: &Client) -> Result<Vec<String>, Failure> {
    let proxies = client.proxies().await?.proxies;
    let connected = proxies.iter().filter(|proxy| proxy.connected && !proxy.admin_address.is_empty());
    let admins: Vec<String> = connected.map(|proxy| proxy.admin_address.clone()).collect();
    if admins.is_empty() {
        let message = format!("none of the {} proxies that are known can be asked", proxies.len());
        return Err(Failure::new(Exit::Unreachable, message).way_out(
            "start one with: waypost-proxy --control-plane URL; or name one with --proxy HOST:PORT",
        ));
    }
    Ok(admins)
}

/// The first one's answer. A proxy on another machine may have its admin port on that machine's loopback only.
async fn ask(admins: &[String], path: &str, patience: Duration) -> Result<Value, Failure> {
    let mut failures = Vec::new();
    for admin in admins {
        match tokio::time::timeout(patience, get(admin, path)).await {
            Ok(Ok(answer)) => return read(admin, &answer),
            Ok(Err(reason)) => failures.push(format!("{admin}: {reason}")),
            Err(_) => failures.push(format!("{admin}: no answer within {patience:?}")),
        }
    }
    Err(Failure::new(Exit::Unreachable, format!("no proxy answers: {}", failures.join("; "))).way_out(
        "name a proxy's admin port that can be reached from here with --proxy HOST:PORT (7410 unless told \
         otherwise)",
    ))
}

async fn get(admin: &str, path: &str) -> Result<http::Answer, String> {
    let mut reason = "its name has no address".to_owned();
    for address in tokio::net::lookup_host(admin).await.map_err(|error| error.to_string())? {
        match http::get(address, path).await {
            Ok(answer) => return Ok(answer),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

fn read(admin: &str, answer: &http::Answer) -> Result<Value, Failure> {
    let read = serde_json::from_slice::<Value>(&answer.body);
    if answer.status.is_success() {
        return read.map_err(|error| {
            let message = format!("{admin} sent something else than an explanation: {error}");
            Failure::new(Exit::Failed, message).way_out("is it a proxy's admin port?")
        });
    }
    // Problem details (RFC 9457), as the contract has them.
    let problem = read.unwrap_or_default();
    let detail = ["detail", "message", "title"].iter().find_map(|field| problem[field].as_str());
    let detail = detail.unwrap_or("it does not say why").to_owned();
    let exit = match answer.status.as_u16() {
        400 => Exit::Usage,
        404 => {
            let message = format!("{admin} knows nothing of /explain");
            return Err(Failure::new(Exit::Failed, message).way_out("is it a proxy's admin port?"));
        }
        503 => Exit::Unreachable,
        _ => Exit::Failed,
    };
    Err(Failure::new(exit, format!("{admin} answers {}: {detail}", answer.status)))
}
