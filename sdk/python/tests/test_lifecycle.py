"""What is taken for the service's address, and what is not: under evidence that is written down here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from waypost.service.find_listener import Evidence
from waypost.service.lifecycle import Lifecycle
from waypost.service.listener import Listener
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
