//! Where routes attach, and what they are told.

use super::Bench;

const GATEWAYS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: waypost
  listeners:
  - {name: web, port: 8080, protocol: HTTP, hostname: "*.example.com", allowedRoutes: {namespaces: {from: Same}}}
  - {name: any, port: 8081, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: grpc, port: 8082, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}
  - name: team
    port: 8083
    protocol: HTTP
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: team}}}}
---
"#;

fn route(head: &str, hostnames: &str, parent: &str) -> String {
    format!(
        r#"{GATEWAYS}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, {head}}}
spec:
  hostnames: {hostnames}
  parentRefs: [{parent}]
  rules: [{{backendRefs: [{{name: users, port: 80}}]}}]
"#
    )
}

#[test]
fn a_route_attaches_where_name_port_kind_namespace_and_hostname_allow() {
    for (namespace, hostnames, parent, attached, accepted) in [
        ("default", "[]", "{name: front}", "web=*.example.com any=", "True Accepted"),
        (
            "default",
            "[a.example.com, b.test]",
            "{name: front}",
            "web=a.example.com any=a.example.com,b.test",
            "True Accepted",
        ),
        ("default", "[b.test]", "{name: front, sectionName: web}", "", "False NoMatchingListenerHostname"),
        ("default", "[]", "{name: front, port: 8081}", "any=", "True Accepted"),
        ("default", "[]", "{name: front, sectionName: web, port: 8081}", "", "False NoMatchingParent"),
        ("default", "[]", "{name: front, sectionName: nothing}", "", "False NoMatchingParent"),
        ("default", "[]", "{name: nothing}", "", "False NoMatchingParent"),
        ("default", "[]", "{name: front, sectionName: grpc}", "", "False NotAllowedByListeners"),
        ("default", "[]", "{name: front, sectionName: team}", "", "False NotAllowedByListeners"),
        (
            "other",
            "[]",
            "{name: front, namespace: default, sectionName: web}",
            "",
            "False NotAllowedByListeners",
        ),
        ("other", "[]", "{name: front, namespace: default}", "any=", "True Accepted"),
        ("team", "[]", "{name: front, namespace: default}", "any= team=", "True Accepted"),
        ("default", "[a.test]", "{name: waypost}", "http=a.test", "True Accepted"),
        ("other", "[]", "{name: waypost, namespace: default, sectionName: http}", "http=", "True Accepted"),
        ("default", "[]", "{name: waypost, sectionName: https}", "", "False NoMatchingParent"),
    ] {
        let bench = Bench::of(&route(&format!("namespace: {namespace}"), hostnames, parent));
        let shown = format!("{namespace} {hostnames} {parent}");
        let key = super::key("HTTPRoute", namespace, "r");
        let registered = |_: &waypost_proto::name::ServiceKey| true;
        let reader = super::Reader::new(bench.compiler.shown(), bench.fleet.clone(), &registered);
        let status = reader.status(&key).expect("a status");
        assert_eq!(super::said(&status["parents"][0]["conditions"], "Accepted"), accepted, "{shown}");
        assert_eq!(status["parents"][0]["controllerName"], "waypost.dev/control-plane");
        let entry = bench.entries().remove(&format!("httproute/{namespace}/r"));
        let attachments = match entry {
            Some(super::Kind::Route(route)) => route.attachments,
            _ => Vec::new(),
        };
        let mut found: Vec<String> = attachments
            .iter()
            .map(|one| {
                format!("{}={}", one.listener.rsplit('/').next().unwrap_or(""), one.hostnames.join(","))
            })
            .collect();
        found.sort();
        let mut attached: Vec<&str> = attached.split_whitespace().collect();
        attached.sort_unstable();
        assert_eq!(found, attached, "{shown}");
    }
}

#[test]
fn a_route_without_parents_stands_on_the_proxys_own_listener() {
    let bench = Bench::of(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: team}
spec:
  rules: [{backendRefs: [{name: users}]}]
"#,
    );
    let route = bench.route("httproute/team/r");
    assert_eq!(route.attachments[0].listener, "listener/default/waypost/http");
    assert!(route.attachments[0].hostnames.is_empty());
    assert_eq!(bench.ids(), ["httproute/team/r"], "the listener itself needs no entry");
}

#[test]
fn listeners_count_the_routes_that_attach_to_them() {
    let bench = Bench::of(&route(
        "namespace: default",
        "[a.example.com]",
        "{name: front, sectionName: web}, {name: front, port: 8080}, {name: front, port: 8081}",
    ));
    let listeners = bench.status("Gateway", "front")["listeners"].clone();
    let counts: Vec<u64> = listeners
        .as_array()
        .expect("listeners")
        .iter()
        .filter_map(|one| one["attachedRoutes"].as_u64())
        .collect();
    assert_eq!(counts, [1, 1, 0, 0], "a route that names a listener twice is one route");
    assert_eq!(listeners[2]["supportedKinds"][0]["kind"], "GRPCRoute");
    assert_eq!(listeners[0]["supportedKinds"].as_array().map(Vec::len), Some(2));
}

fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  \
         gatewayClassName: waypost\n  listeners: [{listeners}]\n"
    )
}

#[test]
fn of_listeners_that_cannot_share_a_port_those_of_the_older_gateway_stay() {
    let web = "{name: web, port: 8080, protocol: HTTP}";
    let other = "{name: web, port: 8080, protocol: HTTP}, {name: more, port: 9090, protocol: HTTP}";
    let mut bench = Bench::of(&(gateway("old", web) + &gateway("young", other)));
    assert_eq!(bench.listener("old", 0, "Conflicted"), "False NoConflicts");
    assert_eq!(bench.listener("young", 0, "Conflicted"), "True HostnameConflict");
    assert_eq!(bench.listener("young", 0, "Accepted"), "False HostnameConflict");
    assert_eq!(bench.listener("young", 0, "Programmed"), "False Invalid");
    assert_eq!(
        super::said(&bench.status("Gateway", "young")["conditions"], "Accepted"),
        "True ListenersNotValid"
    );
    assert_eq!(bench.ids(), ["listener/default/old/web", "listener/default/young/more"]);
    let route = route("namespace: default", "[]", "{name: young}");
    bench.put(route.split("---").last().expect("the route"));
    let count = |bench: &Bench, at: usize| {
        bench.status("Gateway", "young")["listeners"][at]["attachedRoutes"].as_u64().expect("a number")
    };
    assert_eq!((count(&bench, 0), count(&bench, 1)), (1, 1), "also where the listener is not accepted");
    assert_eq!(bench.route("httproute/default/r").attachments.len(), 1, "and takes no requests for it");
    bench.remove("HTTPRoute", "r");
    bench.remove("Gateway", "old");
    assert_eq!(bench.ids(), ["listener/default/young/more", "listener/default/young/web"]);
    assert_eq!(bench.listener("young", 0, "Conflicted"), "False NoConflicts");
}

#[test]
fn routes_follow_a_listener_that_comes_and_goes() {
    let route = route("namespace: default", "[]", "{name: late}");
    let mut bench = Bench::of(&route);
    assert_eq!(bench.parent("HTTPRoute", "r", "Accepted"), "False NoMatchingParent");
    assert!(!bench.ids().contains(&"httproute/default/r".to_owned()));
    bench.put(&gateway("late", "{name: web, port: 7070, protocol: HTTP}"));
    assert_eq!(bench.parent("HTTPRoute", "r", "Accepted"), "True Accepted");
    assert_eq!(bench.route("httproute/default/r").attachments[0].listener, "listener/default/late/web");
    bench.put(&gateway("late", "{name: web, port: 8080, protocol: HTTP, hostname: '*.example.com'}"));
    assert_eq!(
        bench.parent("HTTPRoute", "r", "Accepted"),
        "False NoReadyListeners",
        "the older Gateway has it"
    );
    assert!(!bench.ids().contains(&"httproute/default/r".to_owned()));
    let step = bench.remove("Gateway", "front");
    assert_eq!(bench.parent("HTTPRoute", "r", "Accepted"), "True Accepted");
    assert!(step.declared.iter().any(|entry| entry.id == "httproute/default/r"));
}
