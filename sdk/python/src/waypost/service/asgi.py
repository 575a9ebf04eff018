"""What stands around an ASGI app: it begins with the app's lifespan, counts requests, and asks for the app's health."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from waypost.service.lifecycle import Lifecycle
from waypost.service.listener import Name, bound, listeners

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("waypost")

# The server has stopped accepting when it ends the lifespan: what can be waited for is in flight elsewhere.
_LATE_LEAVE = 5.0
_SERVER_ERROR = 500
_OK = range(200, 400)


class ServiceMiddleware:
    """An ASGI app around another one, which is registered while it is served."""

    def __init__(self, app: App, lifecycle: Lifecycle, health_endpoint: str | None, interval: float) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._health_endpoint = health_endpoint
        self._interval = interval
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        lifecycle = self._lifecycle
        server = scope.get("server")
        if not lifecycle.started and not self._warned and server and _listens_at(*server):
            self._warned = True
            log.warning(
                "%s is not registered, though it is served: the lifespan of its app has not begun. An app that is "
                "mounted in another one has none: put @Service on the outermost app. A server may be told to run none "
                "(uvicorn --lifespan off): let it run",
                lifecycle.name,
            )
        if server:
            lifecycle.port = server[1]
        if scope.get("http_version") == "1.1":
            send = _ending_with(lifecycle, send)
        lifecycle.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            lifecycle.in_flight -= 1

    def __getattr__(self, name: str) -> Any:
        """What is asked of the app beside ASGI (`app.state`, `app.router`) is the app's."""
        return getattr(self._app, name)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = False
        before = bound()

        async def hears() -> Message:
            nonlocal asked
            asked = True
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._stop()
            return message

        async def says(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._start(scope, before)
            await send(message)

        try:
            await self._app(scope, hears, says)
        except Exception:
            if asked:
                raise
            log.debug("the app does not speak the lifespan protocol", exc_info=True)
        if not asked:
            await hears()
            await says({"type": "lifespan.startup.complete"})
            await hears()
            await send({"type": "lifespan.shutdown.complete"})

    def _start(self, lifespan: Scope, before: frozenset[Name]) -> None:
        loop = asyncio.get_running_loop()
        health = None
        if self._health_endpoint:
            health = HealthCheck(self._app, self._health_endpoint, self._interval, loop, lifespan)
        self._lifecycle.start(loop, health, before=before, hint=_hint())

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, functools.partial(self._lifecycle.stop, _LATE_LEAVE))


def _listens_at(host: str, port: int | None) -> bool:
    """Whether a request has come in at a socket, and not from a test. A Unix socket is its path, without a port."""
    return any(each.port == port if port else each.name == (host, 0) for each in listeners())


def _hint() -> int | None:
    """The port that uvicorn is to bind: its lifespan's task knows, whatever stands around the app.

    Where it is handed sockets its port means nothing; that cannot be seen from here.
    """
    task = asyncio.current_task()
    frame = getattr(task and task.get_coro(), "cr_frame", None)
    config = getattr(frame and frame.f_locals.get("self"), "config", None)
    port = getattr(config, "port", None)
    binds = getattr(config, "fd", None) is None and getattr(config, "uds", None) is None
    return port if isinstance(port, int) and port and binds else None


def _ending_with(lifecycle: Lifecycle, send: Send) -> Send:
    """Tells the client of an answer that begins while this worker ends that nothing more comes on its connection."""

    async def says(message: Message) -> None:
        if message["type"] == "http.response.start" and lifecycle.hands_over:
            others = [field for field in message.get("headers", ()) if field[0].lower() != b"connection"]
            message = {**message, "headers": [*others, (b"connection", b"close")]}
        await send(message)

    return says


class HealthCheck:
    """Asks the app's health endpoint within the process: no connection, no line in the access log.

    An answer of 5xx takes the instance out of rotation, one of 2xx or 3xx puts it back. No answer, or another one (404:
    there is no such endpoint), says nothing: a busy loop is no failing check. As in any request, the endpoint finds
    what the lifespan has left for it: the app with its state, and the state that it has yielded.
    """

    def __init__(
        self, app: App, path: str, interval: float, loop: asyncio.AbstractEventLoop, lifespan: Scope | None = None
    ) -> None:
        self._app = app
        self._path = path
        self._interval = interval
        self._loop = loop
        self._lifespan: Scope = {} if lifespan is None else lifespan
        self._asked_at = 0.0
        self._asked: concurrent.futures.Future[int] | None = None

    def poll(self) -> tuple[bool, str] | None:
        """What it has answered last, once; never waits."""
        asked = self._asked
        if asked is not None and asked.done():
            self._asked = None
            return self._said(asked)
        now = time.monotonic()
        if asked is None and now >= self._asked_at + self._interval and not self._loop.is_closed():
            self._asked_at = now
            self._asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        return None

    def _said(self, asked: concurrent.futures.Future[int]) -> tuple[bool, str] | None:
        if asked.cancelled():
            return None
        error = asked.exception()
        if error is not None:
            return False, f"GET {self._path} failed: {type(error).__name__}: {error}"
        status = asked.result()
        if status >= _SERVER_ERROR:
            return False, f"GET {self._path} answered {status}"
        return (True, "") if status in _OK else None

    async def _ask(self) -> int:
        status = 0
        ended = asyncio.Event()
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"user-agent", b"waypost-python")],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
            "state": dict(self._lifespan.get("state") or {}),
        }
        if "app" in self._lifespan:  # Starlette sets it above its middleware, which is called here
            scope["app"] = self._lifespan["app"]
        try:
            await self._app(scope, receive, send)
        finally:
            ended.set()
        return status
