//! A middleman on the snapshot stream that loses, repeats, swaps or falsifies deltas.
//!
//! It speaks `waypost.v1.Snapshots` on both sides: to a proxy it is the control plane, to the control plane it
//! is the proxy. Faults are ordered by the test and each hits the next delta that passes.

use std::{collections::VecDeque, net::SocketAddr, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, future::ready};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use waypost_proto::v1::{
    Delta, SubscribeRequest, SubscribeResponse,
    snapshots_server::{Snapshots, SnapshotsServer},
    subscribe_response::Kind,
};

use crate::api::Api;

/// What happens to a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not arrive.
    Lose,
    /// It arrives twice.
    Repeat,
    /// It arrives after the next one.
    Swap,
    /// It arrives without its entries and removals, as if it had been made wrongly.
    Empty,
}

/// The middleman. It ends when this is dropped.
pub struct Middleman {
    address: SocketAddr,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    serving: JoinHandle<()>,
}

impl Middleman {
    /// Starts a middleman in front of a control plane.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(control_plane: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let faults = Arc::<Mutex<VecDeque<Fault>>>::default();
        let service =
            SnapshotsServer::new(Passing { api: Api::new(control_plane), faults: Arc::clone(&faults) })
                .max_decoding_message_size(usize::MAX);
        let serving = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            // It ends with the test; a proxy that is cut off by that says so in its own log.
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Self { address, faults, serving }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Orders a fault for the next delta, after those that are ordered.
    pub fn order(&self, fault: Fault) {
        self.faults.lock().push_back(fault);
    }

    /// How many faults have not hit a delta yet.
    pub fn pending(&self) -> usize {
        self.faults.lock().len()
    }
}

impl Drop for Middleman {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Passing {
    api: Api,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Snapshots for Passing {
    type SubscribeStream = Responses;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let requests = request.into_inner().filter_map(|message| ready(message.ok()));
        let mut upstream = self.api.snapshots().max_decoding_message_size(usize::MAX);
        let responses = upstream.subscribe(requests).await?.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(pass(responses, sender, Arc::clone(&self.faults)));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn pass(
    mut responses: Streaming<SubscribeResponse>,
    to: mpsc::Sender<Result<SubscribeResponse, Status>>,
    faults: Arc<Mutex<VecDeque<Fault>>>,
) {
    let mut held_back = None;
    loop {
        let message = tokio::select! {
            message = responses.next() => message,
            () = to.closed() => return,
        };
        let Some(message) = message else { return };
        let is_delta = matches!(&message, Ok(SubscribeResponse { kind: Some(Kind::Delta(_)) }));
        let fault = if is_delta { faults.lock().pop_front() } else { None };
        let out = match fault {
            Some(Fault::Lose) => vec![],
            Some(Fault::Repeat) => vec![message.clone(), message],
            Some(Fault::Empty) => vec![message.map(emptied)],
            Some(Fault::Swap) => {
                held_back = Some(message);
                continue;
            }
            None => vec![message],
        };
        for message in out.into_iter().chain(held_back.take()) {
            if to.send(message).await.is_err() {
                return;
            }
        }
    }
}

fn emptied(response: SubscribeResponse) -> SubscribeResponse {
    let kind = response.kind.map(|kind| match kind {
        Kind::Delta(delta) => Kind::Delta(Delta { entries: None, removals: None, ..delta }),
        chunk @ Kind::Chunk(_) => chunk,
    });
    SubscribeResponse { kind }
}
