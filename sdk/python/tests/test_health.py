"""What the health endpoint finds when it is asked within the process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request

from waypost import Service
from waypost.service.asgi import HealthCheck, Scope, ServiceMiddleware
from waypost.service.lifecycle import Lifecycle


@contextlib.asynccontextmanager
async def on_the_app(app: FastAPI) -> AsyncIterator[None]:
    app.state.db = "there"
    yield


@contextlib.asynccontextmanager
async def yielded(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"db": "there"}


async def from_the_app(request: Request) -> str:
    return str(request.app.state.db)


async def from_the_request(request: Request) -> str:
    return str(request.state.db)


@pytest.mark.parametrize(
    ("lifespan", "health"), [(on_the_app, from_the_app), (yielded, from_the_request)], ids=["app.state", "yielded"]
)
def test_the_health_endpoint_finds_what_the_lifespan_has_left(
    monkeypatch: pytest.MonkeyPatch, lifespan: Any, health: Any
) -> None:
    checks: list[HealthCheck] = []
    monkeypatch.setattr(Lifecycle, "start", lambda _, __, check, **___: checks.append(check))
    monkeypatch.setattr(ServiceMiddleware, "_stop", lambda _: asyncio.sleep(0))
    app = Service(name="users", heartbeat_interval=0.5)(FastAPI(lifespan=lifespan))
    app.add_api_route("/health", health)

    async def scene() -> tuple[bool, str] | None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        said: asyncio.Queue[Any] = asyncio.Queue()
        serving = asyncio.ensure_future(app(scope, heard.get, said.put))
        await heard.put({"type": "lifespan.startup"})
        assert (await said.get())["type"] == "lifespan.startup.complete"
        (check,) = checks
        answer = None
        while answer is None:
            await asyncio.sleep(0)
            answer = check.poll()
        await heard.put({"type": "lifespan.shutdown"})
        await serving
        return answer

    assert asyncio.run(asyncio.wait_for(scene(), 60)) == (True, "")


def test_an_endpoint_that_is_named_for_a_wsgi_app_is_said_not_to_be_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Lifecycle, "start", lambda _: None)
    for service in (Service("users"), Service("users", health_endpoint=None)):
        service.wsgi(lambda _environ, _start: [])
    assert caplog.messages == []
    Service("users", health_endpoint="/health").wsgi(lambda _environ, _start: [])
    assert "health_endpoint='/health' is only written into the metadata" in caplog.text
