//! The table of all that the API offers. See `operation`.

use axum::routing::{delete, get, post, put};
use waypost_proto::error::ErrorCode::{
    DeadlineExceeded, FailedPrecondition, NotFound, ResourceExhausted, StaleEpoch, Unavailable,
};

use super::{
    index, metrics,
    openapi::{self, schema},
    operation::{
        Content::{Json, Lines, Message, MessageWithoutKey, Text},
        Kind, Operation, Parameter,
    },
    read, ready, resources, tapper, watch, write,
};

const NAMESPACE: Parameter = Parameter::new("namespace", Kind::Text, "Only this namespace.");
const IN_NAMESPACE: Parameter =
    Parameter::new("namespace", Kind::Text, "The service's namespace; `default` where it is not given.");
const SERVICE: Parameter = Parameter::new("service", Kind::Text, "Only this service.");
const VERSION: Parameter = Parameter::new("version", Kind::Text, "Only this version.");
const TAG: Parameter =
    Parameter::new("tag", Kind::Text, "Only instances that have all of these tags.").repeats();
const CLIENT: Parameter = Parameter::new("client", Kind::Text, "What the client calls itself.");
const REASON: Parameter = Parameter::new("reason", Kind::Text, "Why, for the event history.");
const DRY_RUN: Parameter = Parameter::new("dry_run", Kind::Flag, "Check it and change nothing.");
const WAIT: Parameter = Parameter::new(
    "wait",
    Kind::Duration,
    "Answer when every live proxy has applied it, or this has passed.",
);
const ACTOR: Parameter = Parameter::new("actor", Kind::Text, "Who asks, for the history.");

const INSTANCE: &str = "/v1/instances/{namespace}/{service}/{instance}";
const DRAIN: &str = "/v1/instances/{namespace}/{service}/{instance}/drain";
const OVERRIDE: &str = "/v1/instances/{namespace}/{service}/{instance}/override";
const RESOURCE: &str = "/v1/resources/{kind}/{namespace}/{name}";
const RESOURCE_HISTORY: &str = "/v1/resources/{kind}/{namespace}/{name}/history";
const RESOURCE_ROLLBACK: &str = "/v1/resources/{kind}/{namespace}/{name}/rollback";
const DOCUMENTS: (&str, &str) = ("application/yaml", "Documents as they lie in files, YAML or JSON.");

/// All of it, in the order of the documentation.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        ("POST", "/v1/instances"),
        "register",
        "Registers an instance, or replaces the one with the same id.",
        Message("RegisterResponse"),
        || post(write::register),
    )
    .takes(Message("RegisterRequest"))
    .creates()
    .fails(&[Unavailable]),
    Operation::new(
        ("POST", "/v1/heartbeats"),
        "heartbeat",
        "Renews leases; the results are in the order of the beats.",
        Message("HeartbeatResponse"),
        || post(write::heartbeat),
    )
    .takes(Message("HeartbeatRequest"))
    .fails(&[Unavailable]),
    Operation::new(
        ("DELETE", INSTANCE),
        "deregister",
        "Removes an instance, after draining it if asked.",
        Message("DeregisterResponse"),
        || delete(write::deregister),
    )
    .query(&[
        Parameter::new(
            "epoch",
            Kind::Number,
            "The epoch that the registration gave; 0 means whichever is there.",
        ),
        Parameter::new(
            "drain",
            Kind::Flag,
            "Answer when no proxy has a request in flight to it, and remove it then.",
        ),
        Parameter::new(
            "drain_deadline",
            Kind::Duration,
            "How long to wait for that: 30 s where it is not given, at most 1 h.",
        ),
        REASON,
        CLIENT,
    ])
    .fails(&[NotFound, StaleEpoch, FailedPrecondition, Unavailable]),
    Operation::new(
        ("POST", DRAIN),
        "drain",
        "Takes an instance out of rotation, or puts it back.",
        Message("DrainResponse"),
        || post(write::drain),
    )
    .takes(MessageWithoutKey("DrainRequest"))
    .fails(&[NotFound, FailedPrecondition, Unavailable]),
    Operation::new(
        ("POST", OVERRIDE),
        "override",
        "Overrides an instance's state for a time, or ends an override.",
        Message("OverrideResponse"),
        || post(write::set_override),
    )
    .takes(MessageWithoutKey("OverrideRequest"))
    .fails(&[NotFound, FailedPrecondition, Unavailable]),
    Operation::new(
        ("GET", "/v1/services"),
        "listServices",
        "All services, sorted by name.",
        Message("ListServicesResponse"),
        || get(read::services),
    )
    .query(&[NAMESPACE]),
    Operation::new(
        ("GET", "/v1/services/{name}"),
        "getService",
        "One service with its instances.",
        Message("GetServiceResponse"),
        || get(read::service),
    )
    .query(&[IN_NAMESPACE])
    .fails(&[NotFound]),
    Operation::new(
        ("GET", "/v1/instances"),
        "listInstances",
        "Instances, sorted by name.",
        Message("ListInstancesResponse"),
        || get(read::instances),
    )
    .query(&[NAMESPACE, SERVICE, VERSION, TAG, Parameter::new("state", Kind::State, "Only this state.")]),
    Operation::new(
        ("GET", "/v1/resolve"),
        "resolve",
        "The instances of a service that take traffic now.",
        Message("ResolveResponse"),
        || get(read::resolve),
    )
    .query(&[
        Parameter::new("service", Kind::Text, "Which service.").required(),
        IN_NAMESPACE,
        VERSION,
        TAG,
        Parameter::new("zone", Kind::Text, "Instances of this zone come first."),
    ])
    .fails(&[NotFound, Unavailable]),
    Operation::new(
        ("GET", "/v1/watch"),
        "watch",
        "Instances, then each change to them; an empty line every 10 s where there is none.",
        Lines("WatchResponse"),
        || get(watch::watch),
    )
    .query(&[SERVICE, NAMESPACE]),
    Operation::new(
        ("GET", "/v1/routes"),
        "listRoutes",
        "Routes with their claims and conflicts.",
        Message("ListRoutesResponse"),
        || get(read::routes),
    )
    .query(&[NAMESPACE]),
    Operation::new(
        ("GET", "/v1/events"),
        "listEvents",
        "Who came or left, when and why; oldest first.",
        Message("ListEventsResponse"),
        || get(read::events),
    )
    .query(&[
        NAMESPACE,
        SERVICE,
        Parameter::new("instance", Kind::Text, "Only this instance, by its id."),
        Parameter::new("after_revision", Kind::Number, "Only events of a later revision."),
        Parameter::new("since", Kind::Time, "Only events at or after this time."),
        Parameter::new(
            "limit",
            Kind::Number,
            "The newest this many, up to 10,000; 100 where it is not given.",
        ),
    ]),
    Operation::new(
        ("GET", "/v1/proxies"),
        "listProxies",
        "Proxies, and what each serves by.",
        Message("ListProxiesResponse"),
        || get(read::proxies),
    ),
    Operation::new(
        ("GET", "/v1/status"),
        "getStatus",
        "The control plane at a glance.",
        Message("GetStatusResponse"),
        || get(read::status),
    ),
    Operation::new(
        ("GET", "/v1/applied"),
        "waitApplied",
        "Answers when every live proxy has applied a revision.",
        Message("WaitAppliedResponse"),
        || get(write::wait_applied),
    )
    .query(&[
        Parameter::new("revision", Kind::Number, "The revision; the newest where it is not given."),
        Parameter::new(
            "deadline",
            Kind::Duration,
            "How long to wait: 30 s where it is not given, at most 1 h.",
        ),
    ])
    .fails(&[DeadlineExceeded, Unavailable]),
    Operation::new(
        ("GET", "/v1/resources"),
        "listResources",
        "Declared resources with their status.",
        Message("ListResourcesResponse"),
        || get(resources::all),
    )
    .query(&[
        Parameter::new("kind", Kind::Text, "Only this kind."),
        NAMESPACE,
        Parameter::new("name", Kind::Text, "Only those of this name."),
    ]),
    Operation::new(
        ("PUT", "/v1/resources"),
        "apply",
        "Declares what documents say, all or nothing.",
        Message("ApplyResponse"),
        || put(resources::apply),
    )
    .takes(Text(DOCUMENTS.0, DOCUMENTS.1))
    .query(APPLY)
    .fails(CHANGED),
    Operation::new(
        ("POST", "/v1/resources"),
        "applyByPost",
        "The same as PUT.",
        Message("ApplyResponse"),
        || post(resources::apply),
    )
    .takes(Text(DOCUMENTS.0, DOCUMENTS.1))
    .query(APPLY)
    .fails(CHANGED),
    Operation::new(
        ("POST", "/v1/resources/delete"),
        "deleteResources",
        "Removes several resources, all or none.",
        Message("DeleteResourcesResponse"),
        || post(resources::delete_all),
    )
    .takes(Message("DeleteResourcesRequest"))
    .fails(CHANGED),
    Operation::new(
        ("GET", "/v1/resources/{kind}"),
        "listResourcesOfKind",
        "Declared resources of a kind.",
        Message("ListResourcesResponse"),
        || get(resources::of_kind),
    )
    .query(&[NAMESPACE, Parameter::new("name", Kind::Text, "Only those of this name.")]),
    Operation::new(
        ("GET", RESOURCE),
        "getResource",
        "One resource with its status.",
        Message("Resource"),
        || get(resources::one),
    )
    .fails(&[NotFound]),
    Operation::new(
        ("DELETE", RESOURCE),
        "deleteResource",
        "Removes a resource.",
        Message("DeleteResourcesResponse"),
        || delete(resources::delete),
    )
    .query(&[DRY_RUN, WAIT, ACTOR])
    .fails(CHANGED),
    Operation::new(
        ("GET", RESOURCE_HISTORY),
        "getHistory",
        "A resource's generations.",
        Message("GetHistoryResponse"),
        || get(resources::history),
    )
    .fails(&[NotFound]),
    Operation::new(
        ("POST", RESOURCE_ROLLBACK),
        "rollback",
        "Declares a resource as it was.",
        Message("ApplyResponse"),
        || post(resources::rollback),
    )
    .query(&[
        Parameter::new("generation", Kind::Number, "Which generation; the one before where it is not given."),
        DRY_RUN,
        WAIT,
        ACTOR,
    ])
    .fails(CHANGED),
    Operation::new(
        ("GET", "/healthz"),
        "isAlive",
        "200 while the process runs.",
        Text("text/plain", "`ok`"),
        || get(async || "ok\n"),
    ),
    Operation::new(
        ("GET", "/readyz"),
        "isReady",
        "200 while it takes requests and has its store; 503 says since when it has not, and why.",
        Text("text/plain", "`ok`"),
        || get(ready),
    )
    .fails(&[Unavailable]),
    Operation::new(
        ("GET", "/metrics"),
        "getMetrics",
        "Metrics in Prometheus' text format.",
        Text("text/plain", "Metrics."),
        || get(metrics),
    ),
    Operation::new(("GET", "/"), "index", "What there is.", Json(schema::object), || get(index)),
    Operation::new(("GET", "/openapi.json"), "getOpenApi", "This document.", Json(schema::object), || {
        get(openapi::serve)
    }),
    Operation::new(
        ("POST", "/register"),
        "tapperRegister",
        "Tapper: registers an instance.",
        Json(tapper::schema::done),
        || post(tapper::register),
    )
    .takes(Json(tapper::schema::registration))
    .creates()
    .unprocessable()
    .fails(&[Unavailable]),
    Operation::new(
        ("POST", "/unregister"),
        "tapperUnregister",
        "Tapper: removes an instance.",
        Json(tapper::schema::done),
        || post(tapper::unregister),
    )
    .takes(Json(tapper::schema::leave))
    .unprocessable()
    .fails(&[StaleEpoch, Unavailable]),
    Operation::new(
        ("POST", "/heartbeat/{name}"),
        "tapperHeartbeat",
        "Tapper: renews an instance's lease.",
        Json(tapper::schema::done),
        || post(tapper::heartbeat),
    )
    .takes(Json(tapper::schema::beat))
    .unprocessable()
    .fails(&[NotFound, Unavailable]),
    Operation::new(
        ("GET", "/services"),
        "tapperServices",
        "Tapper: services with their instances.",
        Json(tapper::schema::services),
        || get(tapper::services),
    ),
    Operation::new(
        ("GET", "/services/{name}"),
        "tapperService",
        "Tapper: one service with its instances.",
        Json(tapper::schema::service),
        || get(tapper::service),
    )
    .unprocessable()
    .fails(&[NotFound]),
    Operation::new(
        ("GET", "/health"),
        "tapperHealth",
        "Tapper: whether instances can register.",
        Json(tapper::schema::health),
        || get(tapper::health),
    )
    .fails(&[Unavailable]),
];

const APPLY: &[Parameter] =
    &[DRY_RUN, WAIT, ACTOR, Parameter::new("preview", Kind::Flag, "Say what would be routed differently.")];
const CHANGED: &[waypost_proto::error::ErrorCode] =
    &[NotFound, FailedPrecondition, DeadlineExceeded, ResourceExhausted, Unavailable];
