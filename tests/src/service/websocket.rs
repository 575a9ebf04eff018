//! The sample service's WebSockets.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::{
    Shared,
    answer::{Body, text},
};

type Socket = WebSocketStream<TokioIo<upgrade::Upgraded>>;

pub(super) fn upgrade(shared: Arc<Shared>, mut request: Request<Incoming>) -> Response<Body> {
    let accept = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
    let mut response = Response::new(text(""));
    let Some(accept) = accept else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let upgraded = upgrade::on(&mut request);
    tokio::spawn(async move {
        let stopped = shared.stopped.clone();
        let Ok(stream) = upgraded.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        tokio::select! {
            () = echo(socket, &shared) => {}
            () = stopped.cancelled() => {}
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Echoes until the peer closes. When the service drains it says so with a close frame, and reads on until the
/// peer has answered that.
async fn echo(mut socket: Socket, shared: &Shared) {
    let mut draining = shared.draining.clone();
    let mut closing = false;
    loop {
        let message = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining), if !closing => None,
            message = socket.next() => Some(message),
        };
        match message {
            None => {
                closing = true;
                let frame = CloseFrame { code: CloseCode::Away, reason: "the service drains".into() };
                if socket.send(Message::Close(Some(frame))).await.is_err() {
                    return;
                }
            }
            Some(Some(Ok(message @ Message::Text(_)))) if !closing => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            Some(Some(Ok(_))) => {}
            Some(Some(Err(_)) | None) => return,
        }
    }
}
