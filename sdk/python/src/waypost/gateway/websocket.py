"""One WebSocket: accepted when an instance has accepted it, then message by message in both directions.

Subprotocols, text and binary messages, close codes and reasons pass. wsproto says what the bytes mean. An instance that
refuses the handshake answers the client itself.

Deliberately absent: compression towards instances, which are near; pings, which each side's server sees to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError

from waypost.gateway.asgi import Headers, Message, Receive, Scope, Send
from waypost.gateway.balancer import Choice
from waypost.gateway.channel import Broken, Channel, ConnectFailed, TimedOut, connect
from waypost.gateway.forward import Limits
from waypost.gateway.headers import replaced, towards_client, towards_instance
from waypost.gateway.instance import ServiceInstance
from waypost.gateway.problem import Reason, Refusal
from waypost.gateway.table import Table
from waypost.gateway.target import Target

_log = logging.getLogger("waypost.gateway")

_LARGEST_MESSAGE = 16 * 1024 * 1024
_INTERNAL_ERROR = 1011
_TOO_LARGE = 1009
_NO_STATUS = 1005
_ABNORMAL = 1006
_HANDSHAKE = b"sec-websocket-"
_LARGEST_REFUSAL = 64 * 1024
# How long an instance may take to answer a close frame.
_CLOSING = 5.0


class Tunnel:
    """One WebSocket of a client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._target = target
        self._client_is_gone = False

    async def run(self, table: Table, choose: Choice, limits: Limits) -> None:
        """Connects the client with an instance until one of both ends it. Raises Refusal before it is accepted."""
        tried: list[ServiceInstance] = []
        refusal: Refusal | None = None
        while len(tried) <= limits.retries:
            try:
                instance = table.pick(self._target.route, tried, choose)
            except Refusal as none_left:
                raise (refusal or none_left) from None
            tried.append(instance)
            instance.begin(time.monotonic())
            try:
                await self._with(instance, limits)
            except _Unreached as error:
                refusal = error.refusal
                instance.failed(time.monotonic())
            else:
                return
            finally:
                instance.end()
        if refusal is not None:
            raise refusal

    async def _with(self, instance: ServiceInstance, limits: Limits) -> None:
        name = f"{instance.id} of {instance.service}"
        try:
            channel = await connect(instance.address, limits.connect)
        except ConnectFailed as error:
            raise _Unreached(Reason.UPSTREAM_CONNECT, f"{name}: {error}") from None
        peer = _Peer(channel, limits.pause)
        try:
            channel.expire_after(limits.answer)
            try:
                answer = await peer.ask(self._request(instance))
            except TimedOut:
                detail = f"{name} has not answered the handshake within {limits.answer:g} s"
                raise Refusal(Reason.UPSTREAM_TIMEOUT, detail) from None
            except Broken:
                raise _Unreached(Reason.UPSTREAM_CLOSED, f"{name} closed the connection before it answered") from None
            except ProtocolError as error:
                raise Refusal(Reason.UPSTREAM_PROTOCOL, f"{name} answers the handshake wrongly: {error}") from None
            instance.answered()
            if isinstance(answer, RejectConnection):
                await self._pass_refusal_on(answer, peer, name)
                return
            channel.never_expire()
            headers = _own(towards_client(answer.extra_headers, 101))
            await self._send({"type": "websocket.accept", "subprotocol": answer.subprotocol, "headers": headers})
            await self._relay(peer, name)
        finally:
            channel.close()

    def _request(self, instance: ServiceInstance) -> Request:
        headers = replaced(towards_instance(self._scope, instance.address), self._target.changes)
        host = next(value for name, value in headers if name == b"host")
        return Request(
            host=host.decode("latin-1"),
            target=self._target.request_target,
            extra_headers=[field for field in _own(headers) if field[0] != b"host"],
            subprotocols=list(self._scope.get("subprotocols") or ()),
        )

    async def _pass_refusal_on(self, refusal: RejectConnection, peer: _Peer, name: str) -> None:
        headers = towards_client(refusal.headers, refusal.status_code)
        if "websocket.http.response" not in (self._scope.get("extensions") or {}):
            await self._send({"type": "websocket.close", "code": 1008, "reason": f"{refusal.status_code}"})
            return
        try:
            parts = [part async for part in peer.refusal_body()] if refusal.has_body else []
        except (Broken, TimedOut, ProtocolError, _TooLarge) as error:
            why = str(error) or "it has stopped"
            detail = f"{name} refuses the handshake ({refusal.status_code}), and its answer is not whole: {why}"
            raise Refusal(Reason.UPSTREAM_CLOSED, detail) from None
        await self._send({"type": "websocket.http.response.start", "status": refusal.status_code, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": b"".join(parts), "more_body": False})

    async def _relay(self, peer: _Peer, name: str) -> None:
        to_instance = asyncio.create_task(self._to_instance(peer))
        to_client = asyncio.create_task(self._to_client(peer, name))
        try:
            await asyncio.wait((to_instance, to_client), return_when=asyncio.FIRST_COMPLETED)
            if to_instance.done():
                # One that still talks is listened to until it has seen that frame: a connection that is closed before
                # all of it was read is reset, and the frame with it.
                await asyncio.wait((to_client,), timeout=_CLOSING)
        finally:
            for task in (to_instance, to_client):
                task.cancel()
            outcomes = await asyncio.gather(to_instance, to_client, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _to_instance(self, peer: _Peer) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._client_is_gone = True
                await peer.close(message.get("code") or _NO_STATUS, message.get("reason") or None)
                return
            text = message.get("text")
            try:
                if text is not None:
                    await peer.send(TextMessage(data=text))
                else:
                    await peer.send(BytesMessage(data=message.get("bytes") or b""))
            except (Broken, TimedOut, ProtocolError) as error:
                if isinstance(error, TimedOut):
                    peer.cut_off("the instance takes nothing")
                # It has ended, perhaps in order just now: whoever reads from the instance tells the client how.
                await asyncio.Event().wait()

    async def _to_client(self, peer: _Peer, name: str) -> None:
        code, reason = _INTERNAL_ERROR, Reason.UPSTREAM_CLOSED.word
        try:
            async for event in peer.messages():
                if isinstance(event, CloseConnection):
                    code = 1000 if event.code == _NO_STATUS else int(event.code)
                    reason = event.reason or ""
                elif isinstance(event, TextMessage):
                    await self._say({"type": "websocket.send", "text": event.data})
                else:
                    await self._say({"type": "websocket.send", "bytes": bytes(event.data)})
        except _TooLarge:
            reason = f"a message of more than {_LARGEST_MESSAGE} bytes"
            await peer.close(_TOO_LARGE, reason)
            await self._say({"type": "websocket.close", "code": _TOO_LARGE, "reason": reason})
            await peer.drop_rest()
            return
        except (Broken, TimedOut, ProtocolError) as error:
            _log.warning("%s broke a WebSocket off: %s", name, error)
        await self._say({"type": "websocket.close", "code": code, "reason": reason})

    async def _say(self, message: Message) -> None:
        """Tells the client unless it has gone; servers may say so here before they say how it ended.

        Those of ASGI 2.4 raise an OSError, and uvicorn a RuntimeError where it has closed the WebSocket itself.
        """
        try:
            if not self._client_is_gone:
                await self._send(message)
        except (OSError, RuntimeError):
            self._client_is_gone = True


class _Unreached(Exception):  # noqa: N818 - it says that another instance may be tried
    """An instance has not answered the handshake, so another one may."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


class _TooLarge(Exception):  # noqa: N818 - a close code, in the end
    """A message is larger than what is passed on."""


class _Peer:
    """The instance's side: wsproto over a channel."""

    def __init__(self, channel: Channel, limit: float) -> None:
        self._channel = channel
        self._limit = limit
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    async def ask(self, request: Request) -> AcceptConnection | RejectConnection:
        """The handshake."""
        await self.send(request)
        async for event in self._events():
            if isinstance(event, (AcceptConnection, RejectConnection)):
                return event
        raise Broken("the connection ended within the handshake")

    async def send(self, event: Event) -> None:
        await self._channel.write(self._protocol.send(event), self._limit)

    async def close(self, code: int, reason: str | None) -> None:
        """Passes the end on. Where there was no close frame the connection is cut off: the instance gets none, too."""
        if code == _ABNORMAL:
            self.cut_off("the client has gone without a close frame")
            return
        code = CloseReason.NO_STATUS_RCVD if code == _NO_STATUS else code
        try:
            await self.send(CloseConnection(code=code, reason=None if code == CloseReason.NO_STATUS_RCVD else reason))
        except (Broken, TimedOut, ProtocolError) as error:
            _log.debug("the end of a WebSocket could not be passed on: %s", error)

    def cut_off(self, why: str) -> None:
        """Ends the connection without a close frame, and the reading from it."""
        self._channel.abort(why)

    async def drop_rest(self) -> None:
        """Reads until a close frame was answered: a connection that is closed before is reset, with what it holds."""
        self._channel.expire_after(_CLOSING)
        with contextlib.suppress(Broken, TimedOut, ProtocolError):
            async for event in self._events():
                if isinstance(event, CloseConnection):
                    return

    async def refusal_body(self) -> AsyncIterator[bytes]:
        """The body of an answer that refuses the handshake. Raises Broken where it breaks off, and _TooLarge."""
        size = 0
        async for event in self._events(until_end=True):
            if isinstance(event, RejectData):
                size += len(event.data)
                if size > _LARGEST_REFUSAL:
                    raise _TooLarge(f"it has more than {_LARGEST_REFUSAL} bytes")
                yield bytes(event.data)
                if event.body_finished:
                    return
        raise Broken("it breaks off")

    async def messages(self) -> AsyncIterator[TextMessage | BytesMessage | CloseConnection]:
        """Whole messages, and at the end how it was closed. Raises Broken where it was not."""
        text: list[str] = []
        data: list[bytes] = []
        size = 0
        async for event in self._events():
            if isinstance(event, Ping):
                with contextlib.suppress(Broken, ProtocolError):  # either side may have said that it ends
                    await self.send(event.response())
            elif isinstance(event, CloseConnection):
                await self._acknowledge(event)
                yield event
                return
            elif isinstance(event, (TextMessage, BytesMessage)):
                size += len(event.data)
                if size > _LARGEST_MESSAGE:
                    raise _TooLarge
                if isinstance(event, TextMessage):
                    text.append(event.data)
                else:
                    data.append(bytes(event.data))
                if event.message_finished:
                    yield TextMessage(data="".join(text)) if text else BytesMessage(data=b"".join(data))
                    text, data, size = [], [], 0
        raise Broken("the connection ended without a close frame")

    async def _acknowledge(self, event: CloseConnection) -> None:
        with contextlib.suppress(Broken, TimedOut, ProtocolError):  # it may have gone after it said so
            await self.send(event.response())

    async def _events(self, until_end: bool = False) -> AsyncIterator[Event]:
        """What comes. With `until_end` the end of the connection may be that of an answer."""
        data: bytes | None = b""
        while data is not None:
            for event in self._protocol.events():
                yield event
            data = await self._channel.read() or None
            if data is not None or until_end:
                self._protocol.receive_data(data)
        for event in self._protocol.events():
            yield event


def _own(headers: Headers) -> Headers:
    """Without the fields of the handshake, which is each connection's own."""
    return [field for field in headers if not field[0].startswith(_HANDSHAKE)]
