"""What stands around an ASGI app, when it is looked at from without.

An app whose lifespan has not begun: in a test that is as it should be, under a server it is not, and said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from waypost import Service

UNSERVED = "is not registered, though it is served"


@pytest.fixture
def app() -> Any:
    return Service(name="users", registry_url="http://127.0.0.1:1")(FastAPI())


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, int]]:
    """A port at which the process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


async def ask(app: Any, server: object) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "server": server}
    await app(scope, receive, send)


def test_an_app_that_is_wrapped_is_asked_like_the_app_itself() -> None:
    inner = FastAPI(title="inner")
    app = Service(name="users", registry_url="http://127.0.0.1:1").asgi(inner)
    app.state.pool = "a pool"
    assert (app.title, inner.state.pool) == ("inner", "a pool")
    with pytest.raises(AttributeError, match="'FastAPI' object has no attribute 'nothing'"):
        app.nothing  # noqa: B018


@pytest.mark.usefixtures("elsewhere")
def test_a_test_client_that_begins_no_lifespan_is_no_server(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            assert (await client.get("/")).status_code == 404

    asyncio.run(scene())
    for server in (("testserver", 80), None):  # the first is Starlette's
        asyncio.run(ask(app, server))
    assert UNSERVED not in caplog.text


def test_a_server_that_begins_no_lifespan_is_warned_of_once(
    app: Any, elsewhere: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "waypost")
    for server in (("testserver", 80), ("0.0.0.0", elsewhere[1]), elsewhere):  # noqa: S104 (read, not bound)
        asyncio.run(ask(app, server))
    assert caplog.text.count(UNSERVED) == 1


def test_one_at_a_unix_socket_is_warned_of_too(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)  # its path may be too long for a socket
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("socket")
        listener.listen()
        asyncio.run(ask(app, ("socket", None)))
    assert UNSERVED in caplog.text
