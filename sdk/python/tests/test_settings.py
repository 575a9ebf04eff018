"""What the options and the environment may be, and what is said to the rest."""

from __future__ import annotations

from typing import Any

import pytest

from waypost import ConfigurationError, Registration, Service
from waypost.model import InstanceKey, duration, seconds
from waypost.service.settings import address, checked
from waypost.transport import addresses

GIVEN: dict[str, Any] = {
    "name": "users",
    "tags": None,
    "url": None,
    "heartbeat_interval": None,
    "zone": None,
    "health_endpoint": "/health",
    "drain_timeout": 20.0,
    "environment": {},
}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("name", "", "needs a name"),
        ("tags", "canary", r"write tags=\['canary'\]"),
        ("url", "nonsense", "HOST:PORT"),
        ("url", "http://host:99999", "HOST:PORT"),
        ("heartbeat_interval", 0, "1/3 to 1200 seconds"),
        ("url", 8000, "url=8000 must be a text"),
        ("tags", 5, "tags=5 must be a list"),
        ("metadata", ["owner"], r"metadata=\['owner'\] must be a dict"),
        ("heartbeat_interval", 5000, "1/3 to 1200 seconds"),
        ("heartbeat_interval", "30", "heartbeat_interval='30' must be a number"),
        ("heartbeat_interval", True, "must be a number"),
        ("health_endpoint", "health", "begins with a slash"),
        ("health_endpoint", True, "health_endpoint=True must be a path"),
        ("drain_timeout", 0, "more than 0"),
        ("drain_timeout", "20", "drain_timeout='20' must be a number"),
        ("drain_timeout", float("nan"), "more than 0"),
        ("drain_timeout", float("inf"), "more than 0"),
    ],
)
def test_an_option_that_is_wrong_is_named(option: str, value: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        checked(**{**GIVEN, option: value})


def test_the_environment_fills_what_is_not_given() -> None:
    environment = {"WAYPOST_ADDRESS": "http://10.0.0.5:80", "WAYPOST_ZONE": "a"}
    settled = checked(**{**GIVEN, "environment": environment})
    assert (settled["address"], settled["zone"]) == ("10.0.0.5:80", "a")
    settled = checked(**{**GIVEN, "environment": environment, "url": "http://[::1]:81", "zone": "b"})
    assert (settled["address"], settled["zone"]) == ("[::1]:81", "b")
    with pytest.raises(ConfigurationError, match="WAYPOST_ADDRESS = 'here'"):
        checked(**{**GIVEN, "environment": {"WAYPOST_ADDRESS": "here"}})


@pytest.mark.parametrize(
    ("text", "said"),
    [("http://users", "users:80"), ("https://users", "users:443"), ("users:1", "users:1"), ("http://u:2/x", "u:2")],
)
def test_an_address_may_be_a_url(text: str, said: str) -> None:
    assert address(text, "url") == said


def test_the_control_plane_comes_from_the_first_variable_that_is_set() -> None:
    environment = {"TAPER_REGISTRY_URL": "http://c:3", "TAPPER_REGISTRY_URL": "http://b:2"}
    assert [str(each) for each in addresses(None, environment)] == ["http://b:2"]
    assert [str(each) for each in addresses(None, {})] == ["http://127.0.0.1:7401"]
    assert [str(each) for each in addresses("a:1, http://b:2", environment)] == ["http://a:1", "http://b:2"]


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:x", "http://a/?b"])
def test_what_is_no_control_plane_is_refused_where_it_is_written(url: str) -> None:
    with pytest.raises(ConfigurationError, match="http://host:port"):
        Service(name="users", registry_url=url).wsgi(lambda _environ, _start: [])


def test_numbers_and_durations_are_read_as_the_contract_writes_them() -> None:
    assert (seconds("1.5s"), seconds("10s"), seconds("ten")) == (1.5, 10.0, None)
    assert (duration(10.0), duration(1.5), duration(1 / 3)) == ("10s", "1.5s", "0.333333333s")
    assert Registration("users", "h:1").to_json() == {
        "service": "users",
        "namespace": "default",
        "address": "h:1",
        "protocol": "PROTOCOL_HTTP1",
    }
    assert Registration("users", "h:1", prefix="", weight=0).to_json()["prefix"] == ""
    assert InstanceKey.from_json({"service": "users", "id": "a"}).namespace == "default"
