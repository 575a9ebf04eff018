//! References: what is permitted, what is missing, and what becomes of TLS.

use waypost_proto::v1::declared_entry::Kind;

use super::Bench;

const ACROSS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  rules:
  - backendRefs: [{name: users, namespace: accounts, weight: 3}, {name: local}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copies, namespace: accounts}, percent: 5}}]
"#;

const GRANT: &str = r#"
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: routes, namespace: accounts}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: "", kind: Service, name: users}]
"#;

#[test]
fn a_backend_of_another_namespace_needs_a_grant() {
    let mut bench =
        Bench::of(ACROSS).register("accounts/users").register("local").register("accounts/copies");
    let invalid = |bench: &Bench| -> Vec<bool> {
        let rule = bench.route("httproute/default/r").rules.remove(0);
        rule.backends.iter().map(|backend| !backend.invalid.is_empty()).collect()
    };
    assert_eq!(invalid(&bench), [true, false]);
    assert_eq!(bench.parent("HTTPRoute", "r", "ResolvedRefs"), "False RefNotPermitted");
    assert_eq!(bench.parent("HTTPRoute", "r", "Accepted"), "True Accepted", "the other share is served");
    bench.put(GRANT);
    assert_eq!(invalid(&bench), [false, false]);
    assert_eq!(bench.parent("HTTPRoute", "r", "ResolvedRefs"), "False RefNotPermitted", "the mirror is not");
    bench.put(&GRANT.replace(", name: users", ""));
    assert_eq!(bench.parent("HTTPRoute", "r", "ResolvedRefs"), "True ResolvedRefs");
    bench.put(&GRANT.replace("kind: HTTPRoute", "kind: GRPCRoute"));
    assert_eq!(invalid(&bench), [true, false]);
}

#[test]
fn a_service_that_nobody_registers_is_told_and_named_all_the_same() {
    let mut bench = Bench::of(&ACROSS.replace(", namespace: accounts", ""));
    assert_eq!(bench.parent("HTTPRoute", "r", "ResolvedRefs"), "False BackendNotFound");
    let compiled = bench.compiler.shown().compiled();
    bench = bench.register("users").register("local").register("copies");
    assert_eq!(bench.parent("HTTPRoute", "r", "ResolvedRefs"), "True ResolvedRefs");
    assert_eq!(bench.compiler.shown().compiled(), compiled, "services that come compile nothing");
    let rule = bench.route("httproute/default/r").rules.remove(0);
    assert_eq!(rule.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [3, 1]);
}

const EXTERNAL: &str = r#"
apiVersion: waypost.dev/v1
kind: ExternalService
metadata: {name: legacy}
spec: {addresses: ["legacy.example:8080", "10.0.0.1:80"], protocol: http2}
"#;

#[test]
fn an_external_service_has_instances_that_stay_the_same() {
    let mut bench = Bench::of(EXTERNAL);
    let service = "legacy".parse().expect("a name");
    let ids = |bench: &Bench| -> Vec<String> {
        let endpoints = bench.compiler.shown().external(&service).expect("it is there");
        endpoints.iter().map(|one| format!("{} {}", one.key.id(), one.epoch)).collect()
    };
    assert_eq!(ids(&bench), ["10.0.0.1:80 1", "legacy.example:8080 1"]);
    let step = bench.put(EXTERNAL);
    assert_eq!(step, super::Step::default(), "nothing has changed");
    let step = bench.put(&EXTERNAL.replace("http2", "grpc"));
    assert_eq!(step.externals[0].1.len(), 2);
    assert_eq!(ids(&bench), ["10.0.0.1:80 1", "legacy.example:8080 1"]);
    let step = bench.remove("ExternalService", "legacy");
    assert_eq!((step.externals.len(), bench.compiler.shown().external(&service)), (1, None));
}

const PEM: &str = "-----BEGIN CERTIFICATE-----\\nMIIB\\n-----END CERTIFICATE-----\\n";

fn listener_and(secret: &str) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: front}}
spec:
  gatewayClassName: waypost
  listeners:
  - name: tls
    port: 8443
    protocol: HTTPS
    tls: {{certificateRefs: [{{name: cert, {secret}}}]}}
---
"#
    )
}

#[test]
fn a_policy_whose_authorities_are_missing_leaves_no_way_in_the_clear() {
    let policy = |name: &str| {
        format!(
            r#"
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}}}
spec:
  targetRefs: [{{group: "", kind: Service, name: users}}]
  validation: {{hostname: users.internal, caCertificateRefs: [{{group: "", kind: ConfigMap, name: ca}}]}}
---
"#
        )
    };
    let map =
        format!("\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata: {{ca.crt: \"{PEM}\"}}\n");
    let mut bench = Bench::of(&(policy("old") + &policy("young")));
    let said = |bench: &Bench, name: &str, condition: &str| {
        super::said(&bench.status("BackendTLSPolicy", name)["ancestors"][0]["conditions"], condition)
    };
    assert_eq!(said(&bench, "old", "Accepted"), "False NoValidCACertificate");
    assert_eq!(said(&bench, "old", "ResolvedRefs"), "False InvalidCACertificateRef");
    assert_eq!(said(&bench, "young", "Accepted"), "False Conflicted");
    let Some(Kind::BackendTls(entry)) = bench.entries().remove("backendtls/default/users") else {
        panic!("an entry")
    };
    assert_eq!(entry.authorities, ["authorities/default/ca"], "named, so that proxies refuse");
    assert_eq!(bench.ids(), ["backendtls/default/users"]);
    bench.put(&map);
    assert_eq!(said(&bench, "old", "Accepted"), "True Accepted");
    assert_eq!(bench.ids(), ["authorities/default/ca", "backendtls/default/users"]);
    bench.remove("BackendTLSPolicy", "old");
    assert_eq!(said(&bench, "young", "Accepted"), "True Accepted");
}

#[test]
fn a_listener_without_a_good_certificate_is_not_served() {
    let bench = Bench::of(&listener_and("group: ''"));
    assert_eq!(bench.listener("front", 0, "ResolvedRefs"), "False InvalidCertificateRef");
    assert_eq!(bench.listener("front", 0, "Programmed"), "False Invalid");
    assert_eq!(bench.ids(), [""; 0]);
    let bench = Bench::of(&listener_and("namespace: vault"));
    assert_eq!(bench.listener("front", 0, "ResolvedRefs"), "False RefNotPermitted");
}

/// An HTTPS listener with a good certificate, at a Gateway that asks clients for theirs.
fn asking(tls: &str) -> String {
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: \"{PEM}\"\n  \
         tls.key: \"{}\"\n",
        PEM.replace("CERTIFICATE", "PRIVATE KEY")
    );
    listener_and("group: ''").replace("  listeners:", &format!("  tls: {{frontend: {tls}}}\n  listeners:"))
        + &secret
}

#[test]
fn a_listener_without_any_authority_that_it_asks_for_is_not_accepted() {
    let refs = "{validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}";
    let mut bench = Bench::of(&asking(&format!("{{default: {refs}}}")));
    assert_eq!(bench.listener("front", 0, "Accepted"), "False NoValidCACertificate");
    assert_eq!(bench.listener("front", 0, "ResolvedRefs"), "False InvalidCACertificateRef");
    assert_eq!(bench.listener("front", 0, "Programmed"), "False Invalid");
    bench.put(&format!(
        "\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata: {{ca.crt: \"{PEM}\"}}\n"
    ));
    assert_eq!(bench.listener("front", 0, "Accepted"), "True Accepted");
}

#[test]
fn a_gateway_that_lets_clients_in_without_a_good_certificate_says_so() {
    let rule = |mode: &str| {
        format!(
            "{{validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}], mode: {mode}}}}}"
        )
    };
    let (strict, lenient) = (rule("AllowValidOnly"), rule("AllowInsecureFallback"));
    let port = |rule: &str| format!("perPort: [{{port: 8443, tls: {rule}}}]");
    for (tls, where_to) in [
        (format!("{{default: {strict}, {}}}", port(&strict)), None),
        (format!("{{default: {lenient}, {}}}", port(&strict)), Some("by default")),
        (format!("{{default: {strict}, {}}}", port(&lenient)), Some("at port 8443")),
        (format!("{{default: {lenient}, {}}}", port(&lenient)), Some("by default, at port 8443")),
    ] {
        let status = Bench::of(&asking(&tls)).status("Gateway", "front");
        let conditions = status["conditions"].as_array().expect("conditions");
        let insecure = conditions.iter().find(|one| one["type"] == "InsecureFrontendValidationMode");
        let said = insecure.map(|one| {
            assert_eq!((&one["status"], &one["reason"]), (&"True".into(), &"ConfigurationChanged".into()));
            one["message"].as_str().expect("text").rsplit(": ").next().expect("where")
        });
        assert_eq!(said, where_to, "{tls}");
    }
}

#[test]
fn programmed_waits_for_the_proxies() {
    let mut bench = Bench::of(ACROSS);
    assert_eq!(bench.parent("HTTPRoute", "r", "Programmed"), "True Programmed");
    bench.fleet.watermark = 0;
    assert_eq!(bench.parent("HTTPRoute", "r", "Programmed"), "False Pending");
    bench.fleet = super::Fleet::default();
    assert_eq!(bench.parent("HTTPRoute", "r", "Programmed"), "False Pending");
}
