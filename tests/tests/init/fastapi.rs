//! The FastAPI template: installed with the SDK of this checkout beside it, without a network.

use std::path::{Path, PathBuf};

use waypost_tests::program::{repository, target_directory};

use crate::project::Project;

/// The environment with the libraries of `requirements.txt`.
fn environment() -> PathBuf {
    let target = target_directory();
    target.parent().unwrap_or(&target).join("init-env")
}

/// Why projects cannot run here, if they cannot.
pub(crate) fn missing() -> Option<String> {
    if !repository().join("sdk/python/pyproject.toml").is_file() {
        return Some("sdk/python is not there".to_owned());
    }
    let made = environment().join("requirements.txt").is_file();
    (!made).then(|| "target/init-env is not made: run tests/setup.sh --servers".to_owned())
}

/// Makes a project and shows what it does.
pub(crate) async fn show() {
    let project = Project::make("fastapi").await;
    let (python, installed) = (environment().join("bin/python"), project.beside("installed"));
    let mut install = project.command(&python);
    install.args(["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]);
    install.args(["--disable-pip-version-check", "--target"]).arg(&installed);
    project.build(install.arg(repository().join("sdk/python")).arg(".")).await;

    let command = |arguments: &[&str]| {
        let mut command = project.command(Path::new(&python));
        command.args(arguments).env("PYTHONPATH", &installed).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let said = project.build(&mut command(&["-m", "pytest", "-p", "no:cacheprovider"])).await;
    assert!(said.contains("2 passed"), "{said}");
    let serve = ["-m", "uvicorn", "app.main:app", "--host", "127.0.0.1", "--port", "0"];
    project.serves(command(&serve)).await;
}
