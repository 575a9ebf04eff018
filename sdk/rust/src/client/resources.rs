//! Declared resources: what the Gateway API's manifests say, told to control planes and asked of them.
//!
//! Deliberately absent: reading manifests; `waypost_proto::resource` does that, and the control plane does it again.

use std::{future::Future, time::Duration};

use tonic::{Response, Status, transport::Channel};
use waypost_proto::{
    time,
    v1::{self, resources_client::ResourcesClient},
};

use super::Client;
use crate::{control_planes::MAX_ANSWER, error::Error};

impl Client {
    /// The contract's own client for resources, on the connection that is in use now. Must be called within a
    /// tokio runtime.
    pub fn resources(&self) -> ResourcesClient<Channel> {
        resources(self.planes.pick().channel)
    }

    /// Declares what documents say: all of it, or nothing. An empty `actor` becomes this client's name.
    ///
    /// # Errors
    /// Something in the documents is wrong (each line is named, and nothing was changed), or no control plane
    /// answers.
    pub async fn apply(&self, mut request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Error> {
        self.sign(&mut request.actor);
        let waits = waits(request.wait.as_ref());
        self.declare(waits, request, |mut client, request| async move { client.apply(request).await }).await
    }

    /// The resources that fit, with their status; sorted by kind, namespace and name.
    ///
    /// # Errors
    /// The filter breaks a rule, or no control plane answers.
    pub async fn list_resources(
        &self,
        filter: v1::ListResourcesRequest,
    ) -> Result<v1::ListResourcesResponse, Error> {
        let waits = Duration::ZERO;
        self.declare(waits, filter, |mut client, request| async move { client.list_resources(request).await })
            .await
    }

    /// Removes resources: all of those named, or none. An empty `actor` becomes this client's name.
    ///
    /// # Errors
    /// One is not there, another resource needs one of them, or no control plane answers.
    pub async fn delete_resources(
        &self,
        mut request: v1::DeleteResourcesRequest,
    ) -> Result<v1::DeleteResourcesResponse, Error> {
        self.sign(&mut request.actor);
        let waits = waits(request.wait.as_ref());
        self.declare(
            waits,
            request,
            |mut client, request| async move { client.delete_resources(request).await },
        )
        .await
    }

    /// The generations of a resource that are remembered, also of one that was deleted; newest first.
    ///
    /// # Errors
    /// There never was such a resource, or no control plane answers.
    pub async fn resource_history(&self, key: v1::ResourceKey) -> Result<v1::GetHistoryResponse, Error> {
        let request = v1::GetHistoryRequest { key: Some(key) };
        let waits = Duration::ZERO;
        self.declare(waits, request, |mut client, request| async move { client.get_history(request).await })
            .await
    }

    /// Declares a resource again as it was in an earlier generation. An empty `actor` becomes this client's name.
    ///
    /// # Errors
    /// That generation is not remembered, it cannot work any more, or no control plane answers.
    pub async fn rollback(&self, mut request: v1::RollbackRequest) -> Result<v1::ApplyResponse, Error> {
        self.sign(&mut request.actor);
        let waits = waits(request.wait.as_ref());
        self.declare(waits, request, |mut client, request| async move { client.rollback(request).await })
            .await
    }

    async fn declare<Request, T, Answer>(
        &self,
        waits: Duration,
        request: Request,
        call: impl Fn(ResourcesClient<Channel>, Request) -> Answer,
    ) -> Result<T, Error>
    where
        Request: Clone,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let timeout = self.timeout(Some(waits));
        self.planes.call(timeout, |channel| call(resources(channel), request.clone())).await
    }
}

fn resources(channel: Channel) -> ResourcesClient<Channel> {
    ResourcesClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

/// How long the call waits for proxies by its own words.
fn waits(wire: Option<&pbjson_types::Duration>) -> Duration {
    wire.and_then(time::duration).unwrap_or_default().min(Duration::from_secs(3600))
}
