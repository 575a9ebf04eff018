"""The gateway as an ASGI app: what it is told, how it starts and stops, and the way of a request through it.

It starts by itself: with the server where it is the app, with the first request where it is mounted in one (mounted
apps are not told when a server starts). All that runs belongs to the event loop it was started in.

Deliberately absent: declared routes, policies, HTTP/2, gRPC, speed. They are the proxy's; see this package's docstring.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence

from waypost.errors import ConfigurationError, WaypostError
from waypost.gateway.asgi import Receive, Scope, Send
from waypost.gateway.auth import AuthProvider
from waypost.gateway.balancer import LoadBalancer, choice
from waypost.gateway.discovery import Discovery
from waypost.gateway.forward import Exchange, Limits
from waypost.gateway.host import own_route
from waypost.gateway.pool import Pool
from waypost.gateway.problem import Reason, Refusal
from waypost.gateway.table import ServiceStatus, Table
from waypost.gateway.target import checked, path_of, target_of
from waypost.gateway.websocket import Tunnel
from waypost.transport import addresses

_log = logging.getLogger("waypost.gateway")

_PAUSE = 300.0


class WaypostGateway:
    """An ASGI app that forwards each request to the service that answers its path.

    - `registry_url`: the control plane's HTTP address, or several, in a list or with commas. `None` means
      WAYPOST_REGISTRY_URL, TAPPER_REGISTRY_URL or TAPER_REGISTRY_URL, or else http://127.0.0.1:7401.
    - `discovery_interval`: changes come as they happen; where that is not possible, the control plane is asked each
      so many seconds. It is also the longest wait before another attempt to reach it.
    - `timeout`: how many seconds an instance may take to begin its answer. Bodies may take as long as they move.
    - `load_balancer`: "round-robin", "random", "least-connections", or an instance of a subclass of `LoadBalancer`.
    - `auth_provider`: see `AuthProvider`.
    - `namespace`: only this namespace's services; empty means all.
    - `retries`: how many further instances a request is sent to where that is safe.
    - `health_path`: a path, below where the gateway is mounted, that is answered with `get_service_status()`, unless
      the app it is mounted in does that itself. An `auth_provider` is asked first.

    Raises ConfigurationError for what makes no sense.
    """

    def __init__(
        self,
        registry_url: str | Sequence[str] | None = None,
        discovery_interval: float = 30,
        timeout: float = 5,
        load_balancer: str | LoadBalancer = "round-robin",
        auth_provider: AuthProvider | None = None,
        *,
        namespace: str = "",
        retries: int = 2,
        health_path: str | None = None,
    ) -> None:
        _check_number("discovery_interval", discovery_interval, above=0)
        _check_number("timeout", timeout, above=0)
        _check_number("retries", retries, above=-1)
        if auth_provider is not None and not callable(auth_provider):
            raise ConfigurationError(
                f"auth_provider={auth_provider!r} must be callable with a GatewayRequest; see AuthProvider",
            )
        self._control_planes = addresses(registry_url)
        self._interval = float(discovery_interval)
        self._limits = Limits(answer=float(timeout), pause=_PAUSE, retries=retries)
        self._choose = choice(load_balancer)
        self._auth = auth_provider
        self._namespace = namespace
        self._health_path = health_path
        self._running: _Running | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._follow_lifespan(receive, send)
            return
        if kind not in ("http", "websocket"):
            raise RuntimeError(f"the gateway forwards http and websocket, not {kind}")
        running = self._start()
        table = await running.discovery.first(self._limits.answer)
        if await own_route(self, scope, receive, send):
            return
        if kind == "websocket":
            await receive()  # websocket.connect
        try:
            if kind == "http" and self._health_path is not None and path_of(scope) == self._health_path:
                await checked(self._auth, scope, self._health_path, None)
                await _say_health(self.get_service_status(), scope, send)
                return
            await self._forward(table, running, scope, receive, send)
        except Refusal as refusal:
            await refusal.answer(scope, send)

    def get_service_status(self) -> dict[str, ServiceStatus]:
        """Each service by name: `{"users": {"status": "healthy", "versions": ["1.0.0"], "instances": [...]}}`.

        `status` is `healthy` where all instances take requests, `degraded` where some do, `down` where none does.
        Nothing is known yet before the gateway has started.
        """
        if self._running is None:
            with contextlib.suppress(RuntimeError):
                self._start()
        table = self._running.discovery.table if self._running is not None else None
        return table.status() if table is not None else {}

    async def start(self) -> None:
        """Starts, and waits for a first table, for `timeout` seconds at most. It starts by itself as well."""
        if await self._start().discovery.first(self._limits.answer) is None:
            _log.warning("the gateway starts without a table: no control plane has answered yet")

    async def close(self) -> None:
        """Stops following the control plane and closes idle connections."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """For `FastAPI(lifespan=gateway.lifespan)`: starts with the app that it is mounted in, and stops with it."""
        await self.start()
        try:
            yield
        finally:
            await self.close()

    def _start(self) -> _Running:
        loop = asyncio.get_running_loop()
        if self._running is None or self._running.loop is not loop:
            self._running = _Running(loop, Discovery(self._control_planes, self._interval, self._namespace))
        return self._running

    async def _forward(
        self, table: Table | None, running: _Running, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if table is None:
            why = running.discovery.error or "it has not answered yet"
            raise Refusal(Reason.NO_TABLE, f"nothing is known of any service: {why}")
        target = await target_of(scope, table, self._auth)
        try:
            if scope["type"] == "websocket":
                await Tunnel(scope, receive, send, target).run(table, self._choose, self._limits)
            else:
                await Exchange(scope, receive, send, target).run(table, running.pool, self._choose, self._limits)
        except WaypostError as error:
            _log.error("%s", error)
            raise Refusal(Reason.INTERNAL, str(error)) from error

    async def _follow_lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


class _Running:
    """What belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, discovery: Discovery) -> None:
        self.loop = loop
        self.discovery = discovery
        self.pool = Pool()
        self._task = loop.create_task(discovery.run(), name="waypost-gateway-discovery")

    async def stop(self) -> None:
        self.pool.close()
        if self.loop is not asyncio.get_running_loop():
            return  # that loop is over, and with it all that ran there
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


async def _say_health(services: dict[str, ServiceStatus], scope: Scope, send: Send) -> None:
    body = json.dumps({"status": "healthy", "services": services}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body, "more_body": False})


def _check_number(name: str, value: object, above: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > above:
        rule = "above 0" if above == 0 else "that is not negative"
        raise ConfigurationError(f"{name}={value!r} must be a number {rule}")
