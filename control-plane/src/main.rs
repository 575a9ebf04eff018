//! The control plane's process, on the stores that are built in.

use std::process::ExitCode;

use waypost_control_plane::program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    program::main(program::open_store).await
}
