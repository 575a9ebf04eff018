//! `waypost store`: becomes `waypost-control-plane store`, which has the stores.
//!
//! Deliberately absent: what can be done with a store; `waypost store --help` is that program's.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use crate::{
    failure::{Exit, Failure},
    locate,
};

/// Becomes the program. Returns only where that fails.
pub(super) fn exec(arguments: &[OsString]) -> Failure {
    let program = match locate::program("waypost-control-plane") {
        Ok(program) => program,
        Err(failure) => return failure,
    };
    let error = Command::new(&program).arg("store").args(arguments).exec();
    Failure::new(Exit::Failed, format!("{} cannot be started: {error}", program.display()))
}
