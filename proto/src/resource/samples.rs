//! Manifests for tests: one of each kind with about every field, and fragments to build others from.

use super::{Finding, Manifest, Parsed, parse};
use crate::v1;

pub(super) fn document(text: &str) -> v1::Document {
    v1::Document { source: "a.yaml".to_owned(), text: text.to_owned() }
}

pub(super) fn read(text: &str) -> Result<Vec<Parsed>, Vec<Finding>> {
    parse(&[document(text)])
}

#[track_caller]
pub(super) fn good(text: &str) -> Vec<Manifest> {
    let read = read(text).unwrap_or_else(|findings| {
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        panic!("refused:\n{}\n{text}", lines.join("\n"))
    });
    read.into_iter().map(|parsed| Manifest::clone(&parsed.manifest)).collect()
}

/// All that is said of a text that must be refused, one line each.
#[track_caller]
pub(super) fn refused(text: &str) -> String {
    let findings = read(text).map(|_| ()).expect_err("must be refused");
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    lines.join("\n")
}

/// An HTTPRoute with this `spec`, in flow style.
pub(super) fn http_route(spec: &str) -> String {
    resource("gateway.networking.k8s.io/v1", "HTTPRoute", "shop", spec)
}

/// A resource with this `spec`, in flow style.
pub(super) fn resource(version: &str, kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {name}\nspec: {spec}\n")
}

/// A certificate in PEM, whose contents nobody looks at: an empty SEQUENCE.
pub(super) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
/// A private key in PEM of the same sort.
pub(super) const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

/// One of each kind.
pub(super) const ALL_KINDS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: edge
  namespace: infra
  labels: {team: edge}
spec:
  gatewayClassName: waypost
  tls:
    frontend:
      default: {}
      perPort:
        - port: 8444
          tls:
            validation:
              mode: AllowInsecureFallback
              caCertificateRefs: [{group: "", kind: ConfigMap, name: clients}]
  listeners:
    - name: http
      port: 8080
      protocol: HTTP
      hostname: "*.example.com"
      allowedRoutes:
        namespaces:
          from: Selector
          selector:
            matchExpressions:
              - {key: kubernetes.io/metadata.name, operator: In, values: [default, shop]}
        kinds: [{kind: HTTPRoute}, {kind: GRPCRoute}]
    - name: https
      port: 8443
      protocol: HTTPS
      tls:
        certificateRefs: [{name: edge-tls}]
        options: {waypost.dev/minimum-tls-version: "1.3"}
        frontendValidation:
          caCertificateRefs: [{group: "", kind: ConfigMap, name: clients}]
      allowedRoutes: {namespaces: {from: All}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop, annotations: {a/b: "1"}}
spec:
  parentRefs: [{name: edge, namespace: infra, sectionName: http}, {name: edge, namespace: infra, port: 8443}]
  hostnames: [shop.example.com, "*.shop.example.com"]
  rules:
    - name: cart
      matches:
        - path: {type: PathPrefix, value: /cart}
          method: GET
          headers: [{name: X-Canary, value: "yes"}, {name: x-user, type: RegularExpression, value: "[a-f0-9]+"}]
          queryParams: [{name: debug, value: "1"}]
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
        - type: ResponseHeaderModifier
          responseHeaderModifier: {remove: [server]}
        - type: RequestMirror
          requestMirror: {backendRef: {name: audit, port: 80}, percent: 10}
        - type: RequestMirror
          requestMirror: {backendRef: {name: audit2}, fraction: {numerator: 1, denominator: 1000}}
        - type: URLRewrite
          urlRewrite: {hostname: cart.internal, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
        - type: CORS
          cors:
            allowOrigins: ["https://*.example.com", "https://a.example:8443"]
            allowCredentials: true
            allowMethods: [GET, PUT]
            allowHeaders: [x-a]
            exposeHeaders: ["*"]
            maxAge: 60
      backendRefs:
        - {name: cart, port: 8080, weight: 90, versions: ["1.2"], tags: [blue]}
        - name: cart-next
          weight: 10
          filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-next, value: "1"}]}}]
        - {group: waypost.dev, kind: ExternalService, name: legacy, weight: 0}
      timeouts: {request: 10s, backendRequest: 2s500ms}
      retry: {codes: [502, 503], attempts: 3, backoff: 100ms}
      sessionPersistence:
        sessionName: cart
        type: Cookie
        absoluteTimeout: 24h
        idleTimeout: 1h
        cookieConfig: {lifetimeType: Permanent}
    - matches: [{path: {type: Exact, value: /old}}, {path: {type: RegularExpression, value: "/v[0-9]+/.*"}}]
      filters:
        - type: RequestRedirect
          requestRedirect:
            scheme: https
            hostname: new.example.com
            port: 8443
            statusCode: 308
            path: {type: ReplaceFullPath, replaceFullPath: /new}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: users}
spec:
  hostnames: [users.example.com]
  rules:
    - matches:
        - method: {service: shop.v1.Users, method: Get}
          headers: [{name: x-tenant, value: a}]
        - method: {type: RegularExpression, service: "shop\\..*"}
      backendRefs: [{name: users}]
      sessionPersistence: {type: Header, sessionName: x-session}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shops, namespace: infra}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: "", kind: Service, name: audit}, {group: "", kind: Secret}]
---
apiVersion: gateway.networking.k8s.io/v1alpha3
kind: BackendTLSPolicy
metadata: {name: cart}
spec:
  targetRefs: [{group: "", kind: Service, name: cart}]
  validation:
    caCertificateRefs: [{group: "", kind: ConfigMap, name: clients}]
    hostname: cart.internal
    subjectAltNames: [{type: Hostname, hostname: cart.internal}, {type: URI, uri: "spiffe://example.com/cart"}]
---
apiVersion: v1
kind: Secret
metadata: {name: edge-tls, namespace: infra}
type: kubernetes.io/tls
data:
  tls.crt: |
    LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BQT0KLS0t
    LS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=
stringData:
  tls.key: |
    -----BEGIN PRIVATE KEY-----
    MAA=
    -----END PRIVATE KEY-----
---
apiVersion: v1
kind: ConfigMap
metadata: {name: clients, namespace: infra}
data:
  ca.crt: |
    -----BEGIN CERTIFICATE-----
    MAA=
    -----END CERTIFICATE-----
---
apiVersion: waypost.dev/v1
kind: ExternalService
metadata: {name: legacy, namespace: shop}
spec:
  addresses: ["10.0.0.1:80", "legacy.example:8080"]
  protocol: http2
---
apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: cart}, {group: waypost.dev, kind: ExternalService, name: legacy}]
  loadBalancer:
    type: RingHash
    hash: [{header: X-User}, {cookie: user}, {queryParam: user}, {clientAddress: true}]
    boundedLoad: 150
  healthCheck:
    http: {path: "/healthz?deep=1", hostname: cart.internal, expectedStatuses: [200, 204]}
    interval: 10s
    timeout: 2s
    unhealthyThreshold: 2
    healthyThreshold: 4
  outlierDetection:
    consecutiveErrors: 3
    interval: 5s
    baseEjectionTime: 2s
    maxEjectionTime: 1m
    maxEjectionPercent: 30
    successRateStdevFactor: 1900
    latencyPercentOfMedian: 300
    minimumRequests: 50
  panicThreshold: 40
  retry: {attempts: 2, codes: [503], backoff: 25ms, maxBackoff: 250ms, budget: {percent: 10, minimumPerSecond: 5}}
  circuitBreaker:
    maxConnections: 64
    maxPendingRequests: 128
    maxRequests: 256
    maxRetries: 8
    maxRequestsPerInstance: 32
    failurePercent: 50
    window: 20s
    minimumRequests: 10
    openTime: 3s
  timeouts: {connect: 1s, request: 15s, perTry: 5s, idle: 4s}
  hedging: {delay: 50ms}
  adaptiveConcurrency: {minimum: 5, maximum: 500}
  priority: Low
---
apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: users}
spec:
  targetRefs: [{group: "", kind: Service, name: users}]
  loadBalancer: {type: PeakEwma, slowStart: 30s, zoneAware: {minimumInstances: 3}}
  healthCheck: {grpc: {service: shop.v1.Users}}
"#;
