//! What the Gateway API has and Waypost has not, with the reason: it is refused, since a field that is silently
//! without effect would mislead.

use super::key::Kind;

/// Why a field that the Gateway API has is refused.
pub(super) fn field(kind: Kind, name: &str) -> Option<&'static str> {
    let why = match (kind, name) {
        (Kind::Gateway, "addresses") => {
            "Waypost does not support it: proxies bind the address of their own --listen"
        }
        (Kind::Gateway, "backendTLS" | "backend") => {
            "Waypost does not support it: proxies show services no certificate"
        }
        (Kind::Gateway, "allowedListeners") => "Waypost does not support it: there are no ListenerSets",
        (Kind::Gateway, "defaultScope") | (Kind::HttpRoute | Kind::GrpcRoute, "useDefaultGateways") => {
            "Waypost does not support it: a route without parentRefs belongs to the implicit Gateway, \
             at the proxy's own port"
        }
        (Kind::Gateway, "parametersRef") => "Waypost does not support it: a Gateway creates nothing",
        (Kind::HttpRoute | Kind::GrpcRoute, "extensionRef") => {
            "Waypost does not support it: there are no filters of other kinds"
        }
        (Kind::HttpRoute, "externalAuth") => {
            "Waypost does not support it: there is no external authorization"
        }
        (Kind::GrpcRoute, "timeouts" | "retry") => {
            "the Gateway API has it for HTTPRoute only; an HTTPRoute can match the path /package.Service/Method"
        }
        (Kind::BackendTlsPolicy | Kind::BackendTrafficPolicy, "sectionName") => {
            "Waypost does not support it: services have no named ports"
        }
        (Kind::ConfigMap, "binaryData") => {
            "Waypost does not support it: certificates in PEM are text, which belongs into \"data\""
        }
        (_, "generateName") => "a declared resource has a name of its own: use \"name\"",
        (Kind::BackendTrafficPolicy, other) => return traffic(other),
        _ => return None,
    };
    Some(why)
}

/// What fields of Envoy Gateway's kind of this name are called here.
fn traffic(name: &str) -> Option<&'static str> {
    let why = match name {
        "targetSelectors" => "Waypost does not support it: services have no labels; name them in targetRefs",
        "mergeType" => {
            "Waypost does not support it: policies do not merge, of two for a service the older one counts"
        }
        "consistentHash" => "it is \"hash\" here, beside type RingHash or Maglev",
        "active" => "its fields stand in healthCheck itself here",
        "passive" => "it is spec.outlierDetection here",
        "numRetries" => "it is \"attempts\" here",
        "retryOn" => "it is \"codes\" here; failures to connect are always tried again",
        "maxParallelRequests" => "it is \"maxRequests\" here",
        "maxParallelRetries" => "it is \"maxRetries\" here",
        _ => return None,
    };
    Some(why)
}

/// Why a value that the Gateway API has is refused.
pub(super) fn variant(name: &str) -> Option<String> {
    let why = match name {
        "ExtensionRef" => "is not supported: there are no filters of other kinds",
        "ExternalAuth" => "is not supported: there is no external authorization",
        "TLS" | "TCP" | "UDP" => "is not supported: listeners speak HTTP or HTTPS",
        "ConsistentHash" => "is not supported: hashing by a key is RingHash or Maglev",
        "Passthrough" => "is not supported: TLS ends at the proxy, mode Terminate",
        _ => return None,
    };
    Some(why.to_owned())
}
