//! Where the programs under test are.
//!
//! Cargo builds a package's own programs for its tests, and no other package's. So the programs are built
//! before (`make test` does), and found next to the test that runs.

use std::{env, path::PathBuf};

/// A program of Waypost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `waypost-control-plane`.
    ControlPlane,
    /// `waypost-proxy`.
    Proxy,
    /// `waypost-agent`.
    Agent,
    /// `waypost`, the command line.
    Cli,
    /// `sample-service`, a service of this crate that runs as a process, so that it can be killed.
    SampleService,
    /// The SDK's example of an axum service.
    ServeExample,
}

impl Program {
    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "waypost-control-plane",
            Self::Proxy => "waypost-proxy",
            Self::Agent => "waypost-agent",
            Self::Cli => "waypost",
            Self::SampleService => "sample-service",
            Self::ServeExample => "examples/serve",
        }
    }

    /// The file.
    ///
    /// # Panics
    /// It has not been built.
    pub fn path(self) -> PathBuf {
        let path = target_directory().join(self.name());
        assert!(
            path.is_file(),
            "{} is missing; run: cargo build --workspace --bins --examples",
            path.display()
        );
        path
    }
}

/// Where cargo puts programs of the profile of the running test.
pub fn target_directory() -> PathBuf {
    let test = env::current_exe().expect("a process knows its own file");
    // Tests and benchmarks run from `target/<profile>/deps`.
    let mut directory = test.parent().expect("a file has a directory").to_path_buf();
    if directory.ends_with("deps") {
        directory.pop();
    }
    directory
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate lies in the repository").to_path_buf()
}
