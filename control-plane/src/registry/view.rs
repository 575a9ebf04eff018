//! What the registry holds at one revision.

use waypost_proto::{
    error::{Error, ErrorCode},
    name::InstanceKey,
    v1,
};

fn missing() -> Error {
    Error::new(ErrorCode::Unavailable, "not yet")
}

/// What the registry holds at one revision. It never changes and shares what did not change with the next.
#[derive(Clone, Debug, Default)]
pub struct View {
    revision: u64,
}

impl View {
    /// The revision that it stands for.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision of the newest change that mattered to proxies: what a proxy that is up to date holds.
    /// A change at revision `r` has reached a proxy that applied `min(r, head)`, by a view of at least `r`.
    pub fn head(&self) -> u64 {
        self.revision
    }

    /// Whether what is missing is known to be gone.
    pub fn settled(&self) -> bool {
        false
    }

    /// Names the life of the revisions.
    pub fn history(&self) -> &str {
        ""
    }

    /// How many services there are.
    pub fn service_count(&self) -> usize {
        0
    }

    /// How many instances there are.
    pub fn instance_count(&self) -> usize {
        0
    }

    /// How many routes are in force.
    pub fn route_count(&self) -> usize {
        0
    }

    /// The claims that lost, sorted by service and route.
    pub fn conflicts(&self) -> Vec<v1::Conflict> {
        Vec::new()
    }

    /// An instance, if it is there.
    pub fn instance(&self, _key: &InstanceKey) -> Option<v1::Instance> {
        None
    }

    /// All services, summed up.
    ///
    /// # Errors
    /// The namespace is not a name.
    pub fn list_services(&self, _request: &v1::ListServicesRequest) -> Result<v1::ListServicesResponse, Error> {
        Err(missing())
    }

    /// One service with its instances.
    ///
    /// # Errors
    /// There is no such service; the error names the nearest.
    pub fn get_service(&self, _request: &v1::GetServiceRequest) -> Result<v1::GetServiceResponse, Error> {
        Err(missing())
    }

    /// Instances that match.
    ///
    /// # Errors
    /// A field of the request breaks its rule.
    pub fn list_instances(
        &self,
        _request: &v1::ListInstancesRequest,
    ) -> Result<v1::ListInstancesResponse, Error> {
        Err(missing())
    }

    /// Routes with their claims and conflicts.
    ///
    /// # Errors
    /// The namespace is not a name.
    pub fn list_routes(&self, _request: &v1::ListRoutesRequest) -> Result<v1::ListRoutesResponse, Error> {
        Err(missing())
    }

    /// The instances of a service that take traffic.
    ///
    /// # Errors
    /// There is no such service, or none of its instances takes traffic.
    pub fn resolve(&self, _request: &v1::ResolveRequest) -> Result<v1::ResolveResponse, Error> {
        Err(missing())
    }

    /// Events that match, oldest first.
    ///
    /// # Errors
    /// A field of the request breaks its rule.
    pub fn list_events(&self, _request: &v1::ListEventsRequest) -> Result<v1::ListEventsResponse, Error> {
        Err(missing())
    }
}
