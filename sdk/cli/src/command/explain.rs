//! `waypost explain`: asks a proxy where a request would go, and why. Nothing is sent there.
//!
//! The proxy's matcher answers, so what is shown is what would happen; see `/explain` of a proxy's admin port. It
//! answers by what it serves by, by an older revision that it remembers, or as if manifests were applied: then the
//! control plane says, in a dry run, what proxies would get, and the proxy explains with that in place.
//!
//! Deliberately absent: matching on this side.

mod account;

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use waypost_proto::v1::ApplyRequest;
use waypost_sdk::Client;

use super::declare::{say_namespace, warn};
use crate::{
    api,
    args::{Global, resource::ExplainArgs},
    dev::http,
    failure::{Exit, Failure},
    manifest::read,
    output::Output,
};

/// What a proxy is asked.
struct Question {
    path: String,
    /// What would be applied, as JSON.
    preview: Option<Bytes>,
}

/// Explains a request.
///
/// # Errors
/// No proxy can be asked, the proxy does not understand the request or does not remember the revision, or manifests
/// would be refused.
pub(super) async fn run(global: &Global, output: &Output, args: ExplainArgs) -> Result<(), Failure> {
    let preview =
        if args.filenames.is_empty() { None } else { Some(previewed(global, output, &args).await?) };
    let admins = match &args.proxy {
        Some(address) => vec![address.clone()],
        None => known(&api::client(global)?).await?,
    };
    let question = Question { path: path(&args), preview };
    let explanation = ask(&admins, &question, global.timeout).await?;
    if output.format.is_table() {
        output.text(&account::told(&explanation, args.revision, output.colour()))
    } else {
        output.document(&explanation)
    }
}

fn path(args: &ExplainArgs) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("method", args.method.as_str()).append_pair("url", &args.url.to_string());
    for header in &args.headers {
        query.append_pair("header", &format!("{}: {}", header.0, header.1));
    }
    if let Some(revision) = args.revision {
        query.append_pair("revision", &revision.to_string());
    }
    format!("/explain?{}", query.finish())
}

/// What proxies would get if the manifests were applied.
async fn previewed(global: &Global, output: &Output, args: &ExplainArgs) -> Result<Bytes, Failure> {
    let documents = read::documents(&args.filenames, args.recursive)?;
    say_namespace(global, output);
    let client = api::client(global)?;
    let request = ApplyRequest { documents, dry_run: true, preview: true, ..Default::default() };
    let answer = client.apply(request).await?;
    warn(output, &answer.warnings);
    let preview = answer.preview.ok_or_else(|| {
        let message = "the control plane does not say what proxies would get: its version is too old";
        Failure::new(Exit::Failed, message)
            .way_out("apply the manifests in a place to try them, and ask there")
    })?;
    let json = serde_json::to_vec(&preview).map_err(|error| {
        Failure::new(Exit::Failed, format!("what proxies would get cannot be written as JSON: {error}"))
    })?;
    Ok(json.into())
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

/// The first one's answer that knows one. A proxy on another machine may have its admin port on that machine's loopback
/// only, and one that was started later does not remember what others do.
async fn ask(admins: &[String], question: &Question, patience: Duration) -> Result<Value, Failure> {
    let mut failures = Vec::new();
    let mut forgotten = None;
    for admin in admins {
        match tokio::time::timeout(patience, send(admin, question)).await {
            Ok(Ok(answer)) => match read(admin, &answer) {
                Err(failure) if failure.exit == Exit::NotFound => forgotten = Some(failure),
                answered => return answered,
            },
            Ok(Err(reason)) => failures.push(format!("{admin}: {reason}")),
            Err(_) => failures.push(format!("{admin}: no answer within {patience:?}")),
        }
    }
    if let Some(failure) = forgotten {
        return Err(failure);
    }
    Err(Failure::new(Exit::Unreachable, format!("no proxy answers: {}", failures.join("; "))).way_out(
        "name a proxy's admin port that can be reached from here with --proxy HOST:PORT (7410 unless told \
         otherwise)",
    ))
}

async fn send(admin: &str, question: &Question) -> Result<http::Answer, String> {
    let mut reason = "its name has no address".to_owned();
    for address in tokio::net::lookup_host(admin).await.map_err(|error| error.to_string())? {
        let answer = match &question.preview {
            None => http::get(address, &question.path).await,
            Some(preview) => http::post(address, &question.path, preview.clone()).await,
        };
        match answer {
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
    let exit = match (answer.status.as_u16(), detail) {
        (404, None) => {
            let message = format!("{admin} knows nothing of /explain");
            return Err(Failure::new(Exit::Failed, message).way_out("is it a proxy's admin port?"));
        }
        (404, Some(detail)) => {
            let message = format!("{admin} cannot answer: {detail}");
            return Err(Failure::new(Exit::NotFound, message));
        }
        (405, _) => {
            let message = format!("{admin} does not explain what is not applied: its version is too old");
            return Err(
                Failure::new(Exit::Failed, message).way_out("name a newer proxy with --proxy HOST:PORT")
            );
        }
        (400, _) => Exit::Usage,
        (503, _) => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let detail = detail.unwrap_or("it does not say why");
    Err(Failure::new(exit, format!("{admin} answers {}: {detail}", answer.status)))
}
