//! `waypost init`: what it makes, and what it refuses. That the projects work is shown by `tests/tests/init`.

use std::{fs, path::Path};

use crate::support::{self, Ran};

async fn init(folder: &Path, args: &[&str]) -> Ran {
    let mut command = support::command(&[&["init", "service"], args].concat());
    command.current_dir(folder).output().await.expect("waypost starts").into()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[tokio::test]
async fn a_project_is_named_as_it_is_asked_for() {
    let folder = folder();
    let ran = init(folder.path(), &["--template", "fastapi", "Users.v2"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for next in ["cd Users.v2", "make test", "make run", "8080/Users.v2/hello/you"] {
        assert!(ran.stdout.contains(next), "{next}: {}", ran.stdout);
    }
    let read = |file: &str| fs::read_to_string(folder.path().join("Users.v2").join(file)).expect(file);
    assert!(read("app/main.py").contains("Service(name=\"Users.v2\""), "the service keeps its name");
    assert!(read("pyproject.toml").contains("name = \"users-v2\""), "the package is named as pip takes it");
    for file in ["README.md", "Makefile", ".gitignore", ".github/workflows/ci.yml", "tests/test_main.py"] {
        assert!(!read(file).is_empty(), "{file}");
    }
}

#[tokio::test]
async fn programs_get_a_document() {
    let folder = folder();
    let ran = init(folder.path(), &["--template", "axum", "users", "-o", "json"]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
    assert_eq!(document["folder"], "users");
    let files = document["files"].as_array().expect("a list");
    assert!(files.iter().any(|file| file == "src/main.rs"), "{document}");
    assert_eq!(document["next"][1], "make test");
}

#[tokio::test]
async fn a_folder_that_is_there_is_left_as_it_is() {
    let folder = folder();
    for is_folder in [true, false] {
        let path = folder.path().join("users");
        let made = if is_folder { fs::create_dir(&path) } else { fs::write(&path, "a file") };
        made.expect("it can be made");
        let ran = init(folder.path(), &["--template", "axum", "users"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
        for part in ["users exists", "not written over", "another name"] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
        let left = if is_folder {
            assert_eq!(fs::read_dir(&path).expect("a folder").count(), 0, "nothing was put into it");
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
        left.expect("it is as it was");
    }
}

#[tokio::test]
async fn bad_names_templates_and_sdks_are_refused_before_anything_is_made() {
    let folder = folder();
    let bad: [(&[&str], &[&str]); 9] = [
        (&["--template", "axum", "a b"], &["NAME", "a b", "must be 1 to 63"]),
        (&["--template", "axum", "../users"], &["NAME", "../users", "must be 1 to 63"]),
        (&["--template", "axum", "a/b"], &["NAME", "a/b", "must be 1 to 63"]),
        (&["--template", "axum", ".."], &["NAME", "must be 1 to 63"]),
        (&["--template", "axum", ""], &["NAME", "must be 1 to 63"]),
        (&["--template", "axum"], &["NAME", "required"]),
        (&["users"], &["--template", "required"]),
        (
            &["--template", "fastap", "users"],
            &["--template", "fastap", "fastapi, axum", "a similar value exists"],
        ),
        (
            &["--template", "axum", "--sdk", "/nowhere", "users"],
            &["--sdk /nowhere", "sdk/rust/Cargo.toml", "checkout"],
        ),
    ];
    for (args, parts) in bad {
        let ran = init(folder.path(), args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{args:?} must say {part:?}: {}", ran.stderr);
        }
    }
    let left = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "nothing was made");
}
