//! Where things are in Consul: the keys below the prefix, the messages that they hold, and the names in the catalog.
//!
//! ```text
//! <prefix>/head                        the revision, and the newest commits
//! <prefix>/log/<slot>                  older commits; slots are written round and round
//! <prefix>/instances/<ns>/<service>/<id>
//! <prefix>/empty/<ns>/<service>        a service without instances
//! <prefix>/resources/<kind>/<ns>/<name>
//! ```
//!
//! Deliberately absent: what any of it means.

use std::fmt::Write;

use waypost_proto::{
    name::{DEFAULT_NAMESPACE, InstanceKey, ServiceKey},
    resource::ResourceKey,
    v1,
};

/// What every id begins with that a Waypost registers with an agent.
pub(super) const OURS: &str = "waypost:";

/// The one record that every commit replaces.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Head {
    /// Names the life of the revisions.
    #[prost(string, tag = "1")]
    pub(super) history: String,
    /// The newest revision.
    #[prost(uint64, tag = "2")]
    pub(super) revision: u64,
    /// Whether all that is registered is here.
    #[prost(bool, tag = "3")]
    pub(super) complete: bool,
    /// How many slots the log has.
    #[prost(uint64, tag = "4")]
    pub(super) slots: u64,
    /// How many slots have been written so far, each write counted.
    #[prost(uint64, tag = "5")]
    pub(super) flushed: u64,
    /// The newest commits, oldest first.
    #[prost(message, repeated, tag = "6")]
    pub(super) tail: Vec<LogEntry>,
    /// How many lapsed leases have come back so far.
    #[prost(uint64, tag = "7")]
    pub(super) revivals: u64,
    /// The newest of them, oldest first.
    #[prost(message, repeated, tag = "8")]
    pub(super) revived: Vec<Revival>,
}

/// A slot of the log.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Slot {
    /// Commits, oldest first.
    #[prost(message, repeated, tag = "1")]
    pub(super) entries: Vec<LogEntry>,
}

/// One commit.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LogEntry {
    /// Chosen at random by who committed it, to be recognised.
    #[prost(fixed64, tag = "1")]
    pub(super) id: u64,
    /// What it changed.
    #[prost(message, optional, tag = "2")]
    pub(super) commit: Option<v1::StoredCommit>,
    /// Whether it granted a lease.
    #[prost(bool, tag = "3")]
    pub(super) grant: bool,
    /// For how many milliseconds it holds a lapsed lease.
    #[prost(uint64, optional, tag = "4")]
    pub(super) hold_millis: Option<u64>,
}

/// A beat for a lease that had lapsed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Revival {
    /// Whose lease.
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<v1::InstanceKey>,
    /// Its epoch.
    #[prost(uint64, tag = "2")]
    pub(super) epoch: u64,
}

/// An instance.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    /// What is stored of it.
    #[prost(message, optional, tag = "1")]
    pub(super) instance: Option<v1::StoredInstance>,
    /// Whether it has a lease.
    #[prost(bool, tag = "2")]
    pub(super) leased: bool,
    /// For how many milliseconds its lapsed lease is held.
    #[prost(uint64, optional, tag = "3")]
    pub(super) hold_millis: Option<u64>,
}

/// The names of everything below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
    ids: String,
}

impl Layout {
    /// Below a prefix without slashes at its ends.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ids: format!("{OURS}{}:", escaped(prefix)) }
    }

    /// The folder of everything.
    pub(super) fn folder(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// The head's key.
    pub(super) fn head(&self) -> String {
        format!("{}/head", self.prefix)
    }

    /// The key of the slot that the `flushed`-th write goes to.
    pub(super) fn slot(&self, flushed: u64, slots: u64) -> String {
        format!("{}/log/{:05}", self.prefix, flushed % slots.max(1))
    }

    /// An instance's key.
    pub(super) fn instance(&self, key: &InstanceKey) -> String {
        let service = key.service();
        format!("{}/instances/{}/{}/{}", self.prefix, service.namespace(), service.name(), key.id())
    }

    /// The key of a service without instances.
    pub(super) fn empty(&self, service: &ServiceKey) -> String {
        format!("{}/empty/{}/{}", self.prefix, service.namespace(), service.name())
    }

    /// A declared resource's key.
    pub(super) fn resource(&self, key: &ResourceKey) -> String {
        format!("{}/resources/{}/{}/{}", self.prefix, key.kind(), key.namespace(), key.name())
    }

    /// A key that nothing else uses, to try out what is permitted.
    pub(super) fn trial(&self) -> String {
        format!("{}/trial/{}", self.prefix, uuid::Uuid::new_v4())
    }

    /// The part of a key below the prefix.
    pub(super) fn below<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(self.prefix.as_str())?.strip_prefix('/')
    }

    /// What the ids of all our instances begin with in the catalog.
    pub(super) fn ids(&self) -> &str {
        &self.ids
    }

    /// An instance's id in the catalog.
    pub(super) fn service_id(&self, key: &InstanceKey) -> String {
        let service = key.service();
        format!("{}{}:{}:{}", self.ids, service.namespace(), service.name(), escaped(key.id()))
    }

    /// The id of the check that stands for an instance's lease.
    pub(super) fn check_id(&self, key: &InstanceKey) -> String {
        format!("service:{}", self.service_id(key))
    }
}

/// A service's name in the catalog, which has no namespaces.
pub(super) fn catalog_name(service: &ServiceKey) -> String {
    match service.namespace() {
        DEFAULT_NAMESPACE => service.name().to_owned(),
        namespace => format!("{}--{namespace}", service.name()),
    }
}

/// What a check's notes say of the lease that it stands for.
pub(super) fn notes(epoch: u64) -> String {
    format!("the lease of epoch {epoch}, kept alive by Waypost")
}

/// The epoch that [`notes`] name.
pub(super) fn epoch_in(notes: &str) -> Option<u64> {
    let rest = notes.strip_prefix("the lease of epoch ")?;
    rest.split(',').next()?.parse().ok()
}

/// A text in which only characters are left that no version of Consul takes apart in a path.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut written, byte| {
        if byte.is_ascii_alphanumeric() || b"-._:".contains(&byte) {
            written.push(char::from(byte));
        } else {
            write!(written, "={byte:02x}").expect("a string takes any text");
        }
        written
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_instances_apart() {
        let layout = Layout::new("way/post");
        let key: InstanceKey = "blue/users/[::1]:9%".parse().expect("a good key");
        assert_eq!(layout.service_id(&key), "waypost:way=2fpost:blue:users:=5b::1=5d:9=25");
        assert_eq!(layout.instance(&key), "way/post/instances/blue/users/[::1]:9%");
        assert_eq!(layout.below("way/post/empty/blue/users"), Some("empty/blue/users"));
        assert_eq!(layout.below("way/poster/x"), None);
        assert_eq!(catalog_name(key.service()), "users--blue");
        assert_eq!(epoch_in(&notes(77)), Some(77));
        assert_eq!(epoch_in("somebody else's"), None);
    }
}
