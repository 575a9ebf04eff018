//! HTTP/1.1 with keep-alive.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{ANSWER_WITHIN, Worker};
use crate::http::get_request;

pub(super) async fn connection(mut worker: Worker) {
    let mut open = None;
    while worker.due().await {
        worker.sent();
        let outcome = timeout(ANSWER_WITHIN, exchange(&mut worker, &mut open)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_WITHIN:?}")));
        if outcome.is_err() {
            open = None;
        }
        worker.judge(outcome);
    }
}

async fn exchange(
    worker: &mut Worker,
    open: &mut Option<SendRequest<Full<Bytes>>>,
) -> Result<(StatusCode, HeaderMap), String> {
    loop {
        let request = get_request(worker.plan.target, &worker.plan.path);
        let mut sender = match open.take() {
            Some(mut sender) => match sender.ready().await {
                Ok(()) => sender,
                Err(_) => connect(worker).await?,
            },
            None => connect(worker).await?,
        };
        match sender.send_request(request).await {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                body.collect().await.map_err(|error| format!("{}: the body: {error:?}", head.status))?;
                *open = Some(sender);
                return Ok((head.status, head.headers));
            }
            // The connection was closed before the request was written: nobody has seen it.
            Err(error) if error.is_canceled() => {}
            Err(error) => return Err(format!("{error:?}")),
        }
    }
}

async fn connect(worker: &mut Worker) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream =
        TcpStream::connect(worker.plan.target).await.map_err(|error| format!("cannot connect: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(connection);
    worker.opened();
    Ok(sender)
}
