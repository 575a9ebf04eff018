//! Where the programs are: beside this one, or on the PATH.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::failure::{Exit, Failure};

/// Finds a program.
///
/// # Errors
/// It is in neither place; both are named.
pub(crate) fn program(name: &str) -> Result<PathBuf, Failure> {
    let own = env::current_exe().ok();
    find(name, own.as_deref().and_then(Path::parent), env::var_os("PATH").as_deref())
}

/// This program.
///
/// # Errors
/// The system does not say where it is.
pub(crate) fn this_program() -> Result<PathBuf, Failure> {
    env::current_exe().map_err(|error| {
        Failure::new(Exit::Failed, format!("this program cannot find its own file: {error}"))
    })
}

fn find(name: &str, beside: Option<&Path>, path: Option<&std::ffi::OsStr>) -> Result<PathBuf, Failure> {
    let on_path = path.map(|path| env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    let folders = beside.map(Path::to_path_buf).into_iter().chain(on_path);
    folders.map(|folder| folder.join(name)).find(|file| is_executable(file)).ok_or_else(|| {
        let beside = beside
            .map_or_else(|| "the folder of this program".to_owned(), |folder| folder.display().to_string());
        Failure::new(
            Exit::Failed,
            format!("{name} is neither in {beside}, beside this program, nor on the PATH"),
        )
        .way_out("build it with: cargo build --workspace --bins")
    })
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_both_places() {
        let failure = find("waypost-no-such", Some(Path::new("/opt/waypost")), Some("/usr/bin".as_ref()));
        let message = failure.expect_err("no such program").message;
        assert!(message.contains("/opt/waypost") && message.contains("PATH"), "{message}");
    }

    #[test]
    fn beside_comes_before_the_path() {
        let found = find("sh", Some(Path::new("/bin")), Some("/usr/bin".as_ref())).expect("a shell");
        assert_eq!(found, Path::new("/bin/sh"));
        let found = find("sh", Some(Path::new("/nowhere")), Some("/bin".as_ref())).expect("a shell");
        assert_eq!(found, Path::new("/bin/sh"));
    }
}
