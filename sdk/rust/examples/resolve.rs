//! Keeps a live set of a service's instances and picks one of them.
//!
//!     cargo run -p waypost-sdk --example resolve -- hello

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use waypost_sdk::{Balance, Client};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let service = std::env::args().nth(1).unwrap_or_else(|| "hello".to_owned());
    let service = service.parse().map_err(waypost_sdk::Error::from)?;
    let client = Client::builder().build()?;
    let resolver = client.resolver(&service).balance(Balance::LeastInFlight).start();
    resolver.ready().await;
    for _ in 0..5 {
        if let Some(instance) = resolver.pick() {
            println!("{} at {}", instance.key, instance.address);
        }
    }
    Ok(())
}
