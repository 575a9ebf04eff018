"""The read side of a control plane's HTTP API, for an event loop: documents, and a stream of lines.

Deliberately absent: which of several control planes is asked, and when again; see `discovery`.
"""

from __future__ import annotations

import functools
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import h11

from waypost.errors import ControlPlaneUnreachableError
from waypost.gateway.channel import Broken, ConnectFailed, TimedOut, connect
from waypost.gateway.http1 import ClosedBeforeAnswer, Connection, ProtocolError
from waypost.transport import Address, refusal

_OK = range(200, 300)
_LINES = b"application/x-ndjson"
_LIMIT = 5.0
# The control plane sends an empty line every 10 s: without one for this long it is gone.
SILENCE = 25.0


class Lines:
    """An answer that comes line by line."""

    def __init__(self, connection: Connection, address: Address) -> None:
        self._connection = connection
        self._address = address
        self._rest = b""

    async def arrivals(self) -> AsyncIterator[bytes]:
        """Its lines without their ends. Raises ControlPlaneUnreachableError when there are no more."""
        more = True
        while more:
            try:
                data, more = await self._connection.body(SILENCE)
            except (Broken, TimedOut) as error:
                raise _gone(self._address, str(error) or f"silent for {SILENCE:g} s") from error
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield line.strip()
        raise _gone(self._address, "it has ended the stream")

    def close(self) -> None:
        """Hangs up."""
        self._connection.channel.abort("nobody listens any more")


async def document(address: Address, path: str) -> dict[str, Any]:
    """One document. Raises RefusedError, or ControlPlaneUnreachableError."""
    connection, response = await _ask(address, path, b"application/json")
    try:
        content = await _whole(connection, address)
    finally:
        connection.channel.close()
    read = _read(content)
    if response.status_code not in _OK:
        raise refusal(response.status_code, read, f"GET {address}{path}")
    if read is None:
        raise _gone(address, f"its answer to GET {path} is not JSON; is this a Waypost control plane's HTTP port?")
    return read


async def lines(address: Address, path: str) -> Lines:
    """Opens a stream of lines. Raises RefusedError, or ControlPlaneUnreachableError."""
    connection, response = await _ask(address, path, _LINES)
    kind = dict(response.headers).get(b"content-type", b"")
    if response.status_code not in _OK or not kind.startswith(_LINES):
        try:
            content = await _whole(connection, address)
        finally:
            connection.channel.close()
        status = response.status_code if response.status_code not in _OK else 404
        raise refusal(status, _read(content), f"GET {address}{path}")
    return Lines(connection, address)


async def _ask(address: Address, path: str, accept: bytes) -> tuple[Connection, h11.Response]:
    tls = _tls() if address.scheme == "https" else None
    host = f"[{address.host}]" if ":" in address.host else address.host
    authority = f"{host}:{address.port}"
    headers = [(b"host", authority.encode()), (b"accept", accept), (b"user-agent", b"waypost-python-gateway")]
    try:
        connection = Connection(await connect(authority, _LIMIT, tls))
    except ConnectFailed as error:
        raise _gone(address, str(error)) from error
    connection.channel.expire_after(_LIMIT)
    try:
        await connection.send_head("GET", address.path + path, headers, _LIMIT)
        await connection.end_request(_LIMIT)
        response = await connection.head()
    except (Broken, TimedOut, ClosedBeforeAnswer, ProtocolError) as error:
        connection.channel.abort("it does not answer")
        raise _gone(address, str(error) or type(error).__name__) from error
    except BaseException:
        connection.channel.abort("given up")
        raise
    connection.channel.never_expire()
    return connection, response


@functools.cache
def _tls() -> ssl.SSLContext:
    """Once: it reads the system's certificates, for tens of milliseconds in which the event loop does nothing else."""
    return ssl.create_default_context()


async def _whole(connection: Connection, address: Address) -> bytes:
    content, more = b"", True
    while more:
        try:
            data, more = await connection.body(_LIMIT)
        except (Broken, TimedOut) as error:
            raise _gone(address, str(error) or "its answer has stopped") from error
        content += data
    return content


def _read(content: bytes) -> dict[str, Any] | None:
    try:
        read = json.loads(content)
    except ValueError:
        return None
    return read if isinstance(read, dict) else None


def _gone(address: Address, why: str) -> ControlPlaneUnreachableError:
    return ControlPlaneUnreachableError(f"the control plane at {address} cannot be reached: {why}")
