//! A balancer of one's own: it fills one endpoint before it uses the next, so that the last ones stay idle and can be
//! taken away.
//!
//! ```text
//! cargo run -p waypost-proxy --example custom_balancer
//! ```
//!
//! [`Compiler::new`](waypost_proxy::table::Compiler::new) takes what makes it, as it takes the proxy's own policies.

use std::{
    io::{self, Write},
    sync::Arc,
};

use fastrand::Rng;
use waypost_proto::{
    error::Error,
    instance::{Endpoint, Protocol},
    load::Share,
    name::{InstanceKey, ServiceKey},
    route::{Route, RouteMatch},
    snapshot::{Change, Snapshot},
    v1::InstanceState,
};
use waypost_proxy::{
    balance::{Balancer, Candidates, Policy},
    table::Table,
};

/// Chooses the first endpoint that has fewer than so many requests in flight.
#[derive(Debug)]
pub(crate) struct PackFirst {
    /// How many an endpoint takes before the next is used.
    pub(crate) most: u64,
}

impl Balancer for PackFirst {
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let has_room = |at: &usize| among.is_usable(*at) && among.in_flight(*at) < self.most;
        (0..among.len()).find(has_room).unwrap_or_else(|| among.draw(seed))
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self { most: self.most })
    }

    fn name(&self) -> &'static str {
        "pack-first"
    }
}

/// The instances that take so many requests which are all in flight at once.
pub(crate) fn packed(requests: usize) -> Vec<String> {
    let policy: Policy = Arc::new(|| Box::new(PackFirst { most: 2 }));
    let table = table(&policy).expect("a table that is sound");
    let service = table.services().next().expect("there is one service");
    let mut seed = Rng::with_seed(1);
    let picked: Vec<_> = (0..requests).filter_map(|_| service.endpoints().pick(&[], &mut seed)).collect();
    picked.iter().map(|in_flight| in_flight.endpoint().key().id().to_owned()).collect()
}

fn table(policy: &Policy) -> Result<Arc<Table>, Error> {
    let service = ServiceKey::new("", "users")?;
    let matches = RouteMatch::Prefix { path: "/users".parse()?, strip: true };
    let mut change = Change { services: vec![service.clone()], ..Change::default() };
    change.routes.push(Route::new(service.clone(), matches, Vec::new()));
    for id in ["a", "b", "c"] {
        change.instances.push(Endpoint {
            share: Share::FULL,
            key: InstanceKey::new(service.clone(), id)?,
            address: "127.0.0.1:9001".parse()?,
            version: "".into(),
            zone: "".into(),
            weight: 1,
            protocol: Protocol::Http1,
            state: InstanceState::Up,
            tags: Vec::new(),
            epoch: 1,
        });
    }
    let (snapshot, _) = Snapshot::empty("fixed").change(change, 1, true).expect("nothing dangles");
    Ok(Table::of(&snapshot, policy))
}

#[cfg_attr(test, expect(dead_code, reason = "a test calls what it calls"))]
fn main() -> io::Result<()> {
    for (number, instance) in (1..).zip(packed(5)) {
        writeln!(io::stdout(), "request {number} goes to instance {instance}")?;
    }
    Ok(())
}
