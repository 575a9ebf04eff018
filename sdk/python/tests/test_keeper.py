"""The keep-alive survives what nobody has foreseen: answers that cannot be read, and what cannot be said."""

from __future__ import annotations

import pytest

from cluster import Cluster, eventually
from planes import plane
from waypost import Client, ConfigurationError, ControlPlaneUnreachableError, LeaseStatus, Load, Registration

GRANT = {"key": {"namespace": "default", "service": "s", "id": "one"}, "epoch": "7", "ttl": "0.3s"}


@pytest.mark.parametrize("odd", [{"results": [7]}, {"results": [{"epoch": "x"}]}, {"results": 7}])
def test_a_heartbeats_answer_that_cannot_be_read_is_said_and_beaten_for_again(odd: object) -> None:
    beats: list[str] = []
    well = {"results": [{"key": GRANT["key"], "epoch": "7", "outcome": "BEAT_OUTCOME_RENEWED"}]}

    def answers(method: str, path: str) -> tuple[int, object]:
        if path == "/v1/heartbeats":
            beats.append(path)
            return 200, odd if len(beats) <= 2 else well
        return (200, {"drain": {"complete": True}}) if method == "DELETE" else (201, GRANT)

    with plane(answers) as url, Client(url).register(Registration("s", "127.0.0.1:9001")) as registered:
        eventually("it beats on", lambda: len(beats) > 3 and registered.status is LeaseStatus.HELD)


@pytest.mark.parametrize("odd", [{}, {"key": 7, "epoch": "7"}, {**GRANT, "epoch": "x"}])
def test_a_grant_that_cannot_be_read_is_asked_for_again(odd: object) -> None:
    asked: list[str] = []

    def answers(method: str, path: str) -> tuple[int, object]:
        if method != "POST" or path != "/v1/instances":
            return 200, {}
        asked.append(path)
        return 201, odd if len(asked) <= 2 else GRANT

    with plane(answers) as url:
        registered = Client(url).register(Registration("s", "127.0.0.1:9001"))
        assert registered.epoch == 7
        registered.release()


def test_what_cannot_be_written_is_refused_where_it_is_said(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)
    unwritable: dict[str, object] = {"a": object()}
    odd = Registration("unwritable", "127.0.0.1:9001", metadata=unwritable)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"'unwritable' cannot be written as JSON: .*object"):
        client.register(odd)
    with client.register(Registration("unwritable", "127.0.0.1:9001")) as registered:
        with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
            registered.update(odd)
        assert registered.registration.metadata == {}
        for load in (Load(application=float("nan")), Load(cpu=-1.0), Load(memory="much")):  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match="must be a finite number"):
                registered.set_load(load)


def test_what_becomes_unwritable_keeps_nothing_else_from_its_beats(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)
    shared: dict[str, str] = {}
    with client.register(Registration("changed", "127.0.0.1:9001"), ttl=1.5) as well:
        other = client.register(Registration("changed", "127.0.0.1:9002", metadata=shared), ttl=1.5)
        shared["a"] = object()  # type: ignore[assignment]
        client.deregister("changed", other.key.id)  # it is to be registered again, then
        eventually("it is said", lambda: isinstance(other.error, ConfigurationError))
        (renewed,) = (each.renewed_at for each in client.instances("changed"))
        eventually("it is renewed", lambda: client.instances("changed")[0].renewed_at > renewed)
        assert well.status is LeaseStatus.HELD
        other.deregister()


def test_a_name_that_is_none_is_an_outage() -> None:
    with pytest.raises(ControlPlaneUnreachableError, match=r"control\.\.plane"):
        Client("http://control..plane:7401").services()
    step = next(Client("http://control..plane:7401").watch())
    assert isinstance(step.error, ControlPlaneUnreachableError)
