//! WebSockets that stay open and echo.

use futures_util::{SinkExt, StreamExt};
use http::header::{HeaderMap, HeaderValue};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::{ANSWER_WITHIN, Worker};
use crate::service::INSTANCE_HEADER;

struct Socket {
    stream: WebSocketStream<TcpStream>,
    instance: String,
}

/// How a socket answered a message.
enum Outcome {
    Echoed,
    /// The peer closed as the protocol has it: the message goes over the next socket.
    Closed,
    /// The socket ended otherwise.
    Cut(String),
    Failed(String),
}

pub(super) async fn connection(mut worker: Worker) {
    let mut open: Option<Socket> = None;
    let mut number = 0_u64;
    while worker.due().await {
        worker.sent();
        number += 1;
        loop {
            let mut socket = match open.take() {
                Some(socket) => socket,
                None => match connect(&mut worker).await {
                    Ok(socket) => socket,
                    Err(error) => {
                        worker.failed(&error);
                        break;
                    }
                },
            };
            let message = format!("message {number}");
            let outcome = timeout(ANSWER_WITHIN, echo(&mut socket.stream, &message)).await;
            match outcome.unwrap_or_else(|_| Outcome::Failed(format!("no echo within {ANSWER_WITHIN:?}"))) {
                Outcome::Echoed => {
                    worker.answered(&socket.instance);
                    open = Some(socket);
                    break;
                }
                Outcome::Closed => {}
                Outcome::Cut(how) => {
                    worker.cut();
                    worker.failed(&format!("cut from {}: {how}", socket.instance));
                    break;
                }
                Outcome::Failed(reason) => {
                    worker.failed(&reason);
                    break;
                }
            }
        }
    }
    if let Some(mut socket) = open {
        // The peer may have closed meanwhile; the load is over either way.
        let _ = socket.stream.close(None).await;
    }
}

async fn echo(socket: &mut WebSocketStream<TcpStream>, message: &str) -> Outcome {
    // A socket that cannot be written to may still hold the close frame that says why.
    let written = socket.send(Message::text(message)).await;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) if text.as_str() == message => return Outcome::Echoed,
            Some(Ok(Message::Text(text))) => return Outcome::Failed(format!("{text:?} came back")),
            Some(Ok(Message::Close(_))) => {
                let _ = socket.flush().await;
                return Outcome::Closed;
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Outcome::Cut(format!("read {error}, write {written:?}")),
            None => return Outcome::Cut(format!("end of stream, write {written:?}")),
        }
    }
}

async fn connect(worker: &mut Worker) -> Result<Socket, String> {
    let target = worker.plan.target;
    let stream = TcpStream::connect(target).await.map_err(|error| format!("cannot connect: {error}"))?;
    let _ = stream.set_nodelay(true);
    let uri = format!("ws://{target}{}", worker.plan.path);
    let upgrade = timeout(ANSWER_WITHIN, client_async(uri, stream)).await;
    let (stream, answer) = upgrade
        .map_err(|_| format!("no upgrade within {ANSWER_WITHIN:?}"))?
        .map_err(|error| format!("the upgrade: {error}"))?;
    worker.opened();
    let name = |headers: &HeaderMap<HeaderValue>| {
        let value = headers.get(INSTANCE_HEADER)?;
        value.to_str().ok().map(str::to_owned)
    };
    let instance = name(answer.headers()).unwrap_or_else(|| "something that is no sample service".into());
    Ok(Socket { stream, instance })
}
