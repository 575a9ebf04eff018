"""`waypost.tapper` has Tapper's names and what they can do, and a service registers as with Tapper's own client."""

from __future__ import annotations

import importlib
import importlib.util
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import waypost.tapper
from cluster import Cluster
from waypost.model import State
from waypost.tapper import LeastConnectionsBalancer, Service, ServiceInstance, ServiceNotFoundError

if TYPE_CHECKING:
    # mypy says where one of these is no error any more.
    from waypost.tapper import NoSuchName, TapperGateway  # type: ignore[attr-defined]  # noqa: F401

    TapperGateway(health_pat="/ok")  # type: ignore[call-arg]
    TapperGateway(retries="many")  # type: ignore[arg-type]


needs_tapper = pytest.mark.skipif(
    importlib.util.find_spec("tapper") is None,
    reason="the tapper package of PyPI is not installed: pip install tyler-ag-tapper",
)

# What tyler-ag-tapper 0.1.0 exports, and what each of it has of its own.
NAMES: dict[str, set[str]] = {
    "LeastConnectionsBalancer": {"decrement", "increment", "select_instance"},
    "LoadBalancer": {"select_instance"},
    "LoadBalancerError": set(),
    "NoHealthyInstanceError": set(),
    "RandomBalancer": {"select_instance"},
    "RegistryError": set(),
    "RoundRobinBalancer": {"select_instance"},
    "Service": set(),
    "ServiceInstance": {"health_endpoint", "healthy", "last_heartbeat", "url"},
    "ServiceNotFoundError": set(),
    "TapperException": set(),
    "TapperGateway": set(),
}
ELSEWHERE = ("ServiceInfo", "Route", "RegistryBackend")


@pytest.mark.parametrize("name", NAMES)
def test_tappers_names_are_here_with_what_they_have(name: str) -> None:
    ours = getattr(waypost.tapper, name)
    assert all(hasattr(ours, member) for member in NAMES[name])
    assert name in waypost.tapper.__all__


@pytest.mark.parametrize(
    "name", [*ELSEWHERE, "InMemoryBackend", "RedisBackend", "create_registry_app", "RegistryClient"]
)
def test_names_that_are_not_here_say_where_to_go(name: str) -> None:
    with pytest.raises(ImportError, match=rf"no {name}: .*FROM_TAPPER\.md"):
        getattr(waypost.tapper, name)
    if name not in ("ServiceInfo", "Route"):
        with pytest.raises(ImportError, match=rf"no {name}: .*FROM_TAPPER\.md"):
            exec(f"from waypost.tapper.registry import {name}")  # noqa: S102 (what a user writes)
    assert not hasattr(importlib.import_module("waypost.tapper"), "anything_else")


@needs_tapper
def test_the_names_are_those_of_tappers_package() -> None:
    tapper, pydantic = importlib.import_module("tapper"), importlib.import_module("pydantic")

    def members(theirs: Any) -> set[str]:
        inherited = {name for base in (Exception, pydantic.BaseModel) for name in dir(base)}
        all_of_them = {*dir(theirs), *getattr(theirs, "model_fields", ())}
        return {name for name in all_of_them - inherited if not name.startswith("_")}

    assert {name: members(getattr(tapper, name)) for name in set(tapper.__all__) - set(ELSEWHERE)} == NAMES


def instance(state: State, **more: Any) -> ServiceInstance:
    return ServiceInstance("a", "users", "default", "h:1", 1, state=state, renewed_at="2026-11-22T17:00:59.5Z", **more)


def test_an_instance_has_what_tappers_has() -> None:
    up, down = instance(State.UP), instance(State.DOWN, metadata={"health_endpoint": "/ok"})
    assert datetime.now(timezone.utc) - up.last_heartbeat < timedelta(hours=1)
    assert down.last_heartbeat == datetime(2026, 11, 22, 17, 0, 59, tzinfo=timezone.utc)
    assert (up.health_endpoint, down.health_endpoint) == ("/health", "/ok")
    assert (up.url, up.healthy, down.healthy) == ("http://h:1", True, False)


def test_a_balancer_may_call_what_tappers_has() -> None:
    class Counting(LeastConnectionsBalancer):
        def select_instance(self, instances: list[ServiceInstance], service_name: str = "") -> ServiceInstance:
            chosen = super().select_instance(self._filter_healthy(instances), service_name)
            self.increment(chosen.url)
            self.decrement(chosen.url)
            return chosen

    up, down = instance(State.UP), instance(State.DOWN)
    assert Counting().select_instance([down, up]) is up


def test_a_service_that_is_not_found_is_named() -> None:
    with pytest.raises(waypost.tapper.TapperException) as raised:
        raise ServiceNotFoundError("users")
    assert getattr(raised.value, "service_name", None) == "users"


APP = """
from fastapi import FastAPI
from {package} import Service

app = FastAPI()

@app.get("/items/{{item:int}}")
@app.post("/items/")
@app.get("/f/{{n}}.json")
@app.get("/f/v{{n}}/{{rest:path}}")
@app.get("/hidden", include_in_schema=False)
@app.get("/health")
@app.get("/payments-old")
@app.get("/payments/new")
async def handler():
    return "here"

Service(name="{name}", version="2.1.0", url="http://{host}:80", {options})(app)
"""


@needs_tapper
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("without", 'description="All of it"'),
        ("empty", 'prefix="/"'),
        ("prefixed", 'prefix="/payments", tags=["finance", "two words", "straße", "", "x" * 129]'),
        ("slashed", 'prefix="/payments/", tags=["waypost.strip-prefix=false"]'),
        ("many", 'tags=[f"tag-{number}" for number in range(70)]'),
    ],
)
def test_a_service_registers_as_with_tappers_client(shared_cluster: Cluster, name: str, options: str) -> None:
    service = f"both-{name}"
    for package, host in (("tapper", "unchanged"), ("waypost.tapper", "changed")):
        source = APP.format(package=package, name=service, host=host, options=options)
        shared_cluster.serve(source, TAPPER_REGISTRY_URL=shared_cluster.url)
    held = {each.address: each.registration for each in shared_cluster.instances(service, 2)}
    unchanged, changed = held["unchanged:80"], held["changed:80"]

    assert set(changed.endpoints) == set(unchanged.endpoints)
    assert (changed.prefix, changed.strip_prefix) == (unchanged.prefix, unchanged.strip_prefix)
    assert (changed.tags, changed.version) == (unchanged.tags, unchanged.version)
    assert changed.description == unchanged.description


def test_one_text_for_tags_is_refused() -> None:
    with pytest.raises(waypost.ConfigurationError, match=r"write tags=\['finance'\]"):
        Service("users", tags="finance")
