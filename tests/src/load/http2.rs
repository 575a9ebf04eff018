//! Cleartext HTTP/2 with prior knowledge, several requests at a time.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use super::{ANSWER_WITHIN, Worker};

/// How many requests share a connection at a time.
const AT_A_TIME: usize = 4;

type Outcome = Result<(StatusCode, HeaderMap), String>;

pub(super) async fn connection(mut worker: Worker) {
    let mut open: Option<SendRequest<Full<Bytes>>> = None;
    loop {
        for _ in 0..AT_A_TIME {
            if !worker.due().await {
                return;
            }
        }
        (0..AT_A_TIME).for_each(|_| worker.sent());
        for outcome in at_once(&mut worker, &mut open).await {
            if outcome.is_err() {
                open = None;
            }
            worker.judge(outcome);
        }
    }
}

/// Sends [`AT_A_TIME`] requests; those that a closing connection never took go over the next one.
async fn at_once(worker: &mut Worker, open: &mut Option<SendRequest<Full<Bytes>>>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while outcomes.len() < AT_A_TIME {
        let mut sender = match open.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => match connect(worker).await {
                Ok(sender) => sender,
                Err(error) => {
                    outcomes.resize_with(AT_A_TIME, || Err(error.clone()));
                    return outcomes;
                }
            },
        };
        if sender.ready().await.is_err() {
            continue;
        }
        let uri = format!("http://{}{}", worker.plan.target, worker.plan.path);
        let missing = AT_A_TIME - outcomes.len();
        let exchanges = (0..missing).map(|_| exchange(sender.clone(), uri.clone()));
        outcomes.extend(join_all(exchanges).await.into_iter().flatten());
        *open = Some(sender);
    }
    outcomes
}

/// `None` where the peer never took the request.
async fn exchange(mut sender: SendRequest<Full<Bytes>>, uri: String) -> Option<Outcome> {
    let request = match Request::get(uri).body(Full::default()) {
        Ok(request) => request,
        Err(error) => return Some(Err(format!("not a request: {error}"))),
    };
    let whole = async {
        let answer = match sender.send_request(request).await {
            Ok(answer) => answer,
            Err(error) if error.is_canceled() => return None,
            Err(error) => return Some(Err(format!("{error:?}"))),
        };
        let (head, body) = answer.into_parts();
        let read = body.collect().await.map_err(|error| format!("{}: the body: {error:?}", head.status));
        Some(read.map(|_| (head.status, head.headers)))
    };
    timeout(ANSWER_WITHIN, whole)
        .await
        .unwrap_or_else(|_| Some(Err(format!("no answer within {ANSWER_WITHIN:?}"))))
}

async fn connect(worker: &mut Worker) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream =
        TcpStream::connect(worker.plan.target).await.map_err(|error| format!("cannot connect: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(connection);
    worker.opened();
    Ok(sender)
}
