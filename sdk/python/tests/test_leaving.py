"""How instances leave: within the time that is given, side by side, and once."""

from __future__ import annotations

import http.client
import threading
from types import SimpleNamespace

import pytest

from cluster import PATIENCE, eventually
from planes import NOBODY, plane
from waypost import Client, ControlPlaneUnreachableError, DrainOutcome, Registration
from waypost.transport import Address, Transport

DRAINED = {"drain": {"complete": True, "took": "0.1s"}}


def grants(_method: str, _path: str) -> tuple[int, object]:
    """Everything, for long."""
    return 201, {"key": {"namespace": "default", "service": "s", "id": "one"}, "epoch": "7", "ttl": "600s"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only while a control plane keeps the test waiting: none of them ever answers."""
    now = [0.0]

    def connect(_: Address, timeout: float) -> http.client.HTTPConnection:
        # Leases of earlier tests may be beaten for still.
        if threading.current_thread() is threading.main_thread():
            now[0] += timeout
        raise TimeoutError

    def sleep(seconds: float) -> None:
        now[0] += seconds

    fake = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr("waypost.transport.time", fake, raising=False)
    monkeypatch.setattr("waypost.registered.time", fake)
    monkeypatch.setattr("waypost.transport._connect", connect)
    return now


def test_a_call_ends_in_its_time_however_many_are_asked(clock: list[float]) -> None:
    with pytest.raises(ControlPlaneUnreachableError):
        Transport(["a", "b", "c"]).call("GET", "/v1/services", timeout=4.0)
    assert clock[0] == pytest.approx(4.0)


def test_a_drain_ends_in_its_time_where_no_control_plane_answers(request: pytest.FixtureRequest) -> None:
    with plane(grants) as granting:
        client = Client([granting, NOBODY])
        registered = client.register(Registration("leaving", "127.0.0.1:9001"), drain_timeout=1.0)
        clock = request.getfixturevalue("clock")
        outcome = registered.drain()
    assert (outcome.complete, outcome.gone) == (False, False)
    assert "no answer in time" in outcome.reason
    assert clock[0] <= 3.0 + 0.01


def test_a_client_that_is_closed_drains_all_of_its_instances_side_by_side() -> None:
    together = threading.Barrier(3)

    def answers(method: str, path: str) -> tuple[int, object]:
        if method == "DELETE":
            together.wait(20.0)
            return 200, DRAINED
        number = str(len(clients))
        clients.append(path)
        return 201, {"key": {"namespace": "default", "service": "s", "id": number}, "epoch": "7", "ttl": "600s"}

    clients: list[str] = []
    with plane(answers) as url:
        client = Client(url)
        held = [client.register(Registration("s", f"127.0.0.1:{port}")) for port in (9001, 9002, 9003)]
        client.close()
        assert [each.drain().complete for each in held] == [True, True, True]


def test_two_that_drain_at_a_time_get_one_outcome() -> None:
    asked: list[str] = []
    second, may_answer = threading.Event(), threading.Event()

    def answers(method: str, path: str) -> tuple[int, object]:
        if method == "POST":
            return grants(method, path)
        asked.append(path)
        if len(asked) > 1:
            second.set()
            return 404, {"code": "not_found"}
        may_answer.wait(PATIENCE)
        return 200, DRAINED

    with plane(answers) as url:
        registered = Client(url).register(Registration("s", "127.0.0.1:9001"))
        outcomes: list[DrainOutcome] = []
        threads = [threading.Thread(target=lambda: outcomes.append(registered.drain())) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually("the first one asks", lambda: asked)
        second.wait(0.5)  # nobody else asks
        may_answer.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(asked) == 1
    assert [each.complete for each in outcomes] == [True, True]
    assert outcomes[0] is outcomes[1] is registered.drain()
