//! What the sample service answers.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::time::sleep;

use super::{INSTANCE_HEADER, Shared, websocket};

pub(super) type Body = BoxBody<Bytes, hyper::Error>;

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let name = HeaderValue::from_str(&shared.instance);
    let mut response = match request.uri().path() {
        "/ws" => websocket::upgrade(shared, request),
        "/slow" => {
            sleep(Duration::from_millis(number(&query, "ms"))).await;
            Response::new(describe(&shared, &request))
        }
        "/stream" => Response::new(streamed(number(&query, "chunks"), number(&query, "ms"))),
        "/echo" => Response::new(request.into_body().boxed()),
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
    let mut headers = BTreeMap::<&str, Vec<String>>::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str()).or_default().push(value);
    }
    let described = json!({
        "instance": shared.instance,
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map_or("", |path| path.as_str()),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    text(described.to_string())
}

fn streamed(chunks: u64, pause: u64) -> Body {
    let frames = stream::iter(0..chunks).then(move |number| async move {
        sleep(Duration::from_millis(pause)).await;
        Ok(Frame::data(Bytes::from(format!("chunk {number}\n"))))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

fn number(query: &str, name: &str) -> u64 {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(0)
}
