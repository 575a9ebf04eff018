//! `waypost supervised`: becomes a program that ends with the process that started it.
//!
//! A supervisor that is killed cannot end its children. On Linux the kernel can: this asks it to send SIGTERM
//! when the parent goes, and then turns into the program. Elsewhere, and where that fails, `waypost dev down`
//! ends what was left behind.

use std::{os::unix::process::CommandExt as _, process::Command};

use crate::{
    args::SupervisedArgs,
    failure::{Exit, Failure},
};

/// Becomes the program. Returns only where that fails.
pub(crate) fn exec(args: &SupervisedArgs) -> Failure {
    let Some((program, rest)) = args.command.split_first() else {
        return Failure::new(Exit::Usage, "a program to start is missing");
    };
    end_with_parent();
    // The parent may have ended before the kernel was asked.
    if nix::unistd::getppid().as_raw().unsigned_abs() != args.parent {
        return Failure::new(
            Exit::Failed,
            format!("the process {} that started this has ended", args.parent),
        );
    }
    let error = Command::new(program).args(rest).exec();
    Failure::new(Exit::Failed, format!("{} cannot be started: {error}", program.display()))
}

#[cfg(target_os = "linux")]
fn end_with_parent() {
    // Where the kernel refuses, the program runs all the same.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM);
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent() {}
