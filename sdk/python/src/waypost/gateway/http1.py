"""HTTP/1.1 towards instances and the control plane: h11 says what the bytes mean, `channel` moves them.

Header fields are bytes in their order and the target is sent as it is given. The request's body and the answer flow at
the same time.

Deliberately absent: redirects, cookies, decompression, trailers: a gateway passes on.
"""

from __future__ import annotations

import asyncio
import contextlib

import h11

from waypost.gateway.asgi import Headers
from waypost.gateway.channel import Broken, Channel

_MOST_INTERIM = 32
_HEAD_BYTES = 64 * 1024
_MOST_FIELDS = 100
_FIRST_UNKNOWN_STATUS = 600

Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class ProtocolError(Exception):
    """What came is not HTTP/1.1."""


class ClosedBeforeAnswer(Exception):  # noqa: N818 - named after what happened
    """The connection ended before the answer's head was whole."""


class Connection:
    """One connection, for one exchange after the other."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.was_used = False
        """Whether an exchange has ended on it: then the peer may have closed it just now."""
        self._go_on = asyncio.Event()
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self._ahead: h11.Data | None = None

    async def send_head(self, method: str, target: str, headers: Headers, limit: float) -> None:
        """Sends a request's head. Raises h11.LocalProtocolError for what cannot be sent."""
        data = self._h11.send(h11.Request(method=method, target=target, headers=headers))
        await self.channel.write(data or b"", limit)

    async def send_body(self, data: bytes, limit: float) -> None:
        """Sends a part of its body."""
        await self.channel.write(self._h11.send(h11.Data(data)) or b"", limit)

    async def end_request(self, limit: float) -> None:
        """Says that the request is whole."""
        data = self._h11.send(h11.EndOfMessage())
        if data:
            await self.channel.write(data, limit)

    async def wait_for_continue(self, limit: float) -> None:
        """Waits for a 100 that was expected, or for `limit` seconds: some never send it (RFC 9110, section 10.1.1)."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._go_on.wait(), limit)

    @property
    def is_request_whole(self) -> bool:
        """Whether all of the request was sent."""
        return self._h11.our_state is not h11.SEND_BODY

    async def head(self) -> h11.Response:
        """The answer's head."""
        for _ in range(_MOST_INTERIM + 1):
            event = await self._next(ProtocolError)
            if isinstance(event, h11.Response):
                if event.status_code >= _FIRST_UNKNOWN_STATUS:
                    raise ProtocolError(f"it answered with the status {event.status_code}")
                if event.http_version < b"1.1" and any(name == b"transfer-encoding" for name, _ in event.headers):
                    raise ProtocolError("it answered in HTTP/1.0 with a transfer coding")
                size = sum(len(name) + len(value) for name, value in event.headers)
                if size > _HEAD_BYTES or len(event.headers) > _MOST_FIELDS:
                    raise ProtocolError(f"its head has more than {_HEAD_BYTES} bytes or {_MOST_FIELDS} fields")
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise ClosedBeforeAnswer
            if event.status_code == 101:  # noqa: PLR2004 - Switching Protocols
                raise ProtocolError("it switched protocols, and nobody has asked")
            self._go_on.set()
        raise ProtocolError(f"it sent more than {_MOST_INTERIM} interim answers")

    async def body(self, pause: float) -> tuple[bytes, bool]:
        """The next part of the answer's body, and whether more follows; each wait lasts `pause` seconds at most.

        Raises Broken where the answer breaks off, however it does.
        """
        event = self._ahead or self._parse(Broken)
        self._ahead = None
        if event is h11.NEED_DATA:
            self.channel.expire_after(pause)
            try:
                event = await self._next(Broken)
            finally:
                self.channel.never_expire()
        if not isinstance(event, h11.Data):
            return b"", False
        ahead = self._parse(Broken)
        if isinstance(ahead, h11.Data):
            self._ahead = ahead
        return bytes(event.data), not isinstance(ahead, h11.EndOfMessage)

    def is_reusable(self) -> bool:
        """Whether it can carry another exchange: both sides have ended, and not a byte came after."""
        if not self.channel.is_quiet or self._h11.trailing_data[0]:
            return False
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self.was_used = True
            self._go_on.clear()
        return self._h11.our_state is h11.IDLE

    async def _next(self, wrong: type[Exception]) -> Event:
        while True:
            event = self._parse(wrong)
            if event is not h11.NEED_DATA:
                return event
            data = await self.channel.read()
            if not data and self._h11.their_state is h11.SEND_RESPONSE:
                raise ClosedBeforeAnswer
            self._h11.receive_data(data)

    def _parse(self, wrong: type[Exception]) -> Event:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise wrong(str(error)) from None
