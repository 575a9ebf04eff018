//! Lists of instances, with what proxies see of them beside it. All other questions of the read side are the view's.

use waypost_proto::{error::Error, v1};

use crate::server::Plane;

/// One service with its instances.
pub(crate) async fn get_service(
    plane: &Plane,
    request: &v1::GetServiceRequest,
) -> Result<v1::GetServiceResponse, Error> {
    let mut answer = plane.registry.view().get_service(request)?;
    plane.replicas.add_sightings(&mut answer.instances).await;
    Ok(answer)
}

/// Instances that match.
pub(crate) async fn list_instances(
    plane: &Plane,
    request: &v1::ListInstancesRequest,
) -> Result<v1::ListInstancesResponse, Error> {
    let mut answer = plane.registry.view().list_instances(request)?;
    plane.replicas.add_sightings(&mut answer.instances).await;
    Ok(answer)
}
