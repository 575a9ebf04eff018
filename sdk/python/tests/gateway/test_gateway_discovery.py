"""The gateway follows the control plane, and serves on by what it knows while nobody is there to follow."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.harness import FakeControlPlane, Server, echo, eventually
from ports import free_address
from waypost.errors import ControlPlaneUnreachableError
from waypost.gateway import WaypostGateway
from waypost.gateway.control_plane import document
from waypost.gateway.discovery import Discovery
from waypost.transport import Address

Start = Callable[..., tuple[WaypostGateway, Server]]
Serve = Callable[..., Server]


def _status(server: Server, path: str = "/a") -> int:
    return httpx.get(f"{server.url}{path}").status_code


def _known(gateway: WaypostGateway, service: str = "a") -> set[str]:
    status = gateway.get_service_status().get(service)
    return {each["url"] for each in status["instances"]} if status else set()


def test_instances_and_routes_come_and_go(control_plane: FakeControlPlane, serve: Serve, gateway_to: Start) -> None:
    _, server = gateway_to(discovery_interval=3600)
    assert _status(server) == 404
    address = serve(echo).address
    control_plane.add("a", address, "GET /listed")
    eventually(lambda: _status(server) == 200, "the service is reachable")
    assert _status(server, "/listed") == 200
    control_plane.add("a", address, "GET /listed", epoch=2, state="INSTANCE_STATE_DRAINING")
    eventually(lambda: _status(server) == 503, "it drains")
    control_plane.remove("a", address)
    eventually(lambda: _status(server) == 404, "it is gone")


def test_what_is_counted_survives_a_change_and_ends_with_the_epoch(
    control_plane: FakeControlPlane, gateway_to: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost.gateway.instance._FIRST_COOLDOWN", 30.0)
    dead = free_address()
    control_plane.add("a", dead)
    gateway, server = gateway_to()

    def is_well() -> bool:
        return bool(gateway.get_service_status()["a"]["status"] == "healthy")

    assert is_well()
    assert _status(server) == 503
    assert not is_well(), "it cools down"
    control_plane.add("a", dead, weight=2)
    control_plane.add("b", dead)
    eventually(lambda: _known(gateway, "b"), "the change has come")
    assert not is_well(), "the same process is still cooling down"
    control_plane.add("a", dead, epoch=2)
    eventually(is_well, "another process begins anew")


def test_what_is_known_is_served_while_the_control_plane_is_away(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    first = serve(echo)
    control_plane.add("a", first.address)
    gateway, server = gateway_to()
    control_plane.stop()
    for _ in range(3):
        assert _status(server) == 200
    assert _known(gateway) == {first.url}


def test_a_restarted_control_plane_takes_nothing_away_before_it_is_settled(
    control_plane: FakeControlPlane, serve: Serve
) -> None:
    first, second = serve(echo), serve(echo)
    control_plane.add("a", first.address, "GET /listed")
    control_plane.add("b", second.address)
    address = control_plane.url
    gateway = WaypostGateway(address, discovery_interval=0.2)
    server = serve(gateway)
    eventually(lambda: _known(gateway) and _known(gateway, "b"), "both are known")

    control_plane.stop()
    control_plane.forget()
    control_plane.settled = False
    control_plane.start()
    control_plane.add("b", second.address, epoch=2)
    eventually(lambda: control_plane.watchers > 1, "the gateway is back")
    eventually(lambda: control_plane.asked_for_status > 1, "the gateway asks whether all is known")
    assert _known(gateway) == {first.url}
    assert _status(server) == 200
    assert _status(server, "/listed") == 200

    control_plane.has_routes = False
    control_plane.settled = True
    eventually(lambda: control_plane.refused_routes > 0, "the gateway asks for the routes")
    control_plane.has_routes = True
    eventually(lambda: not _known(gateway), "what has not come back is let go, though one request failed")
    eventually(lambda: _status(server, "/listed") == 404, "with its routes")
    assert _status(server, "/b") == 200


def test_where_there_is_no_stream_everything_is_asked_for_each_interval(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.has_stream = False
    control_plane.add("a", serve(echo).address)
    _, server = gateway_to(discovery_interval=0.05)
    assert _status(server) == 200
    second = serve(echo)
    control_plane.add("b", second.address)
    eventually(lambda: _status(server, "/b") == 200, "the next poll finds it")
    control_plane.remove("b", second.address)
    eventually(lambda: _status(server, "/b") == 404, "the next poll misses it")


def test_of_several_control_planes_one_that_is_there_is_used(control_plane: FakeControlPlane, serve: Serve) -> None:
    control_plane.add("a", serve(echo).address)
    gateway = WaypostGateway([f"http://{free_address()}", control_plane.url], discovery_interval=0.1)
    server = serve(gateway)
    eventually(lambda: _known(gateway), "the service is known")
    assert _status(server) == 200


def test_without_a_control_plane_from_the_start_it_says_so_and_waits(
    control_plane: FakeControlPlane, serve: Serve
) -> None:
    control_plane.add("a", serve(echo).address)
    control_plane.stop()
    gateway = WaypostGateway(control_plane.url, discovery_interval=0.1, timeout=0.1)
    server = serve(gateway)
    answer = httpx.get(f"{server.url}/a")
    assert (answer.status_code, answer.headers["x-waypost-reason"]) == (503, "no_table")
    assert control_plane.url in answer.json()["detail"]
    control_plane.start()
    eventually(lambda: _status(server) == 200, "it finds the control plane")


def test_nobody_waits_for_a_first_table_for_longer_than_the_first() -> None:
    discovery = Discovery([Address.parse(f"http://{free_address()}")], 30.0, "")
    assert asyncio.run(discovery.first(0.01)) is None
    with pytest.raises(StopIteration) as at_once:
        discovery.first(0.01).send(None)
    assert at_once.value.value is None


def test_routes_that_were_asked_for_before_a_change_do_not_replace_those_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[asyncio.Future[dict[str, Any]]] = []
    answers = [{"routes": [{"entry": {"id": word, "path": f"/{word}"}}]} for word in ("before", "after")]

    async def answered_later(_: Address, __: str) -> dict[str, Any]:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    async def scene() -> set[str]:
        address = Address.parse(f"http://{free_address()}")
        discovery = Discovery([address], 30.0, "")
        first = asyncio.create_task(discovery._refresh(address))
        await asyncio.sleep(0)
        key = {"namespace": "default", "service": "a", "id": "a"}
        discovery._view.apply({"changed": [{"key": key, "spec": {"service": "a", "address": "127.0.0.1:9"}}]})
        second = asyncio.create_task(discovery._refresh(address))
        while not (first.done() and second.done()):
            await asyncio.sleep(0)
            # The one that was asked for last is answered first.
            for future, answer in reversed(list(zip(asked, answers, strict=False))):
                if not future.done():
                    future.set_result(answer)
                    break
        return set(discovery._routes.by_id)

    monkeypatch.setattr("waypost.gateway.discovery.document", answered_later)
    assert asyncio.run(scene()) == {"after"}


def test_an_instance_of_a_version_takes_the_requests_of_its_routes(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    old, new = serve(echo), serve(echo)
    control_plane.add("a", old.address, version="1", prefix="/a", versions=["1"])
    control_plane.add("a", new.address, version="2", prefix="/a2", versions=["2"])
    _, server = gateway_to()
    for path, expected in (("/a", old.port), ("/a2", new.port)):
        assert {httpx.get(f"{server.url}{path}").json()["port"] for _ in range(4)} == {expected}


def test_the_systems_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        read.append(make())
        return read[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    nobody = Address.parse(f"https://{free_address()}")
    for _ in range(3):
        with pytest.raises(ControlPlaneUnreachableError):
            asyncio.run(document(nobody, "/v1/routes"))
    assert len(read) <= 1, "another test may have read them before"
