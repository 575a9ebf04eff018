"""The package as others get it: its types and style hold, and its wheel installs where nothing else is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from wheels import OFFLINE, PROJECT, build, pack


def run(command: Sequence[str | Path], folder: Path = PROJECT) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_types_are_strict() -> None:
    run([sys.executable, "-m", "mypy"])


def test_style_is_kept() -> None:
    run([sys.executable, "-m", "ruff", "check"])
    run([sys.executable, "-m", "ruff", "format", "--check"])


def test_files_are_short_and_say_what_they_are() -> None:
    for path in PROJECT.glob("src/**/*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 420, path
        assert text.startswith('"""'), path


class Bare:
    """The Python of an environment in which nothing is installed, and which finds nothing elsewhere (`-I`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        run([sys.executable, "-m", "venv", folder / "venv"])

    def install(self, *arguments: str | Path) -> None:
        self._python("-m", "pip", "install", *OFFLINE, *arguments)

    def shows(self, code: str) -> str:
        """What code prints after it has imported the package, as it is installed."""
        where, _, shown = self._python("-c", f"import waypost; print(waypost.__file__); {code}").partition("\n")
        assert Path(where).is_relative_to(self._folder / "venv"), where
        return shown

    def _python(self, *arguments: str | Path) -> str:
        return run([self._folder / "venv/bin/python", "-I", *arguments], self._folder)


@pytest.mark.slow
def test_the_wheel_installs_alone_and_imports(tmp_path: Path) -> None:
    python = Bare(tmp_path)
    python.install(build(tmp_path))
    assert python.shows("print(waypost.Service.__name__, waypost.__version__)") == "Service 0.1.0\n"
    code = "from importlib.resources import files; print(files('waypost').joinpath('py.typed').is_file())"
    assert python.shows(code) == "True\n"


@pytest.mark.slow
def test_the_gateway_is_there_with_what_its_extra_names_and_nothing_else(tmp_path: Path) -> None:
    python = Bare(tmp_path)
    build(tmp_path)
    for name in ("h11", "wsproto"):
        pack(name, tmp_path)
    python.install("--find-links", tmp_path, "waypost[gateway]")
    code = "from waypost.tapper import TapperGateway; print(TapperGateway('http://127.0.0.1:9').get_service_status())"
    assert python.shows(code) == "{}\n"


@pytest.mark.slow
def test_without_its_extra_the_gateway_says_so_and_tappers_service_is_there(tmp_path: Path) -> None:
    python = Bare(tmp_path)
    python.install(build(tmp_path))
    code = """
from waypost.tapper import Service, ServiceNotFoundError
for statement in ("from waypost.tapper import TapperGateway", "import waypost.gateway"):
    try:
        exec(statement)
    except ImportError as error:
        print(error)
"""
    says = "waypost.gateway needs h11: pip install 'waypost[gateway]'\n"
    assert python.shows(code) == says * 2
