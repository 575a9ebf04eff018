"""A TCP (or TLS) connection as bytes that are asked for, with a time limit on each wait.

Reading stops when nobody asks (64 KiB are held at most), writing waits for the peer: back-pressure goes through.
A connection that is reset is never mistaken for one that has ended in order.

Deliberately absent: what the bytes mean; see `http1` and `websocket`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import cast

_MOST_HELD = 64 * 1024


class ConnectFailed(Exception):  # noqa: N818 - named after what happened, as are those below
    """No connection could be made; nothing was sent."""


class Broken(Exception):  # noqa: N818
    """The connection is gone: reset, or cut off here."""


class TimedOut(Exception):  # noqa: N818
    """The peer has said nothing, or taken nothing, for too long."""


class Channel(asyncio.Protocol):
    """One connection. It belongs to one task at a time for reading, and to one for writing."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended = False
        self._lost: Exception | None = None
        self._expired = False
        self._reading_paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether it is open and nothing came that nobody asked for."""
        return self._lost is None and not self._ended and not self._held

    async def read(self) -> bytes:
        """The next bytes; none at the end. Raises TimedOut when the limit has passed, and Broken."""
        while not self._held:
            if self._expired:
                raise TimedOut
            if self._lost is not None:
                raise Broken(str(self._lost)) from None
            if self._ended:
                return b""
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._held.popleft()
        self._held_bytes -= len(data)
        if self._reading_paused and self._held_bytes < _MOST_HELD and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes, limit: float) -> None:
        """Sends bytes, and waits while the peer takes none: at most `limit` seconds."""
        if self._lost is not None or self._ended or self._transport is None:
            raise Broken("the connection has ended")
        self._transport.write(data)
        if self._writer is None:
            return
        timer = self._loop.call_later(limit, _fail, self._writer, TimedOut())
        try:
            await asyncio.shield(self._writer)
        finally:
            timer.cancel()

    def expire_after(self, limit: float) -> None:
        """From now on `read` waits this many seconds at most, in total."""
        self.never_expire()
        self._timer = self._loop.call_later(limit, self._expire)

    def never_expire(self) -> None:
        """Takes the limit of `expire_after` away."""
        self._expired = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Closes in order; what was written is still sent."""
        self.never_expire()
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str) -> None:
        """Cuts the connection off, and fails whoever waits for it."""
        self.never_expire()
        if self._lost is None:
            self._lost = ConnectionAbortedError(why)
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _MOST_HELD and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool | None:
        """Called by the event loop. The connection is closed then: no instance reads on when it has ended."""
        self._ended = True
        self._wake()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._ended = True
        self._lost = self._lost or exc
        self._wake()
        if self._writer is not None:
            _fail(self._writer, Broken(str(exc or "the connection has ended")))

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    def _expire(self) -> None:
        self._expired = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _fail(waiter: asyncio.Future[None], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
        waiter.exception()  # nobody may be waiting


async def connect(address: str, limit: float, tls: ssl.SSLContext | None = None) -> Channel:
    """Connects to `host:port` within `limit` seconds, the look-up of the name included."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    loop = asyncio.get_running_loop()
    making = loop.create_connection(Channel, host, int(port), ssl=tls, server_hostname=host if tls else None)
    try:
        _, channel = await asyncio.wait_for(making, limit)
    except asyncio.TimeoutError:
        raise ConnectFailed(f"no connection to {address} within {limit:g} s") from None
    except OSError as error:
        raise ConnectFailed(f"cannot connect to {address}: {error.strerror or error}") from None
    return channel
