//! What the sample service answers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{INSTANCE_HEADER, Remembered, Shared, websocket};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

pub(super) type Body = BoxBody<Bytes, hyper::Error>;

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let name = HeaderValue::from_str(&shared.instance);
    remember(&shared, &request);
    let mut response = match request.uri().path() {
        _ if shared.memory.failing.load(Ordering::Relaxed) => with_status(503, describe(&shared, &request)),
        _ if is_grpc(&request) => called(&shared, &request),
        "/ws" => websocket::upgrade(shared, request),
        "/slow" => {
            sleep(Duration::from_millis(number(&query, "ms"))).await;
            Response::new(describe(&shared, &request))
        }
        "/stream" => Response::new(streamed(number(&query, "chunks"), number(&query, "ms"))),
        "/status" => with_status(number(&query, "code"), describe(&shared, &request)),
        "/flaky" => {
            let asked = count(&shared, text_of(&query, "key"));
            let code = if asked > number(&query, "failures") { 200 } else { number(&query, "code") };
            with_status(code, describe(&shared, &request))
        }
        "/echo" => Response::new(echoed(shared, request)),
        _ => Response::new(describe(&shared, &request)),
    };
    if let Ok(name) = name {
        response.headers_mut().insert(INSTANCE_HEADER, name);
    }
    Ok(response)
}

pub(super) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn describe(shared: &Shared, request: &Request<Incoming>) -> Body {
    text(described(shared, request).to_string())
}

fn described(shared: &Shared, request: &Request<Incoming>) -> Value {
    let mut headers = BTreeMap::<&str, Vec<String>>::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str()).or_default().push(value);
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    json!({
        "instance": shared.instance,
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map_or("", |path| path.as_str()),
        "version": format!("{:?}", request.version()),
        "authority": authority,
        "headers": headers,
    })
}

/// The request's body, kept by the request's `x-remember`.
fn echoed(shared: Arc<Shared>, request: Request<Incoming>) -> Body {
    let Some(word) = word(&request).map(str::to_owned) else { return request.into_body().boxed() };
    let keep = move |frame: Frame<Bytes>| {
        if let Some(data) = frame.data_ref() {
            shared.memory.echoed.lock().entry(word.clone()).or_default().extend_from_slice(data);
        }
        frame
    };
    request.into_body().map_frame(keep).boxed()
}

fn with_status(code: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let code = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    *response.status_mut() = code.unwrap_or(StatusCode::BAD_REQUEST);
    response
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// One message, then the status.
fn called(shared: &Shared, request: &Request<Incoming>) -> Response<Body> {
    let described = described(shared, request).to_string();
    let mut message = BytesMut::with_capacity(5 + described.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(described.len()).unwrap_or(u32::MAX));
    message.extend_from_slice(described.as_bytes());
    let status = request.headers().get("x-give-status").cloned();
    let trailers =
        HeaderMap::from_iter([(GRPC_STATUS, status.unwrap_or_else(|| HeaderValue::from_static("0")))]);
    let frames = stream::iter([Ok(Frame::data(message.freeze())), Ok(Frame::trailers(trailers))]);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn remember(shared: &Shared, request: &Request<Incoming>) {
    let Some(word) = word(request) else { return };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let remembered = Remembered {
        path: request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned(),
        host: host.or(request.uri().authority().map(|it| it.as_str())).unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
    };
    shared.memory.remembered.lock().entry(word.to_owned()).or_default().push(remembered);
}

fn word(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get("x-remember")?.to_str().ok()
}

/// How often this key was asked, this time included.
fn count(shared: &Shared, key: &str) -> u64 {
    let mut asked = shared.memory.asked.lock();
    let count = asked.entry(key.to_owned()).or_default();
    *count += 1;
    *count
}

fn streamed(chunks: u64, pause: u64) -> Body {
    let frames = stream::iter(0..chunks).then(move |number| async move {
        sleep(Duration::from_millis(pause)).await;
        Ok(Frame::data(Bytes::from(format!("chunk {number}\n"))))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

fn number(query: &str, name: &str) -> u64 {
    text_of(query, name).parse().unwrap_or(0)
}

fn text_of<'a>(query: &'a str, name: &str) -> &'a str {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}
