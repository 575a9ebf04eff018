//! Where a new project takes Waypost's SDK from: a checkout of Waypost, or the version that is published.
//!
//! The SDKs are released with the programs, so the version is this program's own.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{
    args::init::Template,
    failure::{Exit, Failure},
};

/// Where the SDK is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sdk {
    /// In this folder.
    Folder(PathBuf),
    /// Where packages are published.
    Released,
}

/// The version of the SDKs that belong to this program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Sdk {
    /// The SDK in a checkout, or the SDK's own folder.
    ///
    /// # Errors
    /// It is in neither.
    pub(super) fn at(path: &Path, template: Template) -> Result<Self, Failure> {
        let (below, manifest, _) = place(template);
        let folders = [path.join(below), path.to_path_buf()];
        let found = folders.iter().find(|folder| holds(folder, template)).and_then(|folder| absolute(folder));
        found.map(Self::Folder).ok_or_else(|| {
            let shown = path.display();
            let message =
                format!("--sdk {shown}: the SDK is not there: no {below}/{manifest} and no {manifest} of it");
            Failure::new(Exit::Usage, message).way_out("name the folder of a checkout of Waypost")
        })
    }

    /// The SDK of the checkout that one of these places is in, or else the published one.
    pub(super) fn find(places: &[PathBuf], template: Template) -> Self {
        let (below, ..) = place(template);
        let folders = places.iter().flat_map(|place| place.ancestors()).map(|above| above.join(below));
        let found = folders.into_iter().find(|folder| holds(folder, template));
        found.and_then(|folder| absolute(&folder)).map_or(Self::Released, Self::Folder)
    }
}

impl fmt::Display for Sdk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(formatter, "{}", folder.display()),
            Self::Released => write!(formatter, "version {VERSION} as it is published"),
        }
    }
}

/// The SDK's folder in a checkout, its manifest, and the line that tells it from other people's.
fn place(template: Template) -> (&'static str, &'static str, &'static str) {
    match template {
        Template::Axum => ("sdk/rust", "Cargo.toml", "name = \"waypost-sdk\""),
        Template::Fastapi => ("sdk/python", "pyproject.toml", "name = \"waypost\""),
    }
}

fn holds(folder: &Path, template: Template) -> bool {
    let (_, manifest, line) = place(template);
    let text = fs::read_to_string(folder.join(manifest));
    text.is_ok_and(|text| text.lines().any(|found| found == line))
}

/// The folder as any project can name it; a path that is no text is none.
fn absolute(folder: &Path) -> Option<PathBuf> {
    fs::canonicalize(folder).ok().filter(|folder| folder.to_str().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout() -> PathBuf {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::canonicalize(own.join("../..")).expect("the checkout that this is built from")
    }

    #[test]
    fn a_checkout_is_found_from_within_and_else_the_release_is_taken() {
        let sdk = Sdk::Folder(checkout().join("sdk/rust"));
        let inside = checkout().join("target/debug/waypost");
        assert_eq!(Sdk::find(&[PathBuf::from("/"), inside], Template::Axum), sdk);
        assert_eq!(Sdk::find(&[PathBuf::from("/")], Template::Axum), Sdk::Released);
    }

    #[test]
    fn a_checkout_and_the_sdks_own_folder_are_taken_and_others_refused() {
        let sdk = Sdk::Folder(checkout().join("sdk/rust"));
        for path in [checkout(), checkout().join("sdk/rust")] {
            assert_eq!(Sdk::at(&path, Template::Axum).expect("the SDK"), sdk);
        }
        for path in [checkout().join("sdk/cli"), PathBuf::from("/nowhere")] {
            let failure = Sdk::at(&path, Template::Axum).expect_err("no SDK");
            assert!(failure.message.contains("sdk/rust/Cargo.toml"), "{failure}");
        }
    }
}
