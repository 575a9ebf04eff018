"""Mounted in an app, or being the app: it starts and stops by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.middleware.base import BaseHTTPMiddleware
from websockets.sync.client import connect

from gateway.harness import FakeControlPlane, Server, answering, ask, echo, eventually
from waypost.gateway import WaypostGateway

Serve = Callable[..., Server]


def _app(gateway: WaypostGateway, path: str = "/", **options: Any) -> FastAPI:
    """The gateway of Tapper's README: what the app declares stands below the mount."""
    app = FastAPI(**options)
    app.mount(path, gateway)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "healthy", "services": gateway.get_service_status()}

    @app.websocket("/own/{name}")
    async def own(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        await websocket.send_text(name)
        await websocket.close()

    return app


def test_it_starts_with_the_first_request_and_the_apps_own_routes_come_first(
    control_plane: FakeControlPlane, serve: Serve
) -> None:
    control_plane.add("a", serve(echo).address, "GET /health", "GET /own/x")
    server = serve(_app(WaypostGateway(control_plane.url)))

    health = httpx.get(f"{server.url}/health").json()
    assert health["services"]["a"]["status"] == "healthy"
    assert httpx.get(f"{server.url}/a/x").json()["path"] == "/x"
    assert httpx.get(f"{server.url}/own/x").json()["path"] == "/own/x"
    with connect(f"ws://{server.address}/own/me") as client:
        assert client.recv(timeout=20) == "me"


def test_it_may_be_mounted_below_a_path(control_plane: FakeControlPlane, serve: Serve) -> None:
    control_plane.add("a", serve(echo).address)
    for options in ({}, {"root_path": "/behind"}):
        server = serve(_app(WaypostGateway(control_plane.url), "/api/v1"), **options)
        assert httpx.get(f"{server.url}/api/v1/a/x%2Fy?z").json()["path"] == "/x%2Fy"
        assert httpx.get(f"{server.url}/a/x").status_code == 404
        assert httpx.get(f"{server.url}/health").json()["status"] == "healthy"


def test_it_starts_and_stops_with_an_app_that_says_so(control_plane: FakeControlPlane, serve: Serve) -> None:
    control_plane.add("a", serve(echo).address)
    gateway = WaypostGateway(control_plane.url)
    server = serve(_app(gateway, lifespan=gateway.lifespan), lifespan="on")
    assert set(gateway.get_service_status()) == {"a"}, "it is there before the first request"
    server.stop()
    assert gateway.get_service_status() == {}
    eventually(lambda: control_plane.watching == 0, "nobody listens any more")


def test_the_health_path_is_its_own_where_the_app_has_none(control_plane: FakeControlPlane, serve: Serve) -> None:
    control_plane.add("a", serve(echo).address, "GET /health")
    server = serve(WaypostGateway(control_plane.url, health_path="/health"))
    assert httpx.get(f"{server.url}/health").json()["services"]["a"]["status"] == "healthy"
    without = serve(WaypostGateway(control_plane.url))
    assert httpx.get(f"{without.url}/health").json()["path"] == "/health"


def test_the_health_path_stands_below_the_mount(control_plane: FakeControlPlane, serve: Serve) -> None:
    control_plane.add("a", serve(echo).address)
    for options in ({}, {"root_path": "/behind"}):
        app = FastAPI()
        app.mount("/api", WaypostGateway(control_plane.url, health_path="/health"))
        server = serve(app, **options)
        assert httpx.get(f"{server.url}/api/health").json()["services"]["a"]["status"] == "healthy"
        assert httpx.get(f"{server.url}/health").status_code == 404


def test_each_event_loop_has_its_own(control_plane: FakeControlPlane, serve: Serve) -> None:
    # Starlette's test client runs each request in a new loop.
    control_plane.add("a", serve(echo).address)
    client = TestClient(_app(WaypostGateway(control_plane.url)))
    for _ in range(3):
        assert client.get("/a/x").json()["path"] == "/x"


def test_what_breaks_off_does_so_through_middleware(control_plane: FakeControlPlane, serve: Serve) -> None:
    # Starlette's BaseHTTPMiddleware would make a clean end of an app that just returns.
    half = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    with answering(half) as instance:
        control_plane.add("a", instance.address)
        app = _app(WaypostGateway(control_plane.url))
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
        got = ask(serve(app), b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert b"half" in got
    assert not got.endswith(b"0\r\n\r\n")


def test_no_other_kind_of_scope_is_taken() -> None:
    gateway = WaypostGateway("http://127.0.0.1:1")

    async def never(*_: object) -> Any:
        raise NotImplementedError

    with pytest.raises(RuntimeError, match="not carrier-pigeon"):
        asyncio.run(gateway({"type": "carrier-pigeon"}, never, never))


_PROGRAM = """
from fastapi import FastAPI
from waypost.gateway import WaypostGateway

gateway = WaypostGateway()
app = FastAPI()
app.mount("/", gateway)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["program:app", "program:gateway"])
def test_a_server_ends_in_silence(control_plane: FakeControlPlane, serve: Serve, tmp_path: Path, target: str) -> None:
    control_plane.add("a", serve(echo).address)
    (tmp_path / "program.py").write_text(_PROGRAM)
    environment = {**os.environ, "WAYPOST_REGISTRY_URL": control_plane.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-X", "dev", "-m", "uvicorn", target, "--port", "0"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path, env=environment)
    try:
        started = eventually(lambda: log.read_text().partition("running on ")[2], "it listens")
        assert httpx.get(f"{started.split()[0]}/a").status_code == 200
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    for word in ("Traceback", "ERROR", "Warning", "destroyed"):
        assert word not in said, said
