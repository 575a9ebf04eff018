"""FROM_TAPPER.md is true: its blocks are run from top to bottom, as its readers would."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import program
from gateway.harness import eventually
from ports import free_address
from wheels import OFFLINE, build, pack

_PAGE = Path(__file__).parents[2] / "FROM_TAPPER.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"\b(7401|8000|810\d)\b")
_INSTEAD_OF_TAPPERS_REGISTRY = re.compile(r"^\| `tapper registry --port 8001` \| `(.*)` \|$", re.MULTILINE)

needs_tapper = pytest.mark.skipif(
    importlib.util.find_spec("tapper") is None,
    reason="the tapper package of PyPI is not installed: pip install tyler-ag-tapper",
)


@dataclass
class Shell:
    """A bash that keeps its variables and background processes from block to block."""

    process: subprocess.Popen[str]

    def run(self, script: str) -> str:
        """What a script prints."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{script}\necho; echo end-of-block\n")
        self.process.stdin.flush()
        printed = ""
        for line in self.process.stdout:
            if line == "end-of-block\n":
                break
            printed += line
        return printed.strip()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    programs = str(Path(program("waypost-control-plane")).absolute().parent)
    grpc = free_address()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WAYPOST_", "TAP"))}
    environment = {
        **inherited,
        "PATH": os.pathsep.join((programs, str(Path(sys.executable).parent), os.environ["PATH"])),
        # What the page installs comes before the sources that are tested otherwise.
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "installed"), *sys.path)),
        # Where others may run, too, nothing listens where it does by default.
        "WAYPOST_GRPC_LISTEN": grpc,
        "WAYPOST_CONTROL_PLANE": f"http://{grpc}",
        "WAYPOST_ADMIN_LISTEN": "127.0.0.1:0",
        "WAYPOST_SETTLE": "2s",
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            ["/bin/bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
        )
        yield Shell(process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _as_here(script: str) -> str:
    """A script of the page, with a wheel that is built here in place of the package index's."""
    install = f"pip install {' '.join(OFFLINE)} --find-links wheels --target installed "
    return re.sub(r" & echo", " >>log 2>&1 & echo", script.replace("pip install ", install))


@pytest.mark.slow
@needs_tapper
def test_the_page_is_true(shell: Shell, tmp_path: Path) -> None:
    text = _PAGE.read_text()
    ports = {port: free_address().split(":")[1] for port in sorted(set(_PORT.findall(text)))}
    blocks = _BLOCK.findall(_PORT.sub(lambda found: ports[found[0]], text))
    assert len(blocks) > 30
    assert not re.findall(r"^(?: {4}|\t)", _BLOCK.sub("", text), re.MULTILINE), "a block of another kind is not run"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    build(wheels)
    for name in ("h11", "wsproto"):
        pack(name, wheels)

    for at, (kind, content) in enumerate(blocks):
        if kind == "python":
            (tmp_path / content.split("\n")[0].removeprefix("# ")).write_text(content)
        elif kind == "sh":
            following = blocks[at + 1] if at + 1 < len(blocks) else ("", "")
            script = _as_here(content)
            if following[0] != "text":
                assert shell.run(f"{script}echo it ends with $?") == "it ends with 0"
                if at == 0:
                    _is_up(shell, ports["7401"])
            elif content.startswith(("curl ", "python ")):
                _prints_in_the_end(shell, script, following[1].strip(), tmp_path)
            else:
                assert shell.run(script) == following[1].strip()
        else:
            assert kind == "text", f"what is a block of {kind}?"


@pytest.mark.slow
@needs_tapper
def test_the_command_in_place_of_tappers_registry_runs(shell: Shell) -> None:
    (command,) = _INSTEAD_OF_TAPPERS_REGISTRY.findall(_PAGE.read_text())
    port = free_address().split(":")[1]
    assert shell.run(f"{command.replace('8001', port)} >>log 2>&1 &") == ""
    _is_up(shell, port)


def _is_up(shell: Shell, port: str) -> None:
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/services"
    eventually(lambda: shell.run(ask) == "200", "the control plane answers as Tapper's registry does")


def _prints_in_the_end(shell: Shell, script: str, expected: str, folder: Path) -> None:
    """Programs need a moment to start: what only looks is looked at again."""
    printed = ""

    def look() -> bool:
        nonlocal printed
        printed = shell.run(script)
        return printed == expected

    try:
        eventually(look, script, within=60)
    except AssertionError:
        lines = (folder / "log").read_text().splitlines()
        log = "\n".join(line for line in lines if " HTTP/1.1" not in line)[-4000:]
        pytest.fail(f"{script}\nprinted {printed!r}, not {expected!r}; the programs said:\n{log}")
