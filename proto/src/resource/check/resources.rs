//! All resources, with the looks-up that checking needs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::SystemTime,
};

use crate::{
    name::DEFAULT_NAMESPACE,
    resource::{
        Kind, Manifest, Spec,
        gateway::{Gateway, IMPLICIT_GATEWAY, Listener},
        key::nearest,
        policy::ReferenceGrant,
    },
};

/// A resource of a set.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// What it says.
    pub manifest: &'a Manifest,
    /// When it was first declared; of one that is new, any time that is later than the others'.
    pub created_at: SystemTime,
}

impl<'a> Member<'a> {
    /// Of two that claim the same thing, the one with the lesser precedence has it: the older, then the first by name.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let key = self.manifest.key();
        (self.created_at, format!("{}/{}", key.namespace(), key.name()), key.kind())
    }

    pub(super) fn namespace(&self) -> &'a str {
        self.manifest.key().namespace()
    }
}

type Name<'a> = (Kind, &'a str, &'a str);

/// All resources at one time.
#[derive(Debug, Default)]
pub struct Resources<'a> {
    all: BTreeMap<Name<'a>, Member<'a>>,
    grants: HashMap<&'a str, Vec<&'a ReferenceGrant>>,
    ports: HashMap<u16, Vec<(Member<'a>, &'a Listener)>>,
    /// Policies by their kind, and the namespace and name of what they are for.
    targets: HashMap<Name<'a>, Vec<Member<'a>>>,
}

impl<'a> FromIterator<Member<'a>> for Resources<'a> {
    /// Of several with one name the last one counts.
    fn from_iter<I: IntoIterator<Item = Member<'a>>>(members: I) -> Self {
        let name = |member: &Member<'a>| {
            let key = member.manifest.key();
            (key.kind(), key.namespace(), key.name())
        };
        let all = members.into_iter().map(|member| (name(&member), member)).collect();
        let mut set = Self { all, ..Self::default() };
        for member in set.all.values() {
            let namespace = member.namespace();
            match member.manifest.spec() {
                Spec::ReferenceGrant(grant) => set.grants.entry(namespace).or_default().push(grant),
                Spec::Gateway(gateway) => {
                    for listener in &gateway.listeners {
                        set.ports.entry(listener.port).or_default().push((*member, listener));
                    }
                }
                _ => {}
            }
            // A name that is there twice, as a Service and an ExternalService, is one service.
            let names: BTreeSet<&str> =
                member.manifest.spec().targets().iter().map(|target| target.name.as_str()).collect();
            for name in names {
                set.targets.entry((member.manifest.key().kind(), namespace, name)).or_default().push(*member);
            }
        }
        set
    }
}

impl<'a> Resources<'a> {
    pub(super) fn iter(&self) -> impl Iterator<Item = Member<'a>> + '_ {
        self.all.values().copied()
    }

    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Member<'a>> {
        self.all.get(&(kind, namespace, name)).copied()
    }

    pub(super) fn gateway(&self, namespace: &str, name: &str) -> Option<&'a Gateway> {
        match self.get(Kind::Gateway, namespace, name)?.manifest.spec() {
            Spec::Gateway(gateway) => Some(gateway),
            _ => None,
        }
    }

    /// The listeners of all Gateways that have a port.
    pub(super) fn at_port(&self, port: u16) -> &[(Member<'a>, &'a Listener)] {
        self.ports.get(&port).map_or(&[], Vec::as_slice)
    }

    /// The policies of a kind that are for a service.
    pub(super) fn policies(&self, kind: Kind, namespace: &'a str, name: &'a str) -> &[Member<'a>] {
        self.targets.get(&(kind, namespace, name)).map_or(&[], Vec::as_slice)
    }

    /// Whether a group, kind and namespace may refer to a group, kind, namespace and name.
    pub(super) fn permits(
        &self,
        from: (&str, &str, &str),
        (group, kind, namespace, name): (&str, &str, &str, &str),
    ) -> bool {
        from.2 == namespace
            || self
                .grants
                .get(namespace)
                .is_some_and(|grants| grants.iter().any(|grant| grant.permits(from, (group, kind, name))))
    }

    /// What may have been meant by a name that is not there: one like it, or the same elsewhere.
    pub(super) fn meant(&self, kind: Kind, namespace: &str, name: &str) -> String {
        let of_kind = || self.all.keys().filter(|(other, ..)| *other == kind);
        let mut here: Vec<&str> =
            of_kind().filter(|(_, where_, _)| *where_ == namespace).map(|(.., name)| *name).collect();
        if kind == Kind::Gateway && namespace == DEFAULT_NAMESPACE {
            here.push(IMPLICIT_GATEWAY);
        }
        if let Some(near) = nearest(name, here) {
            return format!("did you mean {near:?}?");
        }
        let elsewhere = of_kind().find(|(.., other)| *other == name);
        elsewhere.map(|(_, where_, _)| format!("there is one in namespace {where_:?}")).unwrap_or_default()
    }
}
