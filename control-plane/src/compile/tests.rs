//! What compiling promises: step by step comes to the same as from scratch, and each step's change carries a
//! snapshot to the next one.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use proptest::{collection::vec, prelude::*, sample::subsequence};
use waypost_proto::{instance::InstanceSpec, name::InstanceKey, snapshot::Snapshot};

use super::*;
use crate::store::{Claim, Renewed};

const PREFIXES: [&str; 3] = ["/", "/a", "/b"];
const ENDPOINTS: [&str; 3] = ["GET /x", "* /x/{id}", "POST /y"];

#[derive(Clone, Debug)]
struct Put {
    service: u8,
    id: u8,
    version: u8,
    prefix: Option<usize>,
    strip: bool,
    endpoints: Vec<&'static str>,
    claimed_at: u8,
    draining: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Put(Put),
    Remove { service: u8, id: u8 },
    Forget { service: u8 },
}

fn put() -> impl Strategy<Value = Put> {
    let what = (0..3_u8, prop::option::of(0..3_usize), any::<bool>(), subsequence(ENDPOINTS.to_vec(), 0..=3));
    (0..3_u8, 1..4_u8, what, 0..3_u8, any::<bool>()).prop_map(|(service, id, what, claimed_at, draining)| {
        let (version, prefix, strip, endpoints) = what;
        Put { service, id, version, prefix, strip, endpoints, claimed_at, draining }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => put().prop_map(Step::Put),
        3 => (0..3_u8, 1..4_u8).prop_map(|(service, id)| Step::Remove { service, id }),
        1 => (0..3_u8).prop_map(|service| Step::Forget { service }),
    ]
}

fn record(put: &Put) -> Record {
    let wire = v1::InstanceSpec {
        service: format!("s{}", put.service),
        id: format!("i{}", put.id),
        address: "127.0.0.1:80".into(),
        version: if put.version == 0 { String::new() } else { put.version.to_string() },
        prefix: Some(put.prefix.map(|at| PREFIXES[at].to_owned()).unwrap_or_default()),
        strip_prefix: Some(put.strip),
        endpoints: put.endpoints.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let spec = InstanceSpec::from_wire(&wire).expect("a good spec");
    let claimed_at = UNIX_EPOCH + Duration::from_secs(put.claimed_at.into());
    Record {
        claims: Claim::all(&spec, |_| claimed_at).into(),
        spec: Arc::new(spec),
        epoch: 1,
        ttl: Duration::from_secs(10),
        client: "test".into(),
        registered_at: claimed_at,
        renewed: Renewed::at(claimed_at),
        service_since: claimed_at,
        health: None,
        draining: put.draining.then(|| "test".into()),
        overridden: None,
        suspect: None,
        busy: None,
        failing: None,
        found_in: None,
        revision: 0,
    }
}

/// The records and empty services, and the rules said as simply as they can be.
#[derive(Default)]
struct Model {
    records: BTreeMap<InstanceKey, Record>,
    empty: BTreeMap<ServiceKey, Arc<EmptyService>>,
}

impl Model {
    fn of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a Record> {
        self.records.values().filter(move |record| record.key().service() == service)
    }

    fn services(&self) -> BTreeSet<ServiceKey> {
        let populated = self.records.keys().map(|key| key.service().clone());
        populated.chain(self.empty.keys().cloned()).collect()
    }

    /// All claims on a route: the winner first.
    fn ranked(&self, route: &str) -> Vec<(bool, SystemTime, ServiceKey)> {
        let by_record = self.records.values().map(|record| (false, record.key().service(), &record.claims));
        let by_empty = self.empty.values().map(|empty| (true, &empty.key, &empty.claims));
        let mut first: BTreeMap<ServiceKey, (bool, SystemTime)> = BTreeMap::new();
        for (empty, service, claims) in by_record.chain(by_empty) {
            for claim in claims.iter().filter(|claim| *claim.route == *route) {
                let held = first.entry(service.clone()).or_insert((empty, claim.claimed_at));
                *held = (*held).min((empty, claim.claimed_at));
            }
        }
        let mut ranked: Vec<_> =
            first.into_iter().map(|(service, (empty, at))| (empty, at, service)).collect();
        ranked.sort();
        ranked
    }

    fn route(&self, service: &ServiceKey, id: &str) -> Route {
        let kept = self.empty.get(service).map(|empty| empty.claims.clone());
        let claims: Vec<(Arc<str>, Claim)> = match kept {
            Some(claims) => claims.iter().map(|claim| ("".into(), claim.clone())).collect(),
            None => self
                .of(service)
                .flat_map(|record| {
                    record.claims.iter().map(|claim| (record.spec.version.clone(), claim.clone()))
                })
                .collect(),
        };
        let claims: Vec<_> = claims.into_iter().filter(|(_, claim)| *claim.route == *id).collect();
        let matches = claims
            .iter()
            .map(|(_, claim)| claim.matches.clone())
            .min_by_key(|matches| matches!(matches, RouteMatch::Prefix { strip: true, .. }))
            .expect("the winner claims it");
        let claiming: BTreeSet<Arc<str>> = claims.into_iter().map(|(version, _)| version).collect();
        let all: BTreeSet<Arc<str>> = self.of(service).map(|record| record.spec.version.clone()).collect();
        let versions =
            if claiming == all || all.is_empty() { Vec::new() } else { claiming.into_iter().collect() };
        Route::new(service.clone(), matches, versions)
    }

    fn elections(&self) -> BTreeMap<Arc<str>, Election> {
        let claims = self.records.values().flat_map(|record| record.claims.iter());
        let kept = self.empty.values().flat_map(|empty| empty.claims.iter());
        let ids: BTreeSet<Arc<str>> = claims.chain(kept).map(|claim| claim.route.clone()).collect();
        let elect = |id: Arc<str>| {
            let mut ranked = self.ranked(&id).into_iter();
            let (_, claimed_at, service) = ranked.next().expect("somebody claims it");
            let shadowed = ranked.map(|(_, claimed_at, service)| Shadowed { service, claimed_at }).collect();
            (id.clone(), Election { route: Arc::new(self.route(&service, &id)), claimed_at, shadowed })
        };
        ids.into_iter().map(elect).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let change = Change {
            services: self.services().into_iter().collect(),
            instances: self.records.values().map(Record::endpoint).collect(),
            routes: self.elections().into_values().map(|election| Route::clone(&election.route)).collect(),
            ..Change::default()
        };
        Snapshot::empty("test").change(change, 1, true).expect("nothing dangles").0
    }

    fn step(&mut self, compiler: &mut Compiler, step: &Step) -> Option<Compiled> {
        match step {
            Step::Put(put) => {
                let after = record(put);
                let before = self.records.insert(after.key().clone(), after.clone());
                self.empty.remove(after.key().service());
                Some(compiler.put(before.as_ref(), &after))
            }
            Step::Remove { service, id } => {
                let key = format!("s{service}/i{id}").parse().expect("a good key");
                let before = self.records.remove(&key)?;
                let emptied = self.of(key.service()).next().is_none().then(|| {
                    Arc::new(EmptyService {
                        key: key.service().clone(),
                        since: UNIX_EPOCH,
                        emptied_at: UNIX_EPOCH,
                        claims: before.claims.clone(),
                        revision: 0,
                    })
                });
                self.empty.extend(emptied.iter().map(|empty| (empty.key.clone(), empty.clone())));
                Some(compiler.remove(&before, emptied))
            }
            Step::Forget { service } => {
                let service: ServiceKey = format!("s{service}").parse().expect("a good key");
                self.empty.remove(&service)?;
                Some(compiler.forget(&service))
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn step_by_step_is_the_same_as_from_scratch(steps in vec(step(), 1..40)) {
        let mut model = Model::default();
        let mut compiler = Compiler::default();
        let mut snapshot = Snapshot::empty("test");
        for step in steps {
            let Some(compiled) = model.step(&mut compiler, &step) else { continue };
            let touches_routes = !compiled.change.routes.is_empty() || !compiled.change.removed_routes.is_empty();
            prop_assert!(!touches_routes || !compiled.elections.is_empty(), "a route changes by an election only");
            (snapshot, _) = snapshot.change(compiled.change, 1, true).expect("nothing dangles");
            prop_assert_eq!(snapshot.digest(), model.snapshot().digest());
            let elected: BTreeMap<_, _> =
                compiler.elections().map(|(id, election)| (id.clone(), Election::clone(election))).collect();
            prop_assert_eq!(elected, model.elections());
        }
    }

    #[test]
    fn a_step_touches_nothing_but_its_service_and_its_rivals(steps in vec(step(), 1..30), last in put()) {
        let mut model = Model::default();
        let mut compiler = Compiler::default();
        for step in &steps {
            model.step(&mut compiler, step);
        }
        let compiled = model.step(&mut compiler, &Step::Put(last.clone())).expect("a put always changes something");
        let service = record(&last).key().service().clone();
        prop_assert!(compiled.change.instances.len() <= 1);
        for election in &compiled.elections {
            let rivals = |election: &Arc<Election>| {
                election.route.service == service || election.shadowed.iter().any(|lost| lost.service == service)
            };
            prop_assert!(election.before.iter().chain(&election.after).any(rivals));
        }
    }
}

fn service_put(service: u8, prefix: usize, claimed_at: u8) -> Put {
    Put {
        service,
        id: 1,
        version: 0,
        prefix: Some(prefix),
        strip: true,
        endpoints: Vec::new(),
        claimed_at,
        draining: false,
    }
}

#[test]
fn the_older_claim_wins_until_its_service_is_empty() {
    let mut model = Model::default();
    let mut compiler = Compiler::default();
    let holder = |compiler: &Compiler| compiler.elected["* /a/**"].route.service.to_string();
    model.step(&mut compiler, &Step::Put(service_put(1, 1, 2)));
    model.step(&mut compiler, &Step::Put(service_put(2, 1, 1)));
    assert_eq!(holder(&compiler), "s2", "the older claim wins, whoever came first");
    let election = compiler.elected["* /a/**"].clone();
    assert_eq!(election.shadowed[0].service.to_string(), "s1");
    assert_eq!(election.conflict(&election.shadowed[0].service).route, "/a");
    model.step(&mut compiler, &Step::Remove { service: 2, id: 1 });
    assert_eq!(holder(&compiler), "s1", "a service without instances gives way");
    model.step(&mut compiler, &Step::Remove { service: 1, id: 1 });
    assert_eq!(holder(&compiler), "s2", "both are empty, so the older claim wins again");
}

#[test]
fn a_route_names_versions_only_where_some_do_not_claim_it() {
    let mut model = Model::default();
    let mut compiler = Compiler::default();
    let versions = |compiler: &Compiler| compiler.elected["GET /x"].route.versions.clone();
    let old = Put { version: 1, ..service_put(1, 1, 1) };
    let new = Put { id: 2, version: 2, endpoints: vec!["GET /x"], ..old.clone() };
    model.step(&mut compiler, &Step::Put(old));
    model.step(&mut compiler, &Step::Put(new));
    assert_eq!(versions(&compiler), [Arc::from("2")]);
    model.step(&mut compiler, &Step::Remove { service: 1, id: 1 });
    assert!(versions(&compiler).is_empty(), "all versions that are left claim it");
}
