//! Where everything lies in etcd: one prefix, with a folder for each purpose.
//!
//! ```text
//! /PREFIX/data/head                               the newest commit, in full; every commit rewrites it
//! /PREFIX/data/history                            names the life of this data
//! /PREFIX/data/complete                           is there once what is held is all that is registered
//! /PREFIX/data/instances/NAMESPACE/SERVICE/ID     one instance
//! /PREFIX/data/empty/NAMESPACE/SERVICE            a service that has lost its last instance
//! /PREFIX/leases/granted/NAMESPACE/SERVICE/ID     whose lease, how long; until the instance is removed
//! /PREFIX/leases/alive/NAMESPACE/SERVICE/ID       attached to an etcd lease: gone when that lapses
//! /PREFIX/events/COMMIT                           what happened; its being there proves that the commit was made
//! /PREFIX/examine/ID                              for a moment, by an examination
//! ```
//!
//! No part of a name contains a slash, so that a folder holds just what is named so.
//!
//! Deliberately absent: values, other than the two small ones of leases.

use std::time::Duration;

use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
};

/// The keys below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    root: String,
}

impl Keys {
    /// The keys below `/prefix/`.
    pub(super) fn new(prefix: &str) -> Self {
        Self { root: format!("/{prefix}") }
    }

    /// All of it.
    pub(super) fn everything(&self) -> String {
        format!("{}/", self.root)
    }

    /// All that a registry loads, leases and events aside.
    pub(super) fn data(&self) -> String {
        format!("{}/data/", self.root)
    }

    pub(super) fn head(&self) -> String {
        format!("{}/data/head", self.root)
    }

    pub(super) fn history(&self) -> String {
        format!("{}/data/history", self.root)
    }

    pub(super) fn complete(&self) -> String {
        format!("{}/data/complete", self.root)
    }

    /// The folder of all instances.
    pub(super) fn instances(&self) -> String {
        format!("{}/data/instances/", self.root)
    }

    pub(super) fn instance(&self, key: &InstanceKey) -> String {
        format!("{}{}", self.instances_of(key.service()), key.id())
    }

    /// The folder of a service's instances.
    pub(super) fn instances_of(&self, service: &ServiceKey) -> String {
        format!("{}{}/{}/", self.instances(), service.namespace(), service.name())
    }

    /// The folder of all services without instances.
    pub(super) fn empty_services(&self) -> String {
        format!("{}/data/empty/", self.root)
    }

    pub(super) fn empty_service(&self, service: &ServiceKey) -> String {
        format!("{}{}/{}", self.empty_services(), service.namespace(), service.name())
    }

    /// The folder of all declared resources.
    pub(super) fn resources(&self) -> String {
        format!("{}/data/resources/", self.root)
    }

    pub(super) fn resource(&self, key: &ResourceKey) -> String {
        format!("{}{}/{}/{}", self.resources(), key.kind(), key.namespace(), key.name())
    }

    /// The folder of all that concerns leases.
    pub(super) fn leases(&self) -> String {
        format!("{}/leases/", self.root)
    }

    /// The folder of a service's leases, lapsed or not.
    pub(super) fn granted_of(&self, service: &ServiceKey) -> String {
        format!("{}/leases/granted/{}/{}/", self.root, service.namespace(), service.name())
    }

    /// The folder of a service's leases that have not lapsed.
    pub(super) fn alive_of(&self, service: &ServiceKey) -> String {
        format!("{}/leases/alive/{}/{}/", self.root, service.namespace(), service.name())
    }

    pub(super) fn granted(&self, key: &InstanceKey) -> String {
        format!("{}{}", self.granted_of(key.service()), key.id())
    }

    pub(super) fn alive(&self, key: &InstanceKey) -> String {
        format!("{}{}", self.alive_of(key.service()), key.id())
    }

    /// The folder of events.
    pub(super) fn events(&self) -> String {
        format!("{}/events/", self.root)
    }

    pub(super) fn event(&self, commit: &str) -> String {
        format!("{}/events/{commit}", self.root)
    }

    pub(super) fn examination(&self, id: &str) -> String {
        format!("{}/examine/{id}", self.root)
    }

    /// What a key of the leases' folder says, and of whom; `None` for a key that is not ours.
    pub(super) fn read_lease(&self, key: &[u8]) -> Option<(LeaseKey, InstanceKey)> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.leases())?;
        let (folder, name) = rest.split_once('/')?;
        let kind = match folder {
            "granted" => LeaseKey::Granted,
            "alive" => LeaseKey::Alive,
            _ => return None,
        };
        Some((kind, name.parse().ok()?))
    }
}

/// Which of an instance's two lease keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseKey {
    /// It says whose the lease is, and how long.
    Granted,
    /// It is there as long as the lease lives.
    Alive,
}

/// The end of the range of all keys that begin with a folder's name.
pub(super) fn end_of(folder: &str) -> String {
    let (before, slash) = folder.split_at(folder.len() - 1);
    debug_assert_eq!(slash, "/", "a folder ends with a slash");
    format!("{before}0") // '0' follows '/' in ASCII
}

/// The key right behind another one.
pub(super) fn behind(key: &str) -> String {
    format!("{key}\0")
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// Its epoch.
    pub(super) epoch: u64,
    /// Its full length.
    pub(super) ttl: Duration,
}

impl Granted {
    /// `EPOCH MICROSECONDS`.
    pub(super) fn encode(self) -> String {
        format!("{} {}", self.epoch, self.ttl.as_micros())
    }

    /// Reads what [`Granted::encode`] writes.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (epoch, micros) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Self { epoch: epoch.parse().ok()?, ttl: Duration::from_micros(micros.parse().ok()?) })
    }
}

/// Under which etcd lease an instance is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alive {
    /// The etcd lease.
    pub(super) lease: i64,
    /// Whether it is a hold's, which a beat replaces by one of the usual length.
    pub(super) held: bool,
}

/// The value of a key that a beat keeps.
pub(super) const BEATING: &str = "beating";
/// The value of a key that a hold keeps.
pub(super) const HELD: &str = "held";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_just_what_is_named_so() {
        let keys = Keys::new("a/b");
        let [users, users2, users_2]: [InstanceKey; 3] =
            ["users/a", "users2/a", "users-2/a"].map(|key| key.parse().expect("a good key"));
        let folder = keys.instances_of(users.service());
        let within = |key: &InstanceKey| (&*folder..&*end_of(&folder)).contains(&&*keys.instance(key));
        assert!(within(&users) && !within(&users2) && !within(&users_2));
        assert_eq!(keys.instance(&users), "/a/b/data/instances/default/users/a");
    }

    #[test]
    fn what_is_written_reads_back() {
        let keys = Keys::new("waypost");
        let key: InstanceKey = "shop/users/[::1]:80".parse().expect("a good key");
        let read = |key: String| keys.read_lease(key.as_bytes());
        assert_eq!(read(keys.granted(&key)), Some((LeaseKey::Granted, key.clone())));
        assert_eq!(read(keys.alive(&key)), Some((LeaseKey::Alive, key.clone())));
        for other in [keys.instance(&key), "/waypost/leases/alive/x".to_owned(), "/w".to_owned()] {
            assert_eq!(read(other.clone()), None, "{other}");
        }
        let granted = Granted { epoch: 7, ttl: Duration::from_millis(2500) };
        assert_eq!(Granted::decode(granted.encode().as_bytes()), Some(granted));
        assert_eq!(Granted::decode(b"7"), None);
    }
}
