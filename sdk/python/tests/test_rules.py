"""What cannot be registered is refused where it is written, and nothing that the control plane accepts."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import Cluster
from waypost import ConfigurationError, RefusedError, Registration, Service

BLANKS, LONG, UMLAUT = "two words", "a" * 129, "zürich"
REFUSED: list[tuple[str, Any, str]] = [
    *(("name", each, "1 to 63 letters") for each in ("a b", "-a", "a-", "ä", "a/b", "a" * 64, "a\n")),
    *(("namespace", each, "1 to 63 letters") for each in ("a b", "a/b", 1)),
    *(("prefix", each, "begins with '/'") for each in ("payments", "//", "/a//b", "/a/../b", "/.", "/a b", "/ä")),
    *(("prefix", f"/a{each}", "begins with '/'") for each in '?#%{}*\\"<>\n'),
    *(("prefix", each, "at most 1024") for each in ("/" + "a" * 1024, "/a" * 65, 7)),
    *(("weight", each, "from 0 .no traffic. to 65535") for each in (70_000, -1, 1.5, 1.0, "a", "", True)),
    *(("version", each, "without blanks") for each in (BLANKS, LONG, UMLAUT, 2.0)),
    *(("zone", each, "without blanks") for each in (BLANKS, LONG, UMLAUT, 2)),
    *(("tags", ["a", each], "without blanks") for each in ("", BLANKS, LONG, UMLAUT, "a\n", 2)),
    ("tags", [str(number) for number in range(65)], "at most 64"),
    *(("description", each, "at most 4096 bytes") for each in ("ä" * 2049, 7)),
    *(("metadata", {each: "a"}, "without blanks") for each in ("", BLANKS, LONG)),
    *(("metadata", {"a": each}, "at most 4096 bytes") for each in ("ä" * 2049, 7, None)),
    ("metadata", {str(number): "a" for number in range(64)}, "at most 64 entries, health_endpoint's"),
]
ACCEPTED: list[tuple[str, Any]] = [
    *(("name", each) for each in ("a", "7", "A.b_c-d", "a" * 63)),
    *(("namespace", each) for each in ("", "a.b")),
    *(("prefix", each) for each in (None, "", "/", "/a", "/a/b/", "/...", "/!$&'()+,-.:;=@[]^_`|~")),
    *(("prefix", each) for each in ("/" + "a" * 1023, "/a" * 64 + "/")),
    *(("weight", each) for each in (None, 0, 65535, "5", "+007")),
    *(("version", each) for each in ("", None, "!~", "a" * 128)),
    *(("zone", each) for each in ("", "!~", "a" * 128)),
    *(("tags", each) for each in ([], ["!~", "a" * 128], ["a"] * 64)),
    *(("description", each) for each in ("", None, "ä\n" * 1365)),
    *(("metadata", each) for each in ({}, {"a": ""}, {"a" * 128: "ä\n" * 1365}, {1: "a"})),
    ("metadata", {str(number): "a" for number in range(63)}),
]


HOSTS = ("users.internal", "a_b", "1a", "127.0.0.1", "[::1]", "a" * 63)
NO_HOSTS = ("0.0.0.0", "[::]", "a b", "1.2.3", "256.1.1.1", "a..b", "-a", "a-", "a" * 64, "ä")  # noqa: S104 (refused)


def test_what_cannot_be_registered_is_refused_at_the_decorator() -> None:
    for option, value, rule in REFUSED:
        given: dict[str, Any] = {"name": "users", option: value}
        with pytest.raises(ConfigurationError, match=rf"^@Service\(.*\): {option}.*=.* must be .*{rule}"):
            Service(**given)
    for host in NO_HOSTS:
        with pytest.raises(ConfigurationError, match=r"url = .* is no address: write http://HOST:PORT"):
            Service("users", url=f"http://{host}:80")


def test_a_zone_of_the_environment_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYPOST_ZONE", BLANKS)
    with pytest.raises(ConfigurationError, match=r"zone='two words' must be .*WAYPOST_ZONE"):
        Service("users")


def test_what_can_be_registered_is_not_refused() -> None:
    for option, value in ACCEPTED:
        given: dict[str, Any] = {"name": "users", option: value}
        Service(**given)
    for host in HOSTS:
        Service("users", url=f"http://{host}:80")


def test_the_control_plane_refuses_the_same_and_accepts_the_rest(shared_cluster: Cluster) -> None:
    for option, value in ACCEPTED:
        assert refusal(shared_cluster, sent(option, value)) == "", (option, value)
    for option, value, _ in REFUSED:
        assert refusal(shared_cluster, sent(option, value)) == "invalid_argument", (option, value)
    for host in HOSTS:
        assert refusal(shared_cluster, Registration("rules", f"{host}:80")) == "", host
    for host in NO_HOSTS:
        assert refusal(shared_cluster, Registration("rules", f"{host}:80")) == "invalid_argument", host


def sent(option: str, value: Any) -> Registration:
    """What a service with an option would register, whether it is refused before or not."""
    changed = dict(value, health_endpoint="/health") if option == "metadata" else value
    given: dict[str, Any] = {"service": "rules", {"name": "service"}.get(option, option): changed}
    return Registration(address="127.0.0.1:9", **given)


def refusal(cluster: Cluster, known: Registration) -> str:
    """Why the control plane does not register it; nothing where it does."""
    try:
        cluster.client._transport.call("POST", "/v1/instances", body={"instance": known.to_json()})
    except RefusedError as error:
        return error.code
    cluster.client.deregister(known.service, known.address, namespace=known.namespace or "default")
    return ""
