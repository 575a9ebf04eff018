//! `waypost.v1.Snapshots`: the stream to a proxy. See `SNAPSHOTS.md`.
//!
//! Two tasks serve a stream: the connection's own asks the hub for the next frame whenever it can send one,
//! and another reads what the proxy reports. Either one's end ends both.

use std::{collections::BTreeSet, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};
use waypost_proto::{
    error::{Error, ErrorCode, Violation},
    frame::Frame,
    name::ServiceKey,
    v1::{self, encoded::snapshots_server, subscribe_request::Kind},
};

use crate::{
    calls::checks::Checks,
    hub::{Greeting, Reports, Subscription},
    server::Plane,
};

/// How long a proxy has to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait for a revision that a proxy holds and we have not seen.
const FOLLOW_UP: Duration = Duration::from_secs(2);
const LONGEST_TEXT: usize = 255;
const MOST_NAMESPACES: usize = 1_000;
/// Says to proxies that they may send what they see of instances.
const TAKES_OBSERVED: &str = "waypost-observed";

/// The service.
pub(super) struct Snapshots(pub(super) Arc<Plane>);

/// How far a stream is.
enum Stage {
    /// The proxy has not said who it is.
    Silent(Box<Streaming<v1::SubscribeRequest>>, Option<IpAddr>),
    /// Frames go out. Why the other direction has ended is told when it has.
    Open(Box<Subscription>, oneshot::Receiver<Error>),
    /// The last word is said.
    Ended,
}

#[tonic::async_trait]
impl snapshots_server::Snapshots for Snapshots {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let plane = self.0.clone();
        let peer = request.remote_addr().map(|peer| peer.ip().to_canonical());
        // The answer begins at once: some clients send their Hello only then.
        let frames = stream::unfold(Stage::Silent(Box::new(request.into_inner()), peer), move |stage| {
            let plane = plane.clone();
            async move { advance(&plane, stage).await }
        });
        let mut response: Response<Self::SubscribeStream> = Response::new(Box::pin(frames));
        response.metadata_mut().insert(TAKES_OBSERVED, MetadataValue::from_static("true"));
        Ok(response)
    }
}

async fn advance(plane: &Arc<Plane>, stage: Stage) -> Option<(Result<Frame, Status>, Stage)> {
    let end = |error: Error| Some((Err(Status::from(error)), Stage::Ended));
    let (mut subscription, why) = match stage {
        Stage::Ended => return None,
        Stage::Open(subscription, why) => (subscription, why),
        Stage::Silent(inbound, peer) => match open(plane, inbound, peer).await {
            Ok(opened) => opened,
            Err(error) => return end(error),
        },
    };
    let frame = tokio::select! {
        biased;
        () = plane.closing() => return end(plane.going_away()),
        frame = subscription.next() => frame,
    };
    match frame {
        Some(frame) => Some((Ok(frame), Stage::Open(subscription, why))),
        None => why.await.ok().and_then(end),
    }
}

/// Waits for the Hello and opens the session.
async fn open(
    plane: &Arc<Plane>,
    mut inbound: Box<Streaming<v1::SubscribeRequest>>,
    peer: Option<IpAddr>,
) -> Result<(Box<Subscription>, oneshot::Receiver<Error>), Error> {
    let first = tokio::select! {
        first = tokio::time::timeout(HELLO_DEADLINE, inbound.message()) => first,
        () = plane.closing() => return Err(plane.going_away()),
    };
    let first = match first {
        Ok(Ok(message)) => message.and_then(|message| message.kind),
        Ok(Err(status)) => return Err(Error::from(&status)),
        Err(_) => {
            let message = "no hello came within 10 s; send one as the first message of the stream";
            return Err(Error::new(ErrorCode::DeadlineExceeded, message));
        }
    };
    let hello = match first {
        Some(Kind::Hello(hello)) => hello,
        other => return Err(Violation::new("kind", name(other.as_ref()), "must be hello first").into()),
    };
    let greeting = check(hello, peer)?;
    follow_up(plane, &greeting).await?;
    let holds = greeting.position.as_ref().map(|position| position.revision);
    tracing::info!(proxy = %greeting.id, ?holds, "a proxy has connected");
    let (subscription, reports) = plane.hub.subscribe(greeting);
    let (tell, why) = oneshot::channel();
    let watched = plane.clone();
    plane.spawn(async move {
        match listen(&watched, inbound, &reports).await {
            Ok(()) => tracing::info!(proxy = reports.proxy(), "a proxy has disconnected"),
            Err(error) => {
                tracing::info!(proxy = reports.proxy(), %error, "a proxy's stream has ended");
                // Nobody may be left to be told.
                let _ = tell.send(error);
            }
        }
        drop(reports);
    });
    Ok((Box::new(subscription), why))
}

/// Waits until we know what a proxy holds already, which another control plane has told it. A proxy is not sent
/// back in time; only where we are in touch with the store and it holds no more, what it holds is the truth.
async fn follow_up(plane: &Plane, greeting: &Greeting) -> Result<(), Error> {
    let Some(position) = &greeting.position else { return Ok(()) };
    if position.history != plane.registry.view().history() {
        return Ok(());
    }
    let caught_up = tokio::select! {
        reached = plane.registry.reach(position.revision, FOLLOW_UP) => reached,
        () = plane.closing() => return Err(plane.going_away()),
    };
    if caught_up || plane.registry.lost().is_none() {
        return Ok(());
    }
    let seen = plane.registry.view().revision();
    let message = format!(
        "this control plane has lost its store at revision {seen}, and the proxy holds {} already; \
         try again at another one",
        position.revision
    );
    Err(Error::new(ErrorCode::Unavailable, message))
}

/// Takes what the proxy reports until it is gone, or is not to be listened to any longer.
async fn listen(
    plane: &Plane,
    mut inbound: Box<Streaming<v1::SubscribeRequest>>,
    reports: &Reports,
) -> Result<(), Error> {
    loop {
        let message = tokio::select! {
            biased;
            () = plane.closing() => return Err(plane.going_away()),
            () = reports.closed() => {
                if !reports.replaced() {
                    return Ok(());
                }
                let id = reports.proxy();
                let message =
                    format!("a newer stream of proxy {id:?} took this one's place; ids must be unique");
                return Err(Error::new(ErrorCode::FailedPrecondition, message));
            }
            message = inbound.message() => message,
        };
        match message.map(|message| message.map(|message| message.kind)) {
            Ok(Some(Some(Kind::Applied(applied)))) => reports.applied(applied)?,
            Ok(Some(Some(Kind::Rejected(rejected)))) => reports.rejected(rejected),
            Ok(Some(Some(Kind::Observed(observed)))) => reports.observed(observed)?,
            Ok(Some(other)) => {
                let rule = "must be applied, rejected or observed after the hello";
                return Err(Violation::new("kind", name(other.as_ref()), rule).into());
            }
            Ok(None) | Err(_) => return Ok(()),
        }
    }
}

fn name(kind: Option<&Kind>) -> &'static str {
    match kind {
        None => "nothing",
        Some(Kind::Hello(_)) => "hello",
        Some(Kind::Applied(_)) => "applied",
        Some(Kind::Rejected(_)) => "rejected",
        Some(Kind::Observed(_)) => "observed",
    }
}

fn check(hello: v1::Hello, peer: Option<IpAddr>) -> Result<Greeting, Error> {
    let mut checks = Checks::default();
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !(1..=LONGEST_TEXT).contains(&hello.proxy_id.len()) || !visible(&hello.proxy_id) {
        let rule = "must be 1 to 255 visible ASCII characters, unique among proxies";
        checks.take::<()>(Err(Violation::new("hello.proxy_id", &hello.proxy_id, rule)));
    }
    let fields = [
        ("hello.version", &hello.version),
        ("hello.listen_address", &hello.listen_address),
        ("hello.admin_address", &hello.admin_address),
        ("hello.zone", &hello.zone),
    ];
    fields.iter().for_each(|(field, text)| checks.text(field, text, LONGEST_TEXT));
    let namespaces = checks.take(namespaces(&hello.namespaces));
    let namespaces = checks.finish(namespaces)?;
    Ok(Greeting {
        id: Arc::from(hello.proxy_id),
        version: hello.version,
        listen_address: hello.listen_address,
        admin_address: hello.admin_address,
        zone: hello.zone,
        namespaces: Arc::new(namespaces),
        peer,
        position: hello.position,
        resyncs: hello.resyncs,
    })
}

fn namespaces(names: &[String]) -> Result<BTreeSet<String>, Violation> {
    if names.len() > MOST_NAMESPACES {
        let rule = format!("must be at most {MOST_NAMESPACES}; name none for all");
        return Err(Violation::new("hello.namespaces", format!("{} entries", names.len()), rule));
    }
    let checked = names.iter().map(|name| {
        // A namespace follows the rule of a service's name and has no type of its own.
        ServiceKey::new(name, "any").map(|key| key.namespace().to_owned())
    });
    checked
        .collect::<Result<_, _>>()
        .map_err(|violation| Violation { field: "hello.namespaces".into(), ..violation })
}
