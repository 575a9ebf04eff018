"""What is taken for the service's address; a signal that comes before it is known; an end beside a broken roster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster, eventually
from waypost import Registration
from waypost.service.find_listener import Evidence
from waypost.service.lifecycle import Lifecycle
from waypost.service.listener import Listener
from waypost.service.roster import Alone
from waypost.service.settings import Settings

UNIX, METRICS = Listener("/run/app.sock", 0, 1), Listener("127.0.0.1", 9090, 2)
CONTROL = Listener("/run/user/1000/gunicorn.ctl", 0, 3)
SAID = "users.internal:80"


def evidence(before: list[Listener], **more: Any) -> Evidence:
    names = frozenset(each.name for each in before)
    return Evidence(names, names, **{"inherits": False, **more})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., str | None]:
    """The address that a process takes, which listens so; None where it has warned, and waits on."""

    def address(known: Evidence, found: list[Listener], *, said: str | None = None, port: int | None = None) -> Any:
        lifecycle = Lifecycle(Settings("users", address=said, registry_url="http://127.0.0.1:1"), tuple)
        lifecycle._evidence = known
        lifecycle.port = port
        # Nothing is waited for.
        monkeypatch.setattr("waypost.service.find_listener._BINDS_WITHIN", 0.0)
        monkeypatch.setattr("waypost.service.lifecycle._SAY_THAT_NOTHING_LISTENS", 0.0)
        monkeypatch.setattr("waypost.service.lifecycle.listeners", lambda: found)
        monkeypatch.setattr(lifecycle, "_told", lambda _: bool(caplog.messages))
        return lifecycle._address()

    return address


@pytest.mark.parametrize(
    ("known", "found"),
    [
        pytest.param(evidence([UNIX, METRICS], inherits=True), [UNIX, METRICS], id="gunicorn"),
        pytest.param(evidence([UNIX], inherits=True), [UNIX, METRICS], id="gunicorn, metrics later"),
        pytest.param(evidence([METRICS]), [METRICS, UNIX], id="uvicorn --uds"),
    ],
)
def test_another_port_is_not_taken_where_the_server_is_at_a_unix_socket(
    address: Callable[..., str | None], caplog: pytest.LogCaptureFixture, known: Evidence, found: list[Listener]
) -> None:
    assert address(known, found) is None
    (warning,) = caplog.messages
    assert "/run/app.sock" in warning
    assert "url=" in warning
    assert address(known, found, said=SAID) == SAID


def test_gunicorns_control_socket_is_no_servers(address: Callable[..., str | None]) -> None:
    server = Listener("127.0.0.1", 8001, 4)
    assert address(evidence([server, CONTROL], inherits=True), [server, CONTROL]) == "127.0.0.1:8001"


def test_with_url_a_wsgi_app_is_registered_whatever_port_the_front_server_puts_into_a_request(
    address: Callable[..., str | None],
) -> None:
    known = evidence([METRICS], serves=False)
    assert address(known, [METRICS], said=SAID, port=443) == SAID
    assert address(known, [METRICS], said=SAID) is None, "it may merely be imported"


def test_url_does_not_make_a_service_of_an_asgi_app_in_a_test(address: Callable[..., str | None]) -> None:
    assert address(evidence([METRICS]), [METRICS], said=SAID, port=80) is None


class Kept:
    """A control plane's client, and a registration, which keep what they are told."""

    key = "users"

    def __init__(self, *_: object) -> None:
        self.registration: Any = None

    def register(self, wanted: Registration, **_: object) -> Kept:
        self.update(wanted)
        return self

    def update(self, wanted: Registration) -> None:
        self.registration = wanted

    def set_load(self, load: object) -> None:
        pass


def test_routes_are_not_looked_through_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    routes: list[str] = []

    def look() -> tuple[str, ...]:
        routes.append(f"GET /{len(routes)}")
        return tuple(routes)

    monkeypatch.setattr("waypost.service.lifecycle.Client", Kept)
    monkeypatch.setattr("waypost.service.lifecycle._ROUTES", 3600.0, raising=False)
    lifecycle = Lifecycle(Settings("users", registry_url="http://127.0.0.1:1"), look)
    for looks in (1, 2):
        lifecycle._routes_at = 0.0  # the time has passed
        for _ in range(5):
            lifecycle._upkeep(Alone(), "127.0.0.1:8001")
        assert len(routes) == looks
        assert lifecycle.registered is not None
        assert lifecycle.registered.registration.endpoints == tuple(routes)


# A name server that is away keeps the thread for as long as it likes to.
NO_NAME_SERVER = """
import os, signal, socket, threading, time
import waypost.service.lifecycle as lifecycle
from waypost.service.settings import Settings

asking, answered, ended = threading.Event(), threading.Event(), []
lifecycle.reachable = lambda *_: asking.set() or answered.wait() and "127.0.0.1:1"
signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
service = lifecycle.Lifecycle(Settings("users", registry_url="http://control-plane.internal:7401"), tuple)
service.start()
listener = socket.create_server(("127.0.0.1", 0))
assert asking.wait(30)
os.kill(os.getpid(), signal.SIGTERM)
until = time.monotonic() + 30
while not ended and time.monotonic() < until:
    time.sleep(0.01)
assert ended == [signal.SIGTERM], ended
answered.set()
service.stop(30)
assert service.registered is None
assert ended == [signal.SIGTERM], "once"
"""


def test_a_signal_is_not_held_back_before_anything_can_have_been_registered(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", NO_NAME_SERVER], {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr


SERVED = """
import os
from fastapi import FastAPI
from waypost import Service
from waypost.service.roster import Roster

app = Service(name="{name}")(FastAPI())
others = Roster.others

def looks(roster):
    if os.path.exists("{name}-broken"):
        open("{name}-asked", "w").close()
        {fails}
    return others(roster)

Roster.others = looks
"""


@pytest.mark.parametrize(
    ("name", "fails", "tracebacks"),
    [("cleaned", "pass", 0), ("defective", "raise RuntimeError('a defect')", 2)],
    ids=["its folder was cleaned away", "a defect"],
)
def test_what_is_registered_is_drained_whatever_becomes_of_the_roster(
    shared_cluster: Cluster, tmp_path: Path, name: str, fails: str, tracebacks: int
) -> None:
    server = shared_cluster.serve(SERVED.format(name=name, fails=fails), TMPDIR=str(tmp_path))
    shared_cluster.instance(name)
    shutil.rmtree(tmp_path / f"waypost-{os.getuid()}")
    (shared_cluster.folder / f"{name}-broken").touch()
    for _ in range(3):  # it goes on looking, and does not say so each time
        eventually("it has looked", (shared_cluster.folder / f"{name}-asked").exists)
        (shared_cluster.folder / f"{name}-asked").unlink()
    server.signal(signal.SIGTERM)
    server.wait()
    assert shared_cluster.client.instances(name) == []
    assert server.output().count("Traceback") == tracebacks, server.output()
