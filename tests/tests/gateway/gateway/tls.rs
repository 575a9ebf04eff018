//! HTTPS listeners: certificates, names, and clients that must show one.

use std::time::Duration;

use serde_json::Value;
use waypost_tests::{
    gateway::{Ask, Connection, Scene, Tls, gateway, http_route, listener_port, resource},
    wait::{eventually, holds},
};

use crate::{
    case::{Case, case},
    certificates::{Authority, Identity},
};

pub(super) const CASES: &[Case] = &[
    case!(Core "GatewayHTTPSListener" "TLS ends at an HTTPS listener; HTTP/1.1 and HTTP/2 are spoken within" https),
    case!(Core "GatewayHTTPSListener"
        "listeners of one port are chosen by the name that the client asks for (SNI)" sni),
    case!(Core "HTTPRouteHTTPSListener"
        "a request for a host that another listener's certificate is for gets 421 Misdirected Request" misdirected),
    case!(Implementation "GatewayTLSMinimumVersion"
        "with the option waypost.dev/minimum-tls-version `1.3`, clients that speak TLS 1.2 only are refused" version),
    case!(Core "GatewayHTTPSListener" "a Secret that is declared anew is shown to new connections" rotated),
    case!(Core "GatewayInvalidTLSConfiguration"
        "a certificate that is not there, or whose key is another one's, is refused" missing),
    case!(Core "GatewaySecretInvalidReferenceGrant"
        "a Secret of another namespace without a ReferenceGrant is refused" not_permitted),
    case!(Core "GatewaySecretReferenceGrant"
        "a ReferenceGrant for the Secret permits it, and stays as long as it is needed" permitted),
    case!(Extended "GatewayFrontendClientCertificateValidation"
        "clients must show a certificate that the given authority has signed" client_certificates),
    case!(Extended "GatewayFrontendClientCertificateValidation"
        "a client's certificate that has expired is refused" expired_client),
    case!(Extended "GatewayFrontendClientCertificateValidationInsecureFallback"
        "with AllowInsecureFallback, clients without a good one are let in" insecure_fallback),
    case!(Extended "GatewayFrontendClientCertificateValidationInsecureFallback"
        "with AllowInsecureFallback, the Gateway is InsecureFrontendValidationMode: ConfigurationChanged"
        insecure_condition),
];

const EDGE: (&str, &str, &str) = ("Gateway", "default", "edge");

fn listener(name: &str, port: u16, host: &str, secret: &str) -> String {
    format!(
        "- {{name: {name}, port: {port}, protocol: HTTPS, hostname: '{host}', \
         tls: {{certificateRefs: [{{name: {secret}}}]}}}}\n"
    )
}

fn shop() -> String {
    http_route("shop", "parentRefs: [{name: edge}]\nrules: [{backendRefs: [{name: one}]}]")
}

async fn https(scene: &Scene) {
    let authority = Authority::new();
    let port = listener_port();
    let secret = authority.sign(&["a.example"]).secret("default", "a");
    scene.apply(&(secret + &gateway("edge", &listener("https", port, "a.example", "a")) + &shop())).await;
    let ask = Ask::get("a.example", "/x").port(port).tls(&Tls::new(&authority.pem, "a.example"));
    for ask in [ask.clone(), ask.http2()] {
        let answer = scene.send(&ask).await;
        assert_eq!(answer.who(), "one", "{ask:?}");
        assert_eq!(answer.arrived("x-forwarded-proto"), ["https"]);
    }
    scene.condition(EDGE, "/listeners/0", ("Programmed", "True", "Programmed")).await;
}

async fn sni(scene: &Scene) {
    // Each has an authority of its own, so that a certificate that is accepted is the right one.
    let (first, second) = (Authority::new(), Authority::new());
    let port = listener_port();
    let secrets = first.sign(&["a.example"]).secret("default", "a")
        + &second.sign(&["*.b.example"]).secret("default", "b");
    let listeners = listener("a", port, "a.example", "a") + &listener("b", port, "*.b.example", "b");
    let routes = ["a", "b"].map(|name| {
        let backend = if name == "a" { "one" } else { "two" };
        http_route(
            name,
            &format!("parentRefs: [{{name: edge, sectionName: {name}}}]\nrules: [{{backendRefs: [{{name: {backend}}}]}}]"),
        )
    });
    scene.apply(&(secrets + &gateway("edge", &listeners) + &routes.concat())).await;
    for (authority, host, who) in [(&first, "a.example", "one"), (&second, "x.b.example", "two")] {
        let ask = Ask::get(host, "/").port(port).tls(&Tls::new(&authority.pem, host));
        assert_eq!(scene.send(&ask).await.who(), who);
    }
}

async fn misdirected(scene: &Scene) {
    let authority = Authority::new();
    let port = listener_port();
    let secrets = authority.sign(&["a.example"]).secret("default", "a")
        + &authority.sign(&["b.example"]).secret("default", "b");
    let listeners = listener("a", port, "a.example", "a") + &listener("b", port, "b.example", "b");
    scene.apply(&(secrets + &gateway("edge", &listeners) + &shop())).await;
    let tls = Tls::new(&authority.pem, "a.example");
    for http2 in [true, false] {
        let ask = |host: &str| Ask { http2, ..Ask::get(host, "/").port(port).tls(&tls) };
        let mut connection = scene.connect(&ask("a.example")).await;
        assert_eq!(connection.send(&ask("a.example")).await.expect("an answer").who(), "one");
        let answer = scene.send(&ask("b.example")).await;
        assert_eq!(answer.who(), "421 misdirected", "http2: {http2}");
    }
}

async fn version(scene: &Scene) {
    let (authority, port) = (Authority::new(), listener_port());
    let newest = listener("https", port, "a.example", "a")
        .replace("tls: {", "tls: {options: {waypost.dev/minimum-tls-version: '1.3'}, ");
    let secret = authority.sign(&["a.example"]).secret("default", "a");
    let tls = Tls::new(&authority.pem, "a.example");
    let ask = Ask::get("a.example", "/").port(port);
    let (new, old) = (ask.clone().tls(&tls), ask.tls(&tls.only_tls12()));
    scene.apply(&(secret + &gateway("edge", &listener("https", port, "a.example", "a")) + &shop())).await;
    assert_eq!([scene.send(&new).await.who(), scene.send(&old).await.who()], ["one", "one"]);
    scene.apply(&gateway("edge", &newest)).await;
    assert_eq!(scene.send(&new).await.who(), "one");
    let refused = Connection::open(scene.address(Some(port)), &old).await;
    let why = refused.err().expect("it is refused");
    assert!(why.contains("ProtocolVersion"), "{why}");
}

async fn rotated(scene: &Scene) {
    let (old, new) = (Authority::new(), Authority::new());
    let port = listener_port();
    let secret = old.sign(&["a.example"]).secret("default", "a");
    scene.apply(&(secret + &gateway("edge", &listener("https", port, "a.example", "a")) + &shop())).await;
    let ask = |authority: &Authority| {
        Ask::get("a.example", "/").port(port).tls(&Tls::new(&authority.pem, "a.example"))
    };
    let mut before = scene.connect(&ask(&old)).await;
    assert_eq!(before.send(&ask(&old)).await.expect("an answer").who(), "one");
    scene.apply(&new.sign(&["a.example"]).secret("default", "a")).await;
    assert_eq!(scene.send(&ask(&new)).await.who(), "one");
    assert_eq!(before.send(&ask(&old)).await.expect("an answer").who(), "one", "a connection lives on");
}

async fn missing(scene: &Scene) {
    let port = listener_port();
    let why = scene.refused(&gateway("edge", &listener("https", port, "a.example", "a"))).await;
    assert!(why.contains("certificateRefs[0].name: \"a\" is no Secret"), "{why}");
    // A key that is not the certificate's is as good as none.
    let authority = Authority::new();
    let (one, another) = (authority.sign(&["a.example"]), authority.sign(&["a.example"]));
    let mixed = Identity { chain: one.chain, key: another.key }.secret("default", "a");
    let why = scene.refused(&(mixed + &gateway("edge", &listener("https", port, "a.example", "a")))).await;
    assert!(why.contains("Secret default/a") && why.contains("is not the key of the certificate"), "{why}");
}

fn elsewhere(port: u16) -> String {
    let tls = "tls: {certificateRefs: [{name: a, namespace: other}]}";
    gateway("edge", &format!("- {{name: https, port: {port}, protocol: HTTPS, hostname: a.example, {tls}}}"))
}

async fn not_permitted(scene: &Scene) {
    let secret = Authority::new().sign(&["a.example"]).secret("other", "a");
    let why = scene.refused(&(secret + &elsewhere(listener_port()))).await;
    assert!(why.contains("\"other\" has no ReferenceGrant that lets Gateways of namespace default"), "{why}");
}

async fn permitted(scene: &Scene) {
    let authority = Authority::new();
    let port = listener_port();
    let grant = resource(
        "ReferenceGrant",
        "other",
        "secrets",
        "from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}]\nto: [{group: '', kind: Secret}]",
    );
    let secret = authority.sign(&["a.example"]).secret("other", "a");
    scene.apply(&(grant + &secret + &elsewhere(port) + &shop())).await;
    let ask = Ask::get("a.example", "/").port(port).tls(&Tls::new(&authority.pem, "a.example"));
    assert_eq!(scene.send(&ask).await.who(), "one");
    let why = scene.keeps("ReferenceGrant", "other", "secrets").await;
    assert!(why.contains("is needed by Gateway default/edge"), "{why}");
    assert_eq!(scene.send(&ask).await.who(), "one");
}

/// A listener that asks clients for certificates of an authority; gives what a client gets that shows none, a good
/// one, a stranger's and one that has expired.
async fn mutual(scene: &Scene, mode: &str) -> [Result<String, String>; 4] {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let port = listener_port();
    let validation = format!(
        "tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: clients}}]{mode}}}}}}}}}"
    );
    let spec = format!(
        "gatewayClassName: waypost\n{validation}\nlisteners:\n{}",
        listener("https", port, "a.example", "a")
    );
    let secret = servers.sign(&["a.example"]).secret("default", "a");
    let all =
        secret + &clients.config_map("clients") + &resource("Gateway", "default", "edge", &spec) + &shop();
    scene.apply(&all).await;
    let tls = Tls::new(&servers.pem, "a.example");
    let names = ["client.example"];
    let ask = Ask::get("a.example", "/").port(port);
    let identities = [clients.sign(&names), strangers.sign(&names), clients.sign_expired(&names)];
    let [good, bad, expired] =
        identities.map(|it| ask.clone().tls(&tls.clone().identity(&it.chain, &it.key)));
    // Waits until the port is bound.
    assert_eq!(scene.send(&good).await.who(), "one");
    let mut answers = [const { Ok(String::new()) }; 4];
    for (ask, answer) in [ask.tls(&tls), good, bad, expired].iter().zip(&mut answers) {
        *answer = async {
            let mut connection = Connection::open(scene.address(ask.port), ask).await?;
            Ok(connection.send(ask).await?.who())
        }
        .await;
    }
    answers
}

async fn client_certificates(scene: &Scene) {
    let [none, good, bad, _] = mutual(scene, "").await;
    assert!(none.is_err() && bad.is_err(), "{none:?} {bad:?}");
    assert_eq!(good.as_deref(), Ok("one"));
}

async fn expired_client(scene: &Scene) {
    // The client may see no more than that the connection is closed.
    let told = async || {
        let metrics = scene.admin("/metrics").await.text();
        let reason = "waypost_tls_refusals_total{reason=\"client_certificate_expired\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(reason)?.parse::<u64>().ok());
        count.unwrap_or(0)
    };
    let before = told().await;
    let [_, good, _, expired] = mutual(scene, "").await;
    assert_eq!(good.as_deref(), Ok("one"));
    assert!(expired.is_err(), "{expired:?}");
    eventually("the refusal is counted", Duration::from_secs(5), async || {
        let count = told().await;
        holds(count == before + 1, || count.to_string())
    })
    .await;
}

async fn insecure_fallback(scene: &Scene) {
    let answers = mutual(scene, ", mode: AllowInsecureFallback").await;
    assert_eq!(answers.each_ref().map(Result::as_deref), [Ok("one"); 4]);
}

async fn insecure_condition(scene: &Scene) {
    let conditions = async || {
        let status = scene.status("Gateway", "default", "edge").await;
        let conditions = status.pointer("/conditions").and_then(Value::as_array).expect("a list");
        let kind = |condition: &Value| condition["type"].as_str().expect("text").to_owned();
        conditions.iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(mutual(scene, "").await[1].as_deref(), Ok("one"));
    assert_eq!(conditions().await, ["Accepted", "Programmed"]);
    assert_eq!(mutual(scene, ", mode: AllowInsecureFallback").await[1].as_deref(), Ok("one"));
    let condition = ("InsecureFrontendValidationMode", "True", "ConfigurationChanged");
    scene.condition(EDGE, "", condition).await;
}
