//! RequestMirror: copies of requests, whose answers nobody waits for.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};
use waypost_sdk::{Registered, Registration};
use waypost_tests::{
    gateway::{Ask, Scene, http_route},
    service::Remembered,
    wait::{eventually, holds},
};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Extended "HTTPRouteRequestMirror"
        "a request is also sent to the mirror, whose answer is ignored" mirrored),
    case!(Extended "HTTPRouteRequestMirror"
        "a mirror that is slow, fails or is not there changes nothing for the client" failing),
    case!(Extended "HTTPRouteRequestMultipleMirrors" "a rule may have several mirrors" several),
    case!(Extended "HTTPRouteRequestPercentageMirror"
        "`percent` and `fraction` say how many requests are mirrored" share),
    case!(Extended "HTTPRouteRequestMirror" "a mirror gets the request's body" body),
    case!(Extended "HTTPRouteRequestMirror"
        "together with URLRewrite, the copy has the path and host of the request as it is forwarded" rewritten),
];

/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(10);

async fn mirrors(scene: &Scene, mirrors: &[&str]) {
    let filters: Vec<String> = mirrors
        .iter()
        .map(|mirror| format!("{{type: RequestMirror, requestMirror: {{{mirror}}}}}"))
        .collect();
    let rule = format!("{{filters: [{}], backendRefs: [{{name: one}}]}}", filters.join(", "));
    scene.apply(&http_route("shop", &format!("rules: [{rule}]"))).await;
}

/// Waits until a service has got this many requests with a word in `x-remember`.
async fn arrive(scene: &Scene, service: &str, word: &str, count: usize) -> Vec<Remembered> {
    eventually(&format!("{service} gets {count} copies"), PATIENCE, async || {
        let got = scene.service(service).remembered(word);
        holds(got.len() == count, || format!("{got:?}")).map(|()| got)
    })
    .await
}

async fn mirrored(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: two}"]).await;
    let answer = scene.get("a.example", "/x?y=1", &[("x-remember", "copy"), ("x-a", "b")]).await;
    assert_eq!(answer.who(), "one");
    let got = arrive(scene, "two", "copy", 1).await;
    assert_eq!(got[0].path, "/x?y=1");
    assert_eq!(got[0].headers["x-a"], "b");
    assert!(got[0].host.starts_with("a.example"), "{}", got[0].host);
    assert_eq!(scene.service("one").remembered("copy").len(), 1);
}

async fn failing(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: nowhere}"]).await;
    assert_eq!(scene.who("a.example", "/").await, "one");
    let slow = Slow::start(scene).await;
    mirrors(scene, &["backendRef: {name: slow}"]).await;
    assert_eq!(scene.who("a.example", "/").await, "one");
    slow.holds_a_request().await;
    let failing = scene.register("failing", "failing", |it| it).await;
    failing.service.set_failing(true);
    mirrors(scene, &["backendRef: {name: failing}"]).await;
    let answer = scene.get("a.example", "/", &[("x-remember", "failing")]).await;
    assert_eq!((answer.status.as_u16(), answer.who()), (200, "one".to_owned()));
    eventually("the mirror is asked", PATIENCE, async || {
        let got = failing.service.remembered("failing");
        holds(got.len() == 1, || format!("{got:?}"))
    })
    .await;
    let dead = scene.register("dead", "dead", |it| it).await;
    dead.service.stop();
    mirrors(scene, &["backendRef: {name: dead}"]).await;
    for _ in 0..5 {
        assert_eq!(scene.who("a.example", "/").await, "one");
    }
    drop((slow, failing, dead));
}

/// A mirror that takes requests and answers none.
struct Slow {
    _registered: Registered,
    listener: TcpListener,
}

impl Slow {
    async fn start(scene: &Scene) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let registered = scene.cluster.client().register(Registration::new("slow", address)).await;
        scene.cluster.converged().await;
        Self { _registered: registered.expect("registered"), listener }
    }

    /// Waits until a request has come.
    async fn holds_a_request(&self) {
        let come = async {
            let (mut stream, _) = self.listener.accept().await.expect("a connection");
            let mut begin = [0; 4];
            stream.read_exact(&mut begin).await.expect("a request");
            assert_eq!(begin, *b"GET ");
        };
        timeout(PATIENCE, come).await.expect("the mirror is asked");
    }
}

async fn several(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: two}", "backendRef: {name: three}"]).await;
    let answer = scene.get("a.example", "/several", &[("x-remember", "several")]).await;
    assert_eq!(answer.who(), "one");
    arrive(scene, "two", "several", 1).await;
    arrive(scene, "three", "several", 1).await;
}

async fn share(scene: &Scene) {
    mirrors(
        scene,
        &[
            "backendRef: {name: two}, percent: 0",
            "backendRef: {name: three}, fraction: {numerator: 1, denominator: 4}",
        ],
    )
    .await;
    let ask = Ask::get("a.example", "/").header("x-remember", "share");
    let mut connection = scene.connect(&ask).await;
    for _ in 0..200 {
        assert_eq!(connection.send(&ask).await.expect("an answer").who(), "one");
    }
    // Half of 50 is more than six standard deviations away, and so is twice that.
    eventually("a quarter is copied", PATIENCE, async || {
        let copies = scene.service("three").remembered("share").len();
        holds((12..=90).contains(&copies), || copies.to_string())
    })
    .await;
    assert_eq!(scene.service("two").remembered("share").len(), 0);
}

async fn body(scene: &Scene) {
    mirrors(scene, &["backendRef: {name: two}"]).await;
    // Less than a mirror may lie behind: more may be given up on a machine under load.
    let body: Vec<u8> = (0..10_000_u16).flat_map(u16::to_le_bytes).collect();
    let ask = Ask::get("a.example", "/echo").method("POST").header("x-remember", "body").body(&body);
    let answer = scene.send(&ask).await;
    assert_eq!(answer.who(), "one");
    assert_eq!(answer.body, body);
    eventually("the copy's body arrives", PATIENCE, async || {
        let arrived = scene.service("two").echoed("body");
        holds(arrived == body, || format!("{} bytes", arrived.len()))
    })
    .await;
}

async fn rewritten(scene: &Scene) {
    let rewrite = "{hostname: inside.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}";
    let rule = format!(
        "{{matches: [{{path: {{value: /old}}}}], backendRefs: [{{name: one}}], filters: [\
         {{type: RequestMirror, requestMirror: {{backendRef: {{name: two}}}}}}, \
         {{type: URLRewrite, urlRewrite: {rewrite}}}]}}"
    );
    scene.apply(&http_route("shop", &format!("rules: [{rule}]"))).await;
    let answer = scene.get("a.example", "/old/x?y=1", &[("x-remember", "rewritten")]).await;
    assert_eq!([answer.who(), answer.path(), answer.host()], ["one", "/new/x?y=1", "inside.example"]);
    let got = arrive(scene, "two", "rewritten", 1).await;
    assert_eq!([&*got[0].path, &*got[0].host], ["/new/x?y=1", "inside.example"]);
}
