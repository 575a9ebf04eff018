"""Servers in threads, a control plane that says what a test wants, and clients that see every byte.

Deliberately absent: mocks. What is tested is a gateway behind a real ASGI server, in front of real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ports import free_port
from waypost.gateway.asgi import Receive, Scope, Send

DEADLINE = 60.0
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def eventually(holds: Callable[[], object], what: str, within: float = DEADLINE) -> Any:
    """Waits until something holds, and returns it."""
    end = time.monotonic() + within
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(0.01)


class Server:
    """An ASGI app behind uvicorn, in a thread, at a port of its own."""

    def __init__(self, app: App, lifespan: str = "auto", listen_port: int = 0, **options: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", listen_port))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        settings: dict[str, Any] = {"log_level": "critical", "server_header": False, "date_header": False, **options}
        self._server = uvicorn.Server(uvicorn.Config(app, lifespan=lifespan, **settings))  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started or not self._thread.is_alive(), "the server starts")

    def stop(self) -> None:
        """Ends it, and what it carries."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(DEADLINE)
        self._listener.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class RawServer:
    """A listener whose connections a test answers by hand, each in a thread."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._handle = handle
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(DEADLINE)
        with contextlib.suppress(OSError), peer:
            self._handle(peer)

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._open:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)


def answering(answer: bytes, *, then: Callable[[socket.socket], None] | None = None) -> RawServer:
    """An instance that answers each connection's first request with these bytes, and then hangs up or does `then`."""

    def handle(peer: socket.socket) -> None:
        read_head(peer)
        peer.sendall(answer)
        if then is not None:
            then(peer)

    return RawServer(handle)


def read_head(peer: socket.socket) -> bytes:
    """A request's or answer's head, with what has come after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = peer.recv(65536)
        if not part:
            break
        data += part
    return data


def read_all(peer: socket.socket) -> bytes:
    """All that comes until the end."""
    parts: list[bytes] = []
    while True:
        part = peer.recv(1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)


def reset(peer: socket.socket) -> None:
    """Ends a connection with RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    peer.close()


def dial(server: Server) -> socket.socket:
    """A connection of a client."""
    return socket.create_connection(("127.0.0.1", server.port), DEADLINE)


def ask(server: Server, request: bytes) -> bytes:
    """Sends bytes, and returns all that comes back until the server closes."""
    with dial(server) as client:
        client.sendall(request)
        return read_all(client)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An instance that answers with what it has got."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    seen = {
        "method": scope["method"],
        "path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
        "port": scope["server"][1],
    }
    content = json.dumps(seen).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class FakeControlPlane:
    """The read side of the HTTP API, which says what a test wants it to."""

    def __init__(self) -> None:
        self.instances: dict[tuple[str, str], dict[str, Any]] = {}
        self.settled = True
        self.has_stream = True
        self.has_routes = True
        self.watchers = 0
        """How many have begun to watch."""
        self.watching = 0
        """How many do so now."""
        self.asked_for_status = 0
        self.refused_routes = 0
        self._history: list[dict[str, Any]] = []
        self._server: Server | None = None
        self._is_over = False
        self._port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        assert self._server is not None
        return self._server.url

    def start(self) -> None:
        """Starts it."""
        self._is_over = False
        routes = [
            Route("/v1/watch", self._watch),
            Route("/v1/routes", self._routes),
            Route("/v1/status", self._status),
            Route("/v1/instances", self._list),
        ]
        self._server = Server(Starlette(routes=routes), listen_port=self._port)

    def stop(self) -> None:
        """Ends it."""
        assert self._server is not None
        self._is_over = True
        self._server.stop()

    def forget(self) -> None:
        """Forgets everything, as a restart does where nothing is stored."""
        self.instances.clear()
        self._history.clear()

    def add(self, service: str, address: str, *endpoints: str, epoch: int = 1, **spec: Any) -> None:
        """Registers an instance, or another epoch of it."""
        state = spec.pop("state", "INSTANCE_STATE_UP")
        key = {"namespace": "default", "service": service, "id": address}
        declared = {"namespace": "default", "service": service, "address": address, "endpoints": endpoints, **spec}
        instance = {"key": key, "spec": declared, "state": state, "epoch": str(epoch), "share_percent": 100}
        self.instances[service, address] = instance
        self._history.append({"changed": [instance], "revision": str(len(self._history) + 1)})

    def remove(self, service: str, address: str) -> None:
        """Takes an instance out."""
        gone = self.instances.pop((service, address))
        self._history.append({"removed": [gone["key"]], "revision": str(len(self._history) + 1)})

    async def _watch(self, _: Request) -> Response:
        if not self.has_stream:
            return JSONResponse({"code": "not_found", "status": 404, "detail": "there is no such thing"}, 404)

        async def lines() -> AsyncIterator[str]:
            self.watchers += 1
            self.watching += 1
            try:
                async for line in changes():
                    yield line
            finally:
                self.watching -= 1

        async def changes() -> AsyncIterator[str]:
            seen = len(self._history)
            everything = {"initial": True, "changed": list(self.instances.values()), "revision": str(seen)}
            yield json.dumps(everything) + "\n"
            while not self._is_over:
                while seen < len(self._history):
                    yield json.dumps(self._history[seen]) + "\n"
                    seen += 1
                yield "\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def _routes(self, _: Request) -> Response:
        if not self.has_routes:
            self.refused_routes += 1
            return JSONResponse({"code": "unavailable", "status": 503, "detail": "not now"}, 503)
        entries: dict[str, dict[str, Any]] = {}
        for instance in self.instances.values():
            for entry in _claims(instance["spec"]):
                entries.setdefault(entry["id"], entry)
        return JSONResponse({"routes": [{"entry": entry} for entry in entries.values()], "revision": "1"})

    async def _status(self, _: Request) -> Response:
        self.asked_for_status += 1
        return JSONResponse({"settled": self.settled})

    async def _list(self, _: Request) -> Response:
        return JSONResponse({"instances": list(self.instances.values()), "revision": str(len(self._history))})


def _claims(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    service = {"namespace": "default", "name": spec["service"]}
    for endpoint in spec["endpoints"]:
        method, path = endpoint.split(" ")
        yield {"id": endpoint, "service": service, "match": "PATH_MATCH_TEMPLATE", "path": path, "method": method}
    prefix = spec.get("prefix", f"/{spec['service']}")
    if prefix:
        strip = spec.get("strip_prefix", True)
        claim = {"id": f"* {prefix}/**", "service": service, "match": "PATH_MATCH_PREFIX", "path": prefix}
        yield {**claim, "strip_prefix": strip, "versions": spec.get("versions", [])}
