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


def bare(folder: Path) -> Path:
    """The Python of an environment in which nothing is installed."""
    run([sys.executable, "-m", "venv", folder / "venv"])
    return folder / "venv/bin/python"


@pytest.mark.slow
def test_the_wheel_installs_alone_and_imports(tmp_path: Path) -> None:
    python = bare(tmp_path)
    run([python, "-m", "pip", "install", *OFFLINE, build(tmp_path)], tmp_path)
    shown = run([python, "-c", "import waypost; print(waypost.Service.__name__, waypost.__version__)"], tmp_path)
    assert shown == "Service 0.1.0\n"
    run([python, "-c", "from importlib.resources import files; assert files('waypost').joinpath('py.typed').is_file()"])


@pytest.mark.slow
def test_the_gateway_is_there_with_what_its_extra_names_and_nothing_else(tmp_path: Path) -> None:
    python = bare(tmp_path)
    build(tmp_path)
    for name in ("h11", "wsproto"):
        pack(name, tmp_path)
    run([python, "-m", "pip", "install", *OFFLINE, "--find-links", tmp_path, "waypost[gateway]"], tmp_path)
    code = "from waypost.tapper import TapperGateway; print(TapperGateway('http://127.0.0.1:9').get_service_status())"
    assert run([python, "-c", code], tmp_path) == "{}\n"
