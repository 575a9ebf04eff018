"""Waypost's own programs, and servers that register with them: real processes on loopback, at free ports.

WAYPOST_BIN names the folder of the programs; tests that need them are left out without it (conftest.py).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from ports import free_address
from waypost import Client, Instance, State

T = TypeVar("T")
PATIENCE = 120.0
BINARIES = "WAYPOST_BIN"


def eventually(what: str, ask: Callable[[], T], patience: float = PATIENCE) -> T:
    """Asks until the answer is true, and returns it; what is asked for may not be there yet."""
    until = time.monotonic() + patience
    while True:
        last: object
        try:
            answer = ask()
            if answer:
                return answer
            last = answer
        except (OSError, http.client.HTTPException, Exception) as error:
            last = error
        if time.monotonic() > until:
            pytest.fail(f"not within {patience:.0f} s: {what}; last: {last!r}")
        time.sleep(0.02)


def program(name: str) -> str:
    """A program of Waypost."""
    path = Path(os.environ[BINARIES]) / name
    if not path.is_file():
        pytest.fail(f"{path} is missing: cargo build --workspace --bins")
    return str(path)


class Process:
    """A process with its output in a file; it ends with the test."""

    def __init__(self, command: Sequence[str], log: Path, **environment: str) -> None:
        self.command = list(command)
        self.log = log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WAYPOST_", "TAP"))}
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **environment},
                cwd=log.parent,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its id."""
        return self.popen.pid

    def output(self) -> str:
        """All that it has said."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))

    def said(self, pattern: str) -> str:
        """Waits until it says something, and returns the group."""

        def look() -> str:
            found = re.findall(pattern, self.output())
            if not found and self.popen.poll() is not None:
                pytest.fail(f"{self.command} ended with {self.popen.returncode}:\n{self.output()}")
            return found[-1] if found else ""

        return eventually(f"{self.command[0]} says {pattern}", look)

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        self.popen.send_signal(number)

    def wait(self) -> int:
        """Waits for its end."""
        try:
            return self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.command} does not end:\n{self.output()}")

    def kill(self) -> None:
        """Kills it with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(PATIENCE)


class Cluster:
    """A control plane and a proxy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[Process] = []
        self._settle = "2s"
        # Others must not take its ports while it is restarted.
        self.grpc, self.http = free_address(), free_address()
        self.control_plane = self._control_plane()
        self.control_plane.said(r"http=(\S+)")
        self.url = f"http://{self.http}"
        self.client = Client(self.url)
        command = [program("waypost-proxy"), "--control-plane", f"http://{self.grpc}"]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--threads", "2"]
        self.proxy = self._start(command, "proxy.log")
        self.traffic = self.proxy.said(r"traffic=(\S+)")
        admin = self.proxy.said(r"admin=(\S+)")
        eventually("the proxy is ready", lambda: get(admin, "/readyz")[0] == 200)

    def _control_plane(self) -> Process:
        command = [program("waypost-control-plane"), "--grpc-listen", self.grpc, "--http-listen", self.http]
        command += ["--settle", self._settle]
        return self._start(command, "control-plane.log")

    def _start(self, command: Sequence[str], log: str, **environment: str) -> Process:
        process = Process(command, self.folder / log, **environment)
        self._processes.append(process)
        return process

    def restart_control_plane(self) -> None:
        """Kills it, and starts it again where it was: it has forgotten everything."""
        self.control_plane.kill()
        self._settle = "30s"  # what is not back by then is gone, and a busy machine takes its time
        self.control_plane = self._control_plane()

    def serve(self, source: str, server: Sequence[str] = ("uvicorn",), **environment: str) -> Process:
        """Writes an app down, and serves it at a port that is free."""
        number = len(self._processes)
        module = f"app_{number}"
        (self.folder / f"{module}.py").write_text(source)
        command = [sys.executable, "-m", server[0], f"{module}:app", *server[1:]]
        command += ["-b", "127.0.0.1:0"] if server[0] == "gunicorn" else []
        command += ["--port", "0"] if server[0] == "uvicorn" and not {"--uds", "--port"} & set(server) else []
        return self._start(command, f"{module}.log", WAYPOST_REGISTRY_URL=self.url, **environment)

    def instances(self, service: str, count: int) -> list[Instance]:
        """Waits until so many instances of a service take traffic."""

        def look() -> list[Instance]:
            found = [each for each in self.client.instances(service) if each.state.takes_traffic]
            return found if len(found) == count else []

        return eventually(f"{service} has {count} instances", look)

    def instance(self, service: str) -> Instance:
        """Waits until a service has one instance, and proxies know it."""
        (found,) = self.instances(service, 1)
        self.applied()
        return found

    def applied(self) -> None:
        """Waits until the proxy serves by all that is registered."""
        eventually("the proxy serves by it", self._is_applied)

    def _is_applied(self) -> bool:
        status = self.client._transport.call("GET", "/v1/status")
        head = (status.get("head") or {}).get("revision", "0")
        # Where no proxy is connected, nobody is behind.
        return int(status.get("proxies", 0)) > 0 and int(status.get("watermark", 0)) >= int(head)

    def gone(self, service: str) -> None:
        """Waits until a service has no instance."""
        eventually(f"{service} has no instance", lambda: not self.client.instances(service))

    def state(self, service: str) -> State:
        """The state of its only instance."""
        (found,) = self.client.instances(service)
        return found.state

    def get(self, path: str) -> tuple[int, bytes]:
        """GETs a path through the proxy."""
        return get(self.traffic, path)

    def stop(self) -> None:
        """Ends everything."""
        for process in reversed(self._processes):
            process.kill()


def get(address: str, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json"} if body else {}
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def clusters(folder: Path) -> Iterator[Cluster]:
    """A cluster, for a fixture."""
    started = Cluster(folder)
    try:
        yield started
    finally:
        started.stop()
