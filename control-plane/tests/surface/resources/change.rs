//! Dry runs, waiting, deletions, histories, and the way back.

use super::*;

fn request(text: &str) -> v1::ApplyRequest {
    let document = v1::Document { source: "test.yaml".into(), text: text.into() };
    v1::ApplyRequest { documents: vec![document], ..Default::default() }
}

async fn delete(plane: &Plane, keys: &[(&str, &str)]) -> Result<v1::DeleteResourcesResponse, tonic::Status> {
    let keys = keys.iter().map(|(kind, name)| key(kind, name)).collect();
    let request = v1::DeleteResourcesRequest { keys, actor: "bob".into(), ..Default::default() };
    plane.resources().delete_resources(request).await.map(tonic::Response::into_inner)
}

async fn rollback(plane: &Plane, name: &str, generation: u64) -> Result<v1::ApplyResponse, tonic::Status> {
    let request = v1::RollbackRequest { key: Some(key("HTTPRoute", name)), generation, ..Default::default() };
    plane.resources().rollback(request).await.map(tonic::Response::into_inner)
}

async fn history(plane: &Plane, name: &str) -> Vec<v1::Generation> {
    let request = v1::GetHistoryRequest { key: Some(key("HTTPRoute", name)) };
    plane.resources().get_history(request).await.expect("a past").into_inner().generations
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let plane = Plane::start().await;
    let before = plane.apply(&shop()).await.expect("good documents").revision;
    let text = format!("{}---{}", route("shop", "/store"), route("new", "/new"));
    let wish = v1::ApplyRequest { dry_run: true, ..request(&text) };
    let answer = plane.resources().apply(wish).await.expect("good documents").into_inner();
    assert_eq!(outcomes(&answer), [(ApplyOutcome::Configured, 2), (ApplyOutcome::Created, 1)]);
    assert!(answer.resources[0].before.contains("/shop") && answer.resources[0].after.contains("/store"));
    assert_eq!(answer.revision, 0);
    let keys = vec![key("HTTPRoute", "shop")];
    let wish = v1::DeleteResourcesRequest { keys, dry_run: true, ..Default::default() };
    assert_eq!(plane.resources().delete_resources(wish).await.expect("it could").into_inner().revision, 0);
    let wish = v1::ApplyRequest { dry_run: true, ..request(&route("new", "/new").replace("edge", "none")) };
    fields(&plane.resources().apply(wish).await.expect_err("it could not"));
    assert_eq!((plane.status().await.revision, list(&plane, "", "").await.len()), (before, 2));
}

/// What proxies would get.
async fn preview(plane: &Plane, text: &str) -> v1::Preview {
    let wish = v1::ApplyRequest { dry_run: true, preview: true, ..request(text) };
    let answer = plane.resources().apply(wish).await.expect("good documents").into_inner();
    assert_eq!(answer.revision, 0);
    answer.preview.expect("it was asked for")
}

#[tokio::test]
async fn a_preview_is_what_proxies_get_once_it_is_applied() {
    let plane = Plane::start().await;
    let declared = plane.apply(&format!("{}---{}", shop(), external("partner", "10.0.0.1:80"))).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(declared.expect("good documents").revision).await;
    let before = proxy.held.clone().expect("a snapshot");

    // The listener's hostname takes the route with it; an address changes; a route is new.
    let text = [
        GATEWAY.replace("*.example.com", "*.example.org").as_str(),
        &route("shop", "/store").replace("shop.example.com", "shop.example.org"),
        &route("new", "/new").replace("shop.example.com", "shop.example.org"),
        &external("partner", "10.0.0.2:80"),
    ]
    .join("---");
    let told = preview(&plane, &text).await;
    assert_eq!(told.revision, before.position().revision);
    let again = preview(&plane, &text).await;
    assert_eq!(
        (again.revision, again.declared.len()),
        (told.revision, told.declared.len()),
        "nothing changed"
    );
    let applied = plane.apply(&text).await.expect("good documents");
    proxy.reach(applied.revision).await;
    let after = proxy.held.clone().expect("a snapshot");
    let mut got: Vec<_> = after
        .declared()
        .filter(|entry| before.declared_entry(&entry.id) != Some(*entry))
        .map(|entry| v1::DeclaredEntry::clone(entry))
        .collect();
    let mut wanted = told.declared;
    // A route that is new is as old as its first commit.
    for entry in got.iter_mut().chain(&mut wanted) {
        if let Some(Kind::Route(route)) = &mut entry.kind {
            assert!(route.created_at.take().is_some());
        }
    }
    got.sort_by(|a, b| a.id.cmp(&b.id));
    wanted.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(wanted, got);
    assert_eq!(wanted.len(), 3);
    let addresses = |entries: Vec<v1::InstanceEntry>| -> Vec<String> {
        entries.into_iter().map(|entry| entry.address).collect()
    };
    assert_eq!(addresses(told.instances), ["10.0.0.2:80"]);
    let removals = told.removals.expect("an address is gone");
    assert_eq!(removals.instances.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_preview_says_what_would_be_gone_and_comes_with_dry_runs_alone() {
    let plane = Plane::start().await;
    let more = format!("{GATEWAY}  - {{name: extra, port: 8444, protocol: HTTP}}\n");
    let both = format!("{more}---{}", route("shop", "/shop"));
    plane.apply(&both).await.expect("good documents");
    let same = preview(&plane, &both).await;
    assert_eq!((same.declared.len(), same.removals.unwrap_or_default()), (0, v1::Removals::default()));
    let fewer = preview(&plane, GATEWAY).await;
    assert_eq!(fewer.removals.expect("a listener is gone").declared, ["listener/default/edge/extra"]);
    let changed: Vec<&str> = fewer.declared.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(changed, ["httproute/default/shop"], "it attaches to one listener less");
    let wish = v1::ApplyRequest { preview: true, ..request(&shop()) };
    let refused = plane.resources().apply(wish).await.expect_err("in earnest");
    assert_eq!(fields(&refused), ["preview"]);
    let wish = v1::ApplyRequest { dry_run: true, ..request(&shop()) };
    let answer = plane.resources().apply(wish).await.expect("good documents").into_inner();
    assert_eq!(answer.preview, None);
}

#[tokio::test]
async fn waiting_ends_when_the_last_proxy_serves_by_it_or_names_who_does_not() {
    let plane = Plane::start().await;
    let mut proxy = Proxy::connect(&plane, "late", None).await;
    proxy.next().await.expect("everything");
    proxy.applied(Vec::new()).await;
    let wish = v1::ApplyRequest { wait: Some(wire_duration(Duration::from_millis(50))), ..request(&shop()) };
    let answer = plane.resources().apply(wish).await.expect("it is declared").into_inner();
    assert_eq!(answer.waiting_for, ["late"]);
    let wish = v1::ApplyRequest { wait: Some(wire_duration(PATIENCE)), ..request(&route("shop", "/b")) };
    let mut resources = plane.resources();
    let applying = tokio::spawn(async move { resources.apply(wish).await });
    while proxy.deltas < 2 {
        proxy.next().await.expect("the stream goes on");
    }
    assert!(!applying.is_finished());
    proxy.applied(Vec::new()).await;
    let answer = applying.await.expect("no panic").expect("it is declared").into_inner();
    assert_eq!((answer.waiting_for.len(), outcomes(&answer)[0]), (0, (ApplyOutcome::Configured, 2)));
    let wish = v1::ApplyRequest { wait: Some(wire_duration(Duration::from_secs(7200))), ..request(&shop()) };
    let refused = plane.resources().apply(wish).await.expect_err("that is long");
    assert_eq!(fields(&refused), ["wait"]);
}

#[tokio::test]
async fn what_others_need_is_deleted_with_them_or_not_at_all() {
    let plane = Plane::start().await;
    let declared = plane.apply(&shop()).await.expect("good documents");
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(declared.revision).await;
    let refused = delete(&plane, &[("Gateway", "edge")]).await.expect_err("the route needs it");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("is needed by HTTPRoute default/shop"), "{refused}");
    let refused = delete(&plane, &[("HTTPRoute", "shop"), ("HTTPRoute", "shoe")]).await;
    let refused = refused.expect_err("there is only one");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("HTTPRoute default/shoe"), "{refused}");
    assert_eq!(plane.status().await.revision, declared.revision);
    let gone = delete(&plane, &[("gateway", "edge"), ("HTTPRoute", "shop")]).await.expect("both");
    proxy.reach(gone.revision).await;
    assert!(entries(&proxy).is_empty());
    assert!(list(&plane, "", "").await.is_empty());
    let refused = delete(&plane, &[("HTTPRoute", "shop")]).await.expect_err("it is gone");
    assert_eq!(refused.code(), Code::NotFound);
    let refused = delete(&plane, &[("Pod", "a"), ("HTTPRoute", "A")]).await.expect_err("no such kind");
    assert_eq!(fields(&refused), ["keys[0].kind", "keys[1].name"]);
    assert_eq!(fields(&delete(&plane, &[]).await.expect_err("nothing is named")), ["keys"]);
}

#[tokio::test]
async fn every_generation_is_remembered_and_can_be_brought_back() {
    let plane = Plane::start().await;
    plane.apply(&shop()).await.expect("good documents");
    plane.apply(&route("shop", "/second")).await.expect("a good document");
    let back = rollback(&plane, "shop", 0).await.expect("the first");
    assert_eq!(outcomes(&back), [(ApplyOutcome::Configured, 3)]);
    assert!(back.resources[0].before.contains("/second") && back.resources[0].after.contains("/shop"));
    delete(&plane, &[("HTTPRoute", "shop")]).await.expect("nobody needs it");
    let past = history(&plane, "shop").await;
    let told: Vec<(u64, &str, bool)> = past
        .iter()
        .map(|one| (one.generation, one.actor.as_str(), one.manifest.contains("/second")))
        .collect();
    assert_eq!(told[0], (4, "bob", false));
    assert_eq!((told[2], told[3]), ((2, "ada", true), (1, "ada", false)));
    assert!(past[0].manifest.is_empty(), "its deletion");
    assert!(past.windows(2).all(|pair| pair[0].revision > pair[1].revision));

    let back = rollback(&plane, "shop", 2).await.expect("the second");
    assert_eq!(outcomes(&back), [(ApplyOutcome::Created, 5)]);
    assert_eq!(list(&plane, "HTTPRoute", "shop").await[0].generation, 5);
    let same = rollback(&plane, "shop", 2).await.expect("it is so already");
    assert_eq!(outcomes(&same), [(ApplyOutcome::Unchanged, 5)]);
    let refused = rollback(&plane, "shop", 4).await.expect_err("a deletion");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = rollback(&plane, "shop", 9).await.expect_err("there is none");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("5, 4, 3, 2, 1"), "{refused}");
    assert_eq!(rollback(&plane, "nothing", 0).await.expect_err("no such").code(), Code::NotFound);
    // What cannot work any more is not brought back.
    delete(&plane, &[("HTTPRoute", "shop"), ("Gateway", "edge")]).await.expect("both");
    fields(&rollback(&plane, "shop", 5).await.expect_err("its Gateway is gone"));
}

#[tokio::test]
async fn those_who_declare_at_once_do_not_disturb_each_other() {
    let plane = Plane::start().await;
    plane.apply(GATEWAY).await.expect("a good document");
    let apply = |number: usize| {
        let mut resources = plane.resources();
        let text = route(&format!("route-{}", number % 8), &format!("/{number}"));
        tokio::spawn(async move { resources.apply(request(&text)).await })
    };
    for applying in (0..32).map(apply).collect::<Vec<_>>() {
        applying.await.expect("no panic").expect("it is declared");
    }
    let routes = list(&plane, "HTTPRoute", "").await;
    assert_eq!(routes.iter().map(|route| route.generation).collect::<Vec<_>>(), [4; 8]);
}
