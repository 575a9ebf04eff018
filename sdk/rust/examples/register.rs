//! Registers this process as an instance of `hello`, and drains it on SIGTERM or Ctrl-C.
//!
//!     cargo run -p waypost-sdk --example register -- 127.0.0.1:9001

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, time::Duration};

use waypost_sdk::{Client, Registration, launch};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let client = Client::builder().build()?;
    let registration = Registration::new("hello", address).version("1.0.0").description("Says hello");
    let registered = client.register(registration).await?;
    println!("registered {} under epoch {}", registered.key(), registered.epoch());

    launch::shutdown().await?;
    println!("drain: {}", registered.drain(Duration::from_secs(30)).await);
    Ok(())
}
