//! The files of a new project: what lies in `templates/`, with the project's own words in place of `{{…}}`.
//!
//! Deliberately absent: a template engine. A template has neither conditions nor loops.

use super::sdk::{Sdk, VERSION};
use crate::args::init::Template;

/// A file of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Where it is in the project.
    pub(super) path: &'static str,
    /// What it says.
    pub(super) text: String,
}

/// Reads the templates of one kind as `(path in the project, text)`.
macro_rules! templates {
    ($folder:literal: $($path:literal = $file:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../templates/", $folder, "/", $file)))),+]
    };
}

const AXUM: &[(&str, &str)] = templates!("axum":
    "Cargo.toml" = "Cargo.toml.template",
    "src/main.rs" = "src/main.rs",
    "README.md" = "README.md",
    "Makefile" = "Makefile",
    ".gitignore" = "gitignore",
    ".github/workflows/ci.yml" = "ci.yml",
);

const FASTAPI: &[(&str, &str)] = templates!("fastapi":
    "pyproject.toml" = "pyproject.toml.template",
    "app/__init__.py" = "app/__init__.py",
    "app/main.py" = "app/main.py",
    "tests/test_main.py" = "tests/test_main.py",
    "README.md" = "README.md",
    "Makefile" = "Makefile",
    ".gitignore" = "gitignore",
    ".github/workflows/ci.yml" = "ci.yml",
);

/// Packages that a project depends on, and names that cargo or rustc refuse for a program.
const TAKEN: &[&str] = &[
    "abstract",
    "alloc",
    "anyhow",
    "as",
    "async",
    "await",
    "axum",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "fastapi",
    "final",
    "fn",
    "for",
    "gen",
    "httpx",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "pytest",
    "ref",
    "return",
    "self",
    "serde-json",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "tokio",
    "tower",
    "tracing",
    "tracing-subscriber",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "uvicorn",
    "virtual",
    "waypost",
    "waypost-sdk",
    "where",
    "while",
    "yield",
];

/// All files of a project.
pub(super) fn files(template: Template, name: &str, sdk: &Sdk) -> Vec<File> {
    let templates = match template {
        Template::Axum => AXUM,
        Template::Fastapi => FASTAPI,
    };
    let words = [
        ("name", name.to_owned()),
        ("package", package(name)),
        ("sdk", dependency(template, sdk)),
        ("source", source(sdk)),
    ];
    let fill = |text: &str| {
        words
            .iter()
            .fold(text.to_owned(), |text, (word, value)| text.replace(&format!("{{{{{word}}}}}"), value))
    };
    templates.iter().map(|(path, text)| File { path, text: fill(text) }).collect()
}

/// Commands to go on with, and what they are for.
pub(super) fn next_steps(name: &str) -> Vec<(String, &'static str)> {
    vec![
        (format!("cd {name}"), "its README says the same, and more"),
        ("make test".to_owned(), "run its tests"),
        ("waypost dev".to_owned(), "in another terminal: a control plane and a proxy"),
        ("make run".to_owned(), "run it, registered until Ctrl-C"),
        (format!("curl http://127.0.0.1:8080/{name}/hello/you"), "call it through the proxy"),
    ]
}

/// The name of the package, which is the service's as far as cargo and pip take it.
fn package(name: &str) -> String {
    let package: String =
        name.chars().map(|letter| if letter == '.' { '-' } else { letter.to_ascii_lowercase() }).collect();
    let package = if package.starts_with(|first: char| first.is_ascii_digit()) {
        format!("service-{package}")
    } else {
        package
    };
    if TAKEN.contains(&package.replace('_', "-").as_str()) { format!("{package}-service") } else { package }
}

/// The line by which the project depends on the SDK.
fn dependency(template: Template, sdk: &Sdk) -> String {
    match (template, sdk) {
        (Template::Axum, Sdk::Released) => format!("version = {}", quoted(VERSION)),
        (Template::Axum, Sdk::Folder(folder)) => format!("path = {}", quoted(&folder.to_string_lossy())),
        (Template::Fastapi, Sdk::Released) => quoted(&format!("waypost~={VERSION}")),
        (Template::Fastapi, Sdk::Folder(folder)) => {
            quoted(&format!("waypost @ file://{}", escaped(&folder.to_string_lossy())))
        }
    }
}

/// What the README says about where the SDK comes from.
fn source(sdk: &Sdk) -> String {
    match sdk {
        Sdk::Released => format!("Waypost's SDK is taken in version {VERSION}."),
        Sdk::Folder(_) => {
            "Waypost's SDK is taken from a checkout on this machine. Name a version in its place before \
                           others build this."
                .to_owned()
        }
    }
}

/// A string of TOML's, which JSON's are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A path as a URL has it.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_as_cargo_and_pip_take_it() {
        for (name, named) in [
            ("users", "users"),
            ("Users.v2", "users-v2"),
            ("my_users", "my_users"),
            ("2fast", "service-2fast"),
            ("test", "test-service"),
            ("waypost_sdk", "waypost_sdk-service"),
            ("axum", "axum-service"),
            ("match", "match-service"),
        ] {
            assert_eq!(package(name), named);
        }
        assert!(TAKEN.is_sorted(), "in the order of the alphabet");
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for template in [Template::Axum, Template::Fastapi] {
            for sdk in [Sdk::Released, Sdk::Folder("/a b/\"c\"".into())] {
                for file in files(template, "users", &sdk) {
                    assert!(!file.text.contains("{{"), "{}: {}", file.path, file.text);
                    assert!(file.text.is_empty() || file.text.ends_with('\n'), "{}", file.path);
                }
            }
        }
    }

    #[test]
    fn a_folder_is_written_as_each_language_reads_it() {
        let folder = Sdk::Folder("/a b/\"c\"".into());
        assert_eq!(dependency(Template::Axum, &folder), r#"path = "/a b/\"c\"""#);
        assert_eq!(dependency(Template::Fastapi, &folder), r#""waypost @ file:///a%20b/%22c%22""#);
        assert_eq!(dependency(Template::Axum, &Sdk::Released), format!("version = \"{VERSION}\""));
    }
}
