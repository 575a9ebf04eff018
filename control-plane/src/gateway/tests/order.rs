//! Step by step comes to the same as from scratch, and compiles no more than it must.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use waypost_proto::resource::ResourceKey;

use super::{Arc, Bench, Compiler, Declared, declared};

/// Documents that touch each other in every way, two variants of each.
fn documents() -> Vec<[&'static str; 2]> {
    vec![
        [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {gatewayClassName: waypost, listeners: [{name: web, port: 80, protocol: HTTP}]}",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {gatewayClassName: waypost, listeners: [{name: web, port: 81, protocol: HTTP}, {name: two, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}",
        ],
        [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: b}\nspec: {gatewayClassName: waypost, listeners: [{name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]}",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: b}\nspec: {gatewayClassName: waypost, listeners: [{name: web, port: 81, protocol: HTTP, hostname: a.test}]}",
        ],
        [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: a}, {name: b}], rules: [{backendRefs: [{name: users, namespace: other}]}]}",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {rules: [{backendRefs: [{name: users}]}]}",
        ],
        [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g}\nspec: {hostnames: [a.test], parentRefs: [{name: b}], rules: [{backendRefs: [{name: users}]}]}",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g}\nspec: {hostnames: [b.test], parentRefs: [{name: b}], rules: [{backendRefs: [{name: users}]}]}",
        ],
        [
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: all, namespace: other}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], to: [{group: '', kind: Service}]}",
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: all, namespace: other}\nspec: {from: [{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: default}], to: [{group: '', kind: Service}]}",
        ],
        [
            "apiVersion: waypost.dev/v1\nkind: ExternalService\nmetadata: {name: users}\nspec: {addresses: ['10.0.0.1:80']}",
            "apiVersion: waypost.dev/v1\nkind: ExternalService\nmetadata: {name: users}\nspec: {addresses: ['10.0.0.2:80', '10.0.0.1:80']}",
        ],
        [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: '', kind: Service, name: users}], validation: {hostname: a.test, wellKnownCACertificates: System}}",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: '', kind: Service, name: orders}], validation: {hostname: a.test, wellKnownCACertificates: System}}",
        ],
        [
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: q}\nspec: {targetRefs: [{group: '', kind: Service, name: users}], validation: {hostname: b.test, wellKnownCACertificates: System}}",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: q}\nspec: {targetRefs: [{group: '', kind: Service, name: users}], validation: {hostname: b.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}",
        ],
        [
            "apiVersion: waypost.dev/v1\nkind: BackendTrafficPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: '', kind: Service, name: users}], panicThreshold: 20}",
            "apiVersion: waypost.dev/v1\nkind: BackendTrafficPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: '', kind: Service, name: users}, {group: '', kind: Service, name: orders}], panicThreshold: 20}",
        ],
        [
            "apiVersion: waypost.dev/v1\nkind: BackendTrafficPolicy\nmetadata: {name: q}\nspec: {targetRefs: [{group: '', kind: Service, name: users}], panicThreshold: 30}",
            "apiVersion: waypost.dev/v1\nkind: BackendTrafficPolicy\nmetadata: {name: q}\nspec: {targetRefs: [{group: '', kind: Service, name: orders}], panicThreshold: 20}",
        ],
    ]
}

fn step() -> impl Strategy<Value = (usize, Option<usize>)> {
    (0..documents().len(), prop::option::weighted(0.75, select(vec![0_usize, 1])))
}

/// All that is shown, but for the revisions at which it came about.
fn all(compiler: &Compiler) -> String {
    let shown = compiler.shown();
    let bodies: BTreeMap<_, _> =
        shown.outcomes.iter().map(|(key, one)| (key, (&one.body, one.observed))).collect();
    format!("{:#?}\n{bodies:#?}\n{:#?}", shown.entries, shown.externals)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn step_by_step_is_the_same_as_from_scratch(steps in vec(vec(step(), 1..3), 1..20)) {
        let parsed: Vec<[Arc<Declared>; 2]> =
            documents().iter().map(|variants| variants.map(|one| declared(one).remove(0))).collect();
        let mut compiler = Compiler::default();
        let mut held: BTreeMap<ResourceKey, Arc<Declared>> = BTreeMap::new();
        let mut shown: BTreeMap<Arc<str>, waypost_proto::v1::DeclaredEntry> = BTreeMap::new();
        for (revision, changes) in (1..).zip(steps) {
            let changes: BTreeMap<ResourceKey, Option<Arc<Declared>>> = changes
                .into_iter()
                .map(|(which, variant)| {
                    let declared = variant.map(|variant| parsed[which][variant].clone());
                    (parsed[which][0].key().clone(), declared)
                })
                .collect();
            for (key, after) in &changes {
                match after {
                    Some(after) => held.insert(key.clone(), after.clone()),
                    None => held.remove(key),
                };
            }
            let step = compiler.apply(changes.into_iter().collect(), revision);
            for entry in step.declared {
                shown.insert(Arc::from(entry.id.as_str()), (*entry).clone());
            }
            for id in step.removed {
                prop_assert!(shown.remove(&id).is_some(), "{} was not there", id);
            }
            let mut scratch = Compiler::default();
            // One by one and backwards, so that no order matters.
            for (key, one) in held.iter().rev() {
                scratch.apply(vec![(key.clone(), Some(one.clone()))], 1);
            }
            prop_assert_eq!(all(&compiler), all(&scratch));
            let entries: BTreeMap<Arc<str>, waypost_proto::v1::DeclaredEntry> = compiler
                .shown().entries.iter().map(|(id, entry)| (id.clone(), (**entry).clone())).collect();
            prop_assert_eq!(&shown, &entries, "the steps carry a snapshot along");
        }
    }
}

#[test]
fn a_change_compiles_what_has_looked_at_it_and_nothing_else() {
    let route = |name: usize, parent: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{name}}}\nspec: \
             {{parentRefs: [{{name: {parent}}}], rules: [{{backendRefs: [{{name: users}}]}}]}}\n"
        )
    };
    let many: String = (0..100).map(|name| route(name, if name < 10 { "a" } else { "waypost" })).collect();
    let gateway = documents()[0][0];
    let mut bench = Bench::of(&format!("{gateway}\n{many}"));
    assert_eq!(bench.compiler.shown().compiled(), 101);
    let work = |bench: &mut Bench, yaml: &str| {
        let before = bench.compiler.shown().compiled();
        bench.put(yaml);
        bench.compiler.shown().compiled() - before
    };
    assert_eq!(work(&mut bench, &route(50, "waypost")), 1);
    assert_eq!(work(&mut bench, &gateway.replace("port: 80", "port: 82")), 11, "the Gateway and its own ten");
    assert_eq!(work(&mut bench, documents()[4][0]), 1, "nobody refers to that namespace");
    assert_eq!(work(&mut bench, documents()[5][0]), 1, "a service is named, not looked up");
}
