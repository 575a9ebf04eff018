"""Which instance takes a request, who may pass, and what the gateway cannot be told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from gateway.harness import FakeControlPlane, Server, dial, echo, eventually
from waypost.errors import ConfigurationError
from waypost.gateway import (
    Forbidden,
    GatewayRequest,
    InstanceStatus,
    LeastConnectionsBalancer,
    LoadBalancer,
    RandomBalancer,
    RoundRobinBalancer,
    ServiceInstance,
    ServiceStatus,
    Unauthorized,
    WaypostGateway,
)
from waypost.gateway.asgi import Receive, Scope, Send

Start = Callable[..., tuple[WaypostGateway, Server]]
Serve = Callable[..., Server]


def _ports(server: Server, count: int) -> list[int]:
    with httpx.Client() as client:
        return [client.get(f"{server.url}/a").json()["port"] for _ in range(count)]


def _instance(name: str, share: float = 1.0, in_flight: int = 0, namespace: str = "default") -> ServiceInstance:
    return ServiceInstance(name, "a", namespace, f"{name}:1", 1, share=share, in_flight=in_flight)


def test_round_robin_goes_around_by_weight(control_plane: FakeControlPlane, serve: Serve, gateway_to: Start) -> None:
    servers = [serve(echo), serve(echo)]
    control_plane.add("a", servers[0].address, weight=3)
    control_plane.add("a", servers[1].address)
    control_plane.add("a", serve(echo).address, weight=0)
    _, server = gateway_to()
    assert Counter(_ports(server, 40)) == {servers[0].port: 30, servers[1].port: 10}


def test_least_connections_counts_what_is_under_way(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    async def wait(_: Scope, receive: Receive, __: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    slow, fast = serve(wait, lifespan="off"), serve(echo)
    control_plane.add("a", slow.address)
    gateway, server = gateway_to(load_balancer="least-connections", timeout=60)
    with dial(server) as held:
        held.sendall(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually(lambda: gateway.get_service_status()["a"]["instances"][0]["in_flight"] == 1, "one is under way")
        control_plane.add("a", fast.address)
        eventually(lambda: len(gateway.get_service_status()["a"]["instances"]) == 2, "the second is known")
        assert set(_ports(server, 10)) == {fast.port}


def test_among_equals_least_connections_goes_around() -> None:
    balancer = LeastConnectionsBalancer()
    instances = [_instance("a"), _instance("b"), _instance("busy", in_flight=1)]
    assert sorted(balancer.select_instance(instances, "s").id for _ in range(4)) == ["a", "a", "b", "b"]
    by_weight = [_instance("a", share=1, in_flight=1), _instance("b", share=4, in_flight=2)]
    assert balancer.select_instance(by_weight, "s").id == "b"


def test_random_goes_by_weight() -> None:
    balancer = RandomBalancer()
    instances = [_instance("a", share=9), _instance("b")]
    drawn = Counter(balancer.select_instance(instances).id for _ in range(2000))
    assert 1600 < drawn["a"] < 1990


def test_round_robin_remembers_those_that_were_away() -> None:
    balancer = RoundRobinBalancer()
    a, b = _instance("a"), _instance("b")
    assert [balancer.select_instance(each, "s").id for each in ([a, b], [a], [a, b], [a, b])][-1] in ("a", "b")
    assert Counter(balancer.select_instance([a, b], "s").id for _ in range(100)) == {"a": 50, "b": 50}


def test_round_robin_keeps_services_apart_whose_names_are_the_same() -> None:
    balancer = RoundRobinBalancer()
    services = [[_instance(name, namespace=namespace) for name in "ab"] for namespace in ("default", "staging")]
    chosen = [[balancer.select_instance(instances, "s").id for instances in services] for _ in range(10)]
    for ids in zip(*chosen, strict=True):
        assert Counter(ids) == {"a": 5, "b": 5}


class Last(LoadBalancer):
    """As Tapper's README writes one."""

    def select_instance(self, instances):  # type: ignore[no-untyped-def]
        return instances[-1]


class First(LoadBalancer):
    """The same with types, which mypy accepts."""

    def select_instance(self, instances: list[ServiceInstance]) -> ServiceInstance:
        return instances[0]


class Named(LoadBalancer):
    """One that looks at the service."""

    def select_instance(self, instances: list[ServiceInstance], service_name: str = "") -> ServiceInstance:
        return instances[0] if service_name == "a" else instances[-1]


@pytest.mark.parametrize(("balancer", "at"), [(Last(), -1), (First(), 0), (Named(), 0)])
def test_a_balancer_of_ones_own_chooses(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start, balancer: LoadBalancer, at: int
) -> None:
    servers = sorted((serve(echo) for _ in range(3)), key=lambda server: server.address)
    for each in servers:
        control_plane.add("a", each.address)
    _, server = gateway_to(load_balancer=balancer)
    assert set(_ports(server, 5)) == {servers[at].port}


def test_a_choice_that_is_none_is_an_internal_error(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    class Stubborn(LoadBalancer):
        def select_instance(self, instances: list[ServiceInstance], service_name: str = "") -> ServiceInstance:
            return _instance(f"elsewhere, not at {instances[0].id}, for {service_name}")

    control_plane.add("a", serve(echo).address)
    _, server = gateway_to(load_balancer=Stubborn())
    answer = httpx.get(f"{server.url}/a")
    assert (answer.status_code, answer.headers["x-waypost-reason"]) == (500, "internal")
    assert "elsewhere" in answer.json()["detail"]


def test_a_balancer_that_fails_is_an_internal_error_and_named_in_the_log(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class Thirteenth(LoadBalancer):
        def select_instance(self, instances: list[ServiceInstance], service_name: str = "") -> ServiceInstance:  # noqa: ARG002
            return instances[12]

    control_plane.add("a", serve(echo).address)
    _, server = gateway_to(load_balancer=Thirteenth())
    answer = httpx.get(f"{server.url}/a")
    assert (answer.status_code, answer.headers.get("x-waypost-reason")) == (500, "internal")
    assert "log" in answer.json()["detail"]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "waypost.gateway"]
    assert "Thirteenth" in said
    assert "IndexError('list index out of range')" in said


def _by_token(request: GatewayRequest) -> Mapping[str, str] | None:
    said = request.header("Authorization")
    if said is None:
        raise Unauthorized("send a token", scheme='Bearer realm="shop"')
    if said == "Bearer bad":
        raise Forbidden(f"{request.service} is not for you")
    if said == "Bearer broken":
        raise KeyError(said)
    return {"X-User": "ann"} if said == "Bearer ann" else None


async def _by_token_later(request: GatewayRequest) -> Mapping[str, str] | None:
    return _by_token(request)


@pytest.mark.parametrize("provider", [_by_token, _by_token_later])
def test_an_auth_provider_lets_pass_refuses_and_adds(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start, provider: Any
) -> None:
    control_plane.add("a", serve(echo).address)
    _, server = gateway_to(auth_provider=provider)

    def get(token: str | None, path: str = "/a") -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{server.url}{path}", headers={**headers, "x-user": "mallory"})

    anonymous = get(None)
    assert (anonymous.status_code, anonymous.headers["x-waypost-reason"]) == (401, "unauthorized")
    assert anonymous.headers["www-authenticate"] == 'Bearer realm="shop"'
    assert get(None, "/nothing").status_code == 401, "what there is is not told to everybody"
    forbidden = get("bad")
    assert (forbidden.status_code, forbidden.json()["detail"]) == (403, "a is not for you")
    assert get("broken").status_code == 500, "what was not checked never passes"
    users = [value for name, value in get("ann").json()["headers"] if name == "x-user"]
    assert users == ["ann"], "a client cannot say who it is"


def test_an_auth_provider_takes_fields_away(control_plane: FakeControlPlane, serve: Serve, gateway_to: Start) -> None:
    def anonymous(_: GatewayRequest) -> dict[str, str | None]:
        return {"X-User": None, "x-nobody": None, "x-empty": ""}

    control_plane.add("a", serve(echo).address)
    _, server = gateway_to(auth_provider=anonymous)
    answer = httpx.get(f"{server.url}/a", headers=[("x-user", "admin"), ("X-USER", "root"), ("x-kept", "yes")])
    got = {name: value for name, value in answer.json()["headers"] if name.startswith("x-") and "forw" not in name}
    assert got == {"x-kept": "yes", "x-empty": ""}


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ({"x-user": "Łukasz"}, "x-user that a header field cannot carry"),
        ({"x-user": "a\r\nx-admin: yes"}, "x-user that a header field cannot carry"),
        ({"x-user": 7}, "x-user that a header field cannot carry"),
        ({"x user": "ann"}, "'x user', which is no name"),
    ],
)
def test_a_field_that_an_auth_provider_cannot_add_is_said_in_the_log(
    gateway_to: Start, caplog: pytest.LogCaptureFixture, returned: Any, says: str
) -> None:
    _, server = gateway_to(auth_provider=lambda _: returned)
    answer = httpx.get(f"{server.url}/a")
    assert (answer.status_code, answer.headers["x-waypost-reason"]) == (500, "internal")
    assert says in caplog.text


def test_an_auth_provider_is_asked_before_the_gateway_says_which_services_there_are(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def provider(request: GatewayRequest) -> None:
        asked.append((request.method, request.path, request.service))
        if request.header("authorization") is None:
            raise Unauthorized

    control_plane.add("a", serve(echo).address)
    _, server = gateway_to(auth_provider=provider, health_path="/health")
    anonymous = httpx.get(f"{server.url}/health")
    assert (anonymous.status_code, anonymous.headers["x-waypost-reason"]) == (401, "unauthorized")
    assert "services" not in anonymous.json()
    known = httpx.get(f"{server.url}/health", headers={"authorization": "Bearer ann"})
    assert set(known.json()["services"]) == {"a"}
    assert asked == [("GET", "/health", None)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_balancer": "round_robin"}, "did you mean 'round-robin'"),
        ({"load_balancer": "leastconnections"}, "did you mean 'least-connections'"),
        ({"load_balancer": "magic"}, "'round-robin', 'random', 'least-connections'"),
        ({"load_balancer": Last}, r"pass an instance: Last\(\)"),
        ({"load_balancer": object()}, "subclass of LoadBalancer"),
        ({"timeout": 0}, "timeout=0 must be a number above 0"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"discovery_interval": -1}, "discovery_interval"),
        ({"retries": -1}, "retries"),
        ({"auth_provider": "basic"}, "AuthProvider"),
        ({"registry_url": "ftp://registry"}, "registry"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WaypostGateway(**options)


def test_a_balancer_that_cannot_be_called_is_refused() -> None:
    class Wrong(LoadBalancer):
        def select_instance(self) -> ServiceInstance:  # type: ignore[override]
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match=r"must take \(instances\) or \(instances, service_name\)"):
        WaypostGateway(load_balancer=Wrong())


@pytest.mark.parametrize("name", ["WAYPOST_REGISTRY_URL", "TAPPER_REGISTRY_URL", "TAPER_REGISTRY_URL"])
def test_the_environment_says_where_the_control_plane_is(
    control_plane: FakeControlPlane, serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for each in ("WAYPOST_REGISTRY_URL", "TAPPER_REGISTRY_URL", "TAPER_REGISTRY_URL"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, control_plane.url)
    control_plane.add("a", serve(echo).address)
    gateway = WaypostGateway()
    server = serve(gateway)
    eventually(lambda: "a" in gateway.get_service_status(), "the service is known")
    assert httpx.get(f"{server.url}/a").status_code == 200


def test_the_status_can_be_written_as_json(control_plane: FakeControlPlane, serve: Serve, gateway_to: Start) -> None:
    address = serve(echo).address
    control_plane.add("a", address, version="1.2.0")
    control_plane.add("a", "127.0.0.1:9", state="INSTANCE_STATE_DOWN")
    gateway, _ = gateway_to()
    said = gateway.get_service_status()
    assert set(said["a"]) == ServiceStatus.__required_keys__
    assert all(set(each) == InstanceStatus.__required_keys__ for each in said["a"]["instances"])
    status = json.loads(json.dumps(said))
    assert (status["a"]["status"], status["a"]["versions"]) == ("degraded", ["1.2.0"])
    assert {each["url"]: each["state"] for each in status["a"]["instances"]} == {
        f"http://{address}": "up",
        "http://127.0.0.1:9": "down",
    }
