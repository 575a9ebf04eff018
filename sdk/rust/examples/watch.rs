//! Prints every change to the instances of a service, or of all, for as long as it runs.
//!
//!     cargo run -p waypost-sdk --example watch -- hello

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use futures_util::StreamExt;
use waypost_sdk::{Client, WatchEvent, contract::v1};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let service = std::env::args().nth(1).unwrap_or_default();
    let client = Client::builder().build()?;
    let mut events = client.watch(v1::WatchRequest { service, ..Default::default() });
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Initial { instances, revision } => {
                println!("{} instances at revision {revision}", instances.len());
            }
            WatchEvent::Changed { changed, removed, revision } => {
                println!("{} changed, {} gone at revision {revision}", changed.len(), removed.len());
            }
            WatchEvent::Interrupted(error) => println!("interrupted: {error}"),
        }
    }
    Ok(())
}
