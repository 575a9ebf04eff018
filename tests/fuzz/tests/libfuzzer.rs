//! The target that `FUZZ_TARGET` names, under libFuzzer, which makes up inputs by what they cover. `run.sh` builds and runs
//! it: with the feature `libfuzzer`, and the workspace's crates compiled to tell what is covered.
//!
//! A test, and not a program, so that it is built with the features that all other tests are, which are there already.

#![no_main]

use std::{env, sync::OnceLock};

use waypost_fuzz::{Target, by_name};

static TARGET: OnceLock<Target> = OnceLock::new();

fn target() -> Target {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    by_name(&name).unwrap_or_else(|| {
        panic!("FUZZ_TARGET={name:?} is none of resources, paths, matching, http2 and hpack")
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(target)(bytes));
