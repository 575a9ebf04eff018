"""Requests to the control plane's HTTP API: one or more control planes, of which one is used until it fails.

Each client goes through them in an order of its own, drawn by lot, so that clients spread, and those of one that fails
spread over the others. One that answers that it cannot just now (its store is away, it is about to stop) has failed
as well. Nobody goes back before the others had their turn. `http.client` does the protocol.

Deliberately absent: waiting between attempts (see `backoff`), and proxies from the environment: the control plane is
reached directly.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from waypost.errors import (
    ConfigurationError,
    ControlPlaneUnreachableError,
    NotFoundError,
    Problem,
    RefusedError,
    WaypostError,
)
from waypost.model import InstanceKey

DEFAULT_URL = "http://127.0.0.1:7401"
# The second and third are Tapper's; both spellings are in use.
ENVIRONMENT = ("WAYPOST_REGISTRY_URL", "TAPPER_REGISTRY_URL", "TAPER_REGISTRY_URL")
_USER_AGENT = "waypost-python"
_NOT_FOUND = 404
_OK = range(200, 300)
_MOST_ATTEMPTS = 8
_SHORTEST = 0.01


@dataclass(frozen=True)
class Address:
    """Where a control plane is."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Reads `http://host:port[/path]`; ConfigurationError says what is wrong with it."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query or parts.fragment:
            raise ConfigurationError(
                f"the control plane's address {url!r} is no URL of the form http://host:port; "
                f"pass one such as {DEFAULT_URL}, or set {ENVIRONMENT[0]}"
            )
        default = 443 if parts.scheme == "https" else 7401
        return cls(parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def addresses(urls: str | Sequence[str] | None, environment: Mapping[str, str] | None = None) -> list[Address]:
    """The control planes that are meant: those given, those of the environment, or the default on loopback."""
    if not urls:
        environment = os.environ if environment is None else environment
        urls = next((environment[name] for name in ENVIRONMENT if environment.get(name)), DEFAULT_URL)
    listed = [urls] if isinstance(urls, str) else list(urls)
    split = [each.strip() for element in listed for each in element.split(",")]
    return list(dict.fromkeys(Address.parse(each) for each in split if each))


class Transport:
    """Calls the control plane in use. Threads may share it; each call has a connection of its own unless `keep`."""

    def __init__(self, urls: str | Sequence[str] | None = None, *, keep: bool = False) -> None:
        self.addresses = addresses(urls)
        """In the order in which they have their turns."""
        if not self.addresses:
            raise ConfigurationError(f"no control plane is named: pass a URL such as {DEFAULT_URL}")
        random.shuffle(self.addresses)
        self._lock = threading.Lock()
        self._current = 0
        self._keep = keep
        self._kept: http.client.HTTPConnection | None = None

    @property
    def current(self) -> Address:
        """The control plane in use."""
        return self.addresses[self._current]

    def move_on(self, failed: Address) -> None:
        """The next one's turn, unless somebody else who saw the same failure has moved on already."""
        with self._lock:
            if self.current == failed:
                self._current = (self._current + 1) % len(self.addresses)

    def close(self) -> None:
        """Closes the connection that is kept, if any."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        timeout: float = 5.0,
        waits: float = 0.0,
    ) -> dict[str, Any]:
        """One request and its answer. Raises ControlPlaneUnreachableError, or RefusedError with the problem.

        Where one control plane cannot be reached, or cannot do it just now, the others are asked in turn; all calls may
        be made twice. Where none can, what one has answered counts more than that others have not.

        All of it takes at most `timeout` seconds, and `waits` more, for which the control plane may hold its answer
        back. Each attempt but the last leaves half of `timeout` to those after it.
        """
        deadline = time.monotonic() + waits + timeout
        first = self._current
        last: WaypostError | None = None
        attempts = min(len(self.addresses), _MOST_ATTEMPTS)
        for attempt in range(attempts):
            left = max(deadline - time.monotonic(), _SHORTEST)
            patience = left if attempt + 1 == attempts else left - min(timeout, left) / 2
            address = self.addresses[(first + attempt) % len(self.addresses)]
            try:
                return self._call(address, method, path + _query(query), body, patience)
            except RefusedError as error:
                if not error.is_retryable:
                    raise
                last = error
            except ControlPlaneUnreachableError as error:
                last = last if isinstance(last, RefusedError) else error
            self.move_on(address)
        raise last or ConfigurationError("no control plane is named")

    def _call(self, address: Address, method: str, path: str, body: object, timeout: float) -> dict[str, Any]:
        try:
            status, content = self._exchange(address, method, address.path + path, body, timeout)
        except (OSError, UnicodeError, http.client.HTTPException) as error:  # UnicodeError: no name of a host
            self.close()
            raise unreachable(address, error) from error
        document = _document(content)
        if status not in _OK:
            raise refusal(status, document, f"{method} {address}{path.partition('?')[0]}")
        if document is None:
            raise ControlPlaneUnreachableError(
                f"{method} {address}{path.partition('?')[0]}: the answer is not JSON; is {address} a Waypost control "
                "plane's HTTP port?"
            )
        return document

    def stream(self, path: str, *, query: Mapping[str, object], timeout: float) -> Stream:
        """Opens an answer that is read line by line."""
        address = self.current
        connection = _connect(address, timeout)
        try:
            connection.request("GET", address.path + path + _query(query), headers=_headers("application/x-ndjson"))
            peer = connection.sock
            response = connection.getresponse()
            if response.status not in _OK:
                raise refusal(response.status, _document(response.read()), f"GET {address}{path}")
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            connection.close()
            self.move_on(address)
            raise unreachable(address, error) from error
        except RefusedError as error:
            connection.close()
            if error.is_retryable:
                self.move_on(address)
            raise
        return Stream(address, connection, response, peer)

    def _exchange(self, address: Address, method: str, target: str, body: object, timeout: float) -> tuple[int, bytes]:
        encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        kept, self._kept = self._kept, None
        if kept is not None and (kept.host, kept.port) == (address.host, address.port):
            try:
                return self._over(kept, method, target, encoded, timeout)
            except (http.client.RemoteDisconnected, ConnectionError):
                kept.close()  # it was idle and has been closed meanwhile: a new one tells the truth
        elif kept is not None:
            kept.close()
        return self._over(_connect(address, timeout), method, target, encoded, timeout)

    def _over(
        self, connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None, timeout: float
    ) -> tuple[int, bytes]:
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            connection.request(method, target, body=body, headers=_headers("application/json"))
            response = connection.getresponse()
            answer = response.status, response.read()
        except BaseException:
            connection.close()
            raise
        if self._keep and not response.will_close:
            self._kept = connection
        else:
            connection.close()
        return answer


class Stream:
    """An answer that comes line by line. `close` may be called by another thread, and wakes the reader."""

    def __init__(
        self,
        address: Address,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        peer: socket.socket | None,
    ) -> None:
        self._address = address
        self._connection = connection
        self._response = response
        self._peer = peer
        self._reading = threading.Lock()

    def line(self) -> bytes:
        """The next line without its end; empty lines say that the peer is alive."""
        with self._reading:
            try:
                line = self._response.readline()
            except (OSError, ValueError, http.client.HTTPException) as error:
                self._connection.close()
                raise unreachable(self._address, error) from error
        if not line.endswith(b"\n"):
            raise ControlPlaneUnreachableError(f"the control plane at {self._address} has ended the stream")
        return line.strip()

    def close(self) -> None:
        """Ends the stream."""
        if self._peer is not None:
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)
        # A reader that this has woken closes the connection itself.
        if self._reading.acquire(blocking=False):
            self._connection.close()
            self._reading.release()


def instance_path(key: InstanceKey) -> str:
    """Where an instance is in the API. An id may hold what has a meaning of its own in a URL (`#`, `?`, `%`)."""
    return "/v1/instances/" + "/".join(quote(part, safe="") for part in (key.namespace, key.service, key.id))


def unreachable(address: Address, error: BaseException) -> ControlPlaneUnreachableError:
    """Nobody has answered at an address."""
    reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return ControlPlaneUnreachableError(
        f"the control plane at {address} cannot be reached: {reason}; is it running, and is this its HTTP port "
        f"({ENVIRONMENT[0]})?"
    )


def refusal(status: int, document: Mapping[str, Any] | None, asked: str) -> RefusedError:
    """An answer that is an error."""
    problem = Problem.from_json(document or {}, status)
    return NotFoundError(problem, asked) if status == _NOT_FOUND else RefusedError(problem, asked)


def _headers(accept: str) -> dict[str, str]:
    return {"accept": accept, "content-type": "application/json", "user-agent": _USER_AGENT}


def _connect(address: Address, timeout: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    return kind(address.host, address.port, timeout=timeout)


def _query(query: Mapping[str, object] | None) -> str:
    given: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        values = value if isinstance(value, (tuple, list)) else [value]
        given += [(name, str(each).lower() if isinstance(each, bool) else str(each)) for each in values if each]
    return f"?{urlencode(given)}" if given else ""


def _document(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
