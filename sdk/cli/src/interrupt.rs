//! The second signal, by which a user who has waited long enough ends a command at once.
//!
//! `timeout` and other wrappers signal the process and then its group, so that one wish arrives twice. Only
//! what comes a moment later is a second wish.

use std::{io, time::Duration};

use waypost_sdk::launch;

const SAME_WISH: Duration = Duration::from_millis(500);

/// Waits for a signal after the first one, and returns its name.
///
/// # Errors
/// The signals cannot be listened for.
pub(crate) async fn again() -> io::Result<&'static str> {
    tokio::time::sleep(SAME_WISH).await;
    launch::shutdown().await
}
