//! What a Secret holds comes to proxies and to nobody else.

use super::*;

fn gateway() -> String {
    GATEWAY.replace("protocol: HTTP,", "protocol: HTTPS, tls: {certificateRefs: [{name: edge}]},")
}

/// A Secret with a fresh certificate, and its key.
fn secret() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).expect("a certificate");
    let (chain, private) = (made.cert.pem(), made.signing_key.serialize_pem());
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let text = format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: edge}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
        indented(&chain),
        indented(&private)
    );
    (text, private)
}

/// Whether a text holds something of a key, as it is or in base64 once more.
fn tells(text: &str, private: &str) -> bool {
    use base64::Engine as _;
    let line = private.lines().nth(1).expect("a key has lines");
    let wrapped = base64::engine::general_purpose::STANDARD.encode(private);
    text.contains(line) || text.contains(&wrapped[40..80])
}

#[tokio::test]
async fn a_key_is_never_given_back() {
    let plane = Plane::start().await;
    let ((first, old), (second, new)) = (secret(), secret());
    let applied = plane.apply(&format!("{first}---{}", gateway())).await.expect("good documents");
    let changed = plane.apply(&second).await.expect("a good document");
    assert_eq!(outcomes(&changed), [(ApplyOutcome::Configured, 2)]);
    assert_ne!(changed.resources[0].before, changed.resources[0].after, "that it changes is seen");
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(changed.revision).await;
    let held = proxy.held.as_ref().and_then(|held| held.declared_entry("certificate/default/edge"));
    let Some(Kind::Certificate(entry)) = held.and_then(|entry| entry.kind.clone()) else {
        panic!("no certificate in {:?}", entries(&proxy))
    };
    assert_eq!(String::from_utf8_lossy(&entry.key).trim(), new.trim(), "a proxy needs it");

    let request = v1::GetHistoryRequest { key: Some(key("Secret", "edge")) };
    let history = plane.resources().get_history(request).await.expect("a past").into_inner();
    let request =
        v1::RollbackRequest { key: Some(key("Secret", "edge")), dry_run: true, ..Default::default() };
    let rollback = plane.resources().rollback(request).await.expect("it could").into_inner();
    // A Gateway that is new, with the certificate of a Secret that is.
    let (third, newest) = secret();
    let texts = [&third, &gateway()]
        .map(|text| text.replace("name: edge", "name: other").replace("*.example.com", "*.example.net"));
    let documents = texts.map(|text| v1::Document { source: "test.yaml".into(), text }).to_vec();
    let request = v1::ApplyRequest { documents, dry_run: true, preview: true, ..Default::default() };
    let preview = plane.resources().apply(request).await.expect("it could").into_inner();
    let shown = preview.preview.as_ref().expect("it was asked for");
    assert_eq!(shown.withheld, ["certificate/default/other"], "that it changes is told");
    assert!(!tells(&format!("{preview:?}"), &newest), "{preview:?}");
    let bytes = format!("{:?}", newest.lines().nth(1).expect("a key has lines").as_bytes());
    assert!(!format!("{preview:?}").contains(bytes.trim_matches(['[', ']'])), "nor as bytes");
    let mut told = vec![
        format!("{preview:?}"),
        format!("{applied:?}"),
        format!("{changed:?}"),
        format!("{history:?}"),
        format!("{rollback:?}"),
        format!("{:?}", list(&plane, "", "").await),
    ];
    for path in ["", "/Secret", "/Secret/default/edge", "/Secret/default/edge/history"] {
        let (status, _, body) = plane.get(&format!("/v1/resources{path}")).await;
        assert_eq!(status, 200, "{path}: {body}");
        told.push(body);
    }
    for text in &told {
        assert!(text.contains("tls.key"), "which keys there are may be seen: {text}");
        assert!(!tells(text, &old) && !tells(text, &new), "{text}");
    }
    // Nor does what is wrong with a Secret.
    let broken = second.replace("-----END PRIVATE", "-----END PUBLIC");
    let refused = plane.apply(&broken).await.expect_err("no key");
    assert!(!tells(&format!("{refused:?}"), &new), "{refused:?}");
}

#[tokio::test]
async fn what_was_shown_is_not_taken_for_the_secret() {
    let plane = Plane::start().await;
    let (text, _) = secret();
    plane.apply(&text).await.expect("a good document");
    let shown = list(&plane, "Secret", "edge").await.remove(0).manifest;
    fields(&plane.apply(&shown).await.expect_err("marks are no values"));
    assert_eq!(list(&plane, "Secret", "edge").await[0].generation, 1);
}
