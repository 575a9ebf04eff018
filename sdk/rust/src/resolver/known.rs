//! What a resolver knows of a service, and what it keeps although a restarted control plane does not name
//! it (yet).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waypost_proto::{instance::Endpoint, name::InstanceKey};

#[derive(Debug, Default)]
pub(super) struct Known {
    endpoints: BTreeMap<InstanceKey, Arc<Endpoint>>,
    /// Those of before that the newest full list did not name.
    carried: BTreeSet<InstanceKey>,
}

impl Known {
    /// A full list. What it does not name is carried until [`Known::settle`].
    pub(super) fn replace(&mut self, listed: Vec<(InstanceKey, Arc<Endpoint>)>) {
        self.carried = self.endpoints.keys().cloned().collect();
        self.change(listed, &[]);
    }

    /// A change.
    pub(super) fn change(&mut self, changed: Vec<(InstanceKey, Arc<Endpoint>)>, removed: &[InstanceKey]) {
        for (key, endpoint) in changed {
            self.carried.remove(&key);
            self.endpoints.insert(key, endpoint);
        }
        for key in removed {
            self.carried.remove(key);
            self.endpoints.remove(key);
        }
    }

    /// The control plane has settled: what it does not name is gone.
    pub(super) fn settle(&mut self) {
        for key in std::mem::take(&mut self.carried) {
            self.endpoints.remove(&key);
        }
    }

    /// Whether anything is kept that the newest full list did not name.
    pub(super) fn is_carrying(&self) -> bool {
        !self.carried.is_empty()
    }

    /// All of them, by name.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_proto::{instance::InstanceSpec, v1, v1::InstanceState};

    fn endpoint(port: u16) -> (InstanceKey, Arc<Endpoint>) {
        let address = format!("127.0.0.1:{port}");
        let wire = v1::InstanceSpec { service: "users".into(), address, ..Default::default() };
        let spec = InstanceSpec::from_wire(&wire).expect("a good spec");
        (spec.key.clone(), Arc::new(Endpoint::of(&spec, InstanceState::Up, 1)))
    }

    fn ports(known: &Known) -> Vec<u16> {
        known.endpoints().map(|endpoint| endpoint.address.port()).collect()
    }

    #[test]
    fn an_empty_list_after_a_restart_takes_nothing_away_until_it_is_settled() {
        let mut known = Known::default();
        known.replace(vec![endpoint(1), endpoint(2)]);
        assert!(!known.is_carrying(), "a first list has nothing to carry over");
        known.replace(Vec::new());
        assert_eq!(ports(&known), [1, 2]);
        known.change(vec![endpoint(2)], &[]);
        known.settle();
        assert_eq!(ports(&known), [2], "the one that came back stays");
        assert!(!known.is_carrying());
    }

    #[test]
    fn what_is_removed_is_not_carried() {
        let mut known = Known::default();
        known.replace(vec![endpoint(1), endpoint(2)]);
        known.replace(vec![endpoint(2)]);
        known.change(Vec::new(), &[endpoint(1).0]);
        assert_eq!(ports(&known), [2]);
    }
}
