//! The proxy as a library, with a table that is made by hand and never changes: no control plane anywhere.
//!
//! ```text
//! cargo run --release -p waypost-proxy --example fixed_table -- 127.0.0.1:8080 1 1000 127.0.0.1:9001
//! ```
//!
//! listens on the first address with one thread, and routes `/bench` to the last one, among 1,000 services.

use std::{error::Error, net::SocketAddr, sync::Arc};

use tokio::sync::Notify;
use waypost_proto::{
    error::Error as Refused,
    instance::{Endpoint, Protocol},
    load::Share,
    name::{InstanceKey, ServiceKey},
    route::{Route, RouteMatch},
    snapshot::{Change, Snapshot},
    v1::InstanceState,
};
use waypost_proxy::{
    balance::PolicyName,
    metrics::Metrics,
    serve::{self, ServeConfig},
    table::{Compiler, SharedTable, Source},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| format!("{what} is missing"));
    let listen: SocketAddr = next("the address to listen on")?.parse()?;
    let threads: usize = next("the number of threads")?.parse()?;
    let services: usize = next("the number of services")?.parse()?;
    let instance = next("the instance's address")?;

    let mut change = Change::default();
    for number in 1..services {
        add(&mut change, &format!("service-{number}"), &instance)?;
    }
    add(&mut change, "bench", &instance)?;
    let (snapshot, touched) = Snapshot::empty("fixed").change(change, 1, true)?;
    let shared = SharedTable::new();
    let mut compiler = Compiler::new(shared.clone(), PolicyName::default().policy(), Arc::new(Notify::new()));
    compiler.serve(&Source { current: &snapshot, carried: None }, &touched);

    let config = ServeConfig { listen, threads, ..ServeConfig::default() };
    let _running = serve::start(config, shared, Arc::new(Metrics::new()))?;
    loop {
        std::thread::park();
    }
}

fn add(change: &mut Change, name: &str, instance: &str) -> Result<(), Refused> {
    let service = ServiceKey::new("", name)?;
    let matches = RouteMatch::Prefix { path: format!("/{name}").parse()?, strip: true };
    change.services.push(service.clone());
    change.routes.push(Route::new(service.clone(), matches, Vec::new()));
    change.instances.push(Endpoint {
        share: Share::FULL,
        key: InstanceKey::new(service, instance)?,
        address: instance.parse()?,
        version: "".into(),
        zone: "".into(),
        weight: 1,
        protocol: Protocol::Http1,
        state: InstanceState::Up,
        tags: Vec::new(),
        epoch: 1,
    });
    Ok(())
}
