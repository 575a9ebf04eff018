"""One request: to an instance, and its answer back.

    pick ──▶ connect ──▶ head sent ──▶ answer's head ──▶ answer's body ──▶ done
     ▲          │            └─ closed before an answer, idempotent, no body ─┐  └─ breaks off: so does the client's
     └──────────┴──────────────── another instance ◀──────────────────────────┘

The client's body is read by a task of its own, so that both directions flow at once. It also sees the client leave,
which ends the request to the instance.

Deliberately absent: retry budgets, hedging, circuit breakers. The proxy has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import NoReturn

import h11

from waypost.gateway.asgi import Headers, Receive, Scope, Send
from waypost.gateway.balancer import Choice
from waypost.gateway.channel import Broken, ConnectFailed, TimedOut
from waypost.gateway.headers import replaced, towards_client, towards_instance, values
from waypost.gateway.http1 import ClosedBeforeAnswer, Connection, ProtocolError
from waypost.gateway.instance import ServiceInstance
from waypost.gateway.pool import Pool
from waypost.gateway.problem import Reason, Refusal
from waypost.gateway.table import Table
from waypost.gateway.target import Target

_log = logging.getLogger("waypost.gateway")

_IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
_LONGEST_CONNECT = 2.0
_CONTINUE = 1.0


class AnswerBrokeOff(Exception):  # noqa: N818 - named after what happened
    """An instance broke off in its answer.

    It is raised to the ASGI server, which can only cut the client off then: the answer never looks complete.
    """


@dataclass(frozen=True)
class Limits:
    """How long is waited, in seconds, and how often a request is sent again."""

    answer: float
    """For an answer's head, from when the request was sent."""
    pause: float
    """Between parts of a body."""
    retries: int

    @property
    def connect(self) -> float:
        """For a connection, the look-up of a name included."""
        return min(self.answer, _LONGEST_CONNECT)


class Exchange:
    """One request of a client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._target = target
        self._connection: Connection | None = None
        self._misfit: Refusal | None = None
        self._client_is_gone = False
        self._is_answered = False
        self._awaits_answer = True
        self._body_is_begun = False
        self._has_body = _has_body(scope)

    async def run(self, table: Table, pool: Pool, choose: Choice, limits: Limits) -> None:
        """Answers the request. Raises Refusal where no instance does, and AnswerBrokeOff."""
        watcher = None if self._has_body else asyncio.create_task(self._watch())
        try:
            await self._attempts(table, pool, choose, limits)
        finally:
            self._is_answered = True
            if watcher is not None:
                watcher.cancel()

    async def _attempts(self, table: Table, pool: Pool, choose: Choice, limits: Limits) -> None:
        tried: list[ServiceInstance] = []
        refusal: Refusal | None = None
        stale: ServiceInstance | None = None
        while not self._client_is_gone and (stale is not None or len(tried) <= limits.retries):
            try:
                instance = stale or table.pick(self._target.route, tried, choose)
            except Refusal as none_left:
                raise (refusal or none_left) from None
            instance.begin(time.monotonic())
            try:
                failure = await self._attempt(instance, pool, limits, must_be_fresh=stale is not None)
            finally:
                instance.end()
            if failure is None:
                return
            refusal = failure.refusal
            if not failure.is_safe_to_repeat:
                break
            # An idle connection that turned out to be closed says nothing about the instance: it gets a second try.
            stale = instance if failure.was_stale and stale is None else None
            if stale is None:
                tried.append(instance)
        if refusal is not None and not self._client_is_gone:
            raise refusal

    async def _attempt(
        self, instance: ServiceInstance, pool: Pool, limits: Limits, *, must_be_fresh: bool
    ) -> Failure | None:
        """Sends the request to one instance; what is returned may be tried with another."""
        headers = replaced(towards_instance(self._scope, instance.address), self._target.changes)
        try:
            connection = await pool.take(instance.address, limits.connect, fresh=must_be_fresh)
        except ConnectFailed as error:
            instance.failed(time.monotonic())
            return Failure(Refusal(Reason.UPSTREAM_CONNECT, f"{_named(instance)}: {error}"), is_safe_to_repeat=True)
        self._connection = connection
        self._awaits_answer = True
        pump: asyncio.Task[None] | None = None
        reuse = False
        try:
            if self._client_is_gone:
                return None
            await self._send_head(connection, headers, limits)
            if self._has_body:
                pump = asyncio.create_task(self._pump(connection, limits))
            response = await connection.head()
            self._awaits_answer = False
            connection.channel.never_expire()
            instance.answered()
            await self._answer(instance, connection, response, limits)
            reuse = True
        except (ClosedBeforeAnswer, Broken, ProtocolError, TimedOut) as error:
            if self._client_is_gone:
                return None
            if self._misfit is not None:
                raise self._misfit from None
            return self._failure(instance, connection, error, limits)
        finally:
            self._connection = None
            if pump is not None:
                reuse = reuse and connection.is_request_whole
                pump.cancel()
            if reuse:
                pool.give_back(instance.address, connection)
            else:
                connection.channel.abort("the request is over")
        return None

    async def _send_head(self, connection: Connection, headers: Headers, limits: Limits) -> None:
        try:
            await connection.send_head(self._target.method, self._target.request_target, headers, limits.pause)
            if not self._has_body:
                await connection.end_request(limits.pause)
                connection.channel.expire_after(limits.answer)
        except h11.LocalProtocolError as error:
            raise Refusal(Reason.BAD_REQUEST, f"the request cannot be passed on: {error}") from None

    async def _answer(
        self, instance: ServiceInstance, connection: Connection, response: h11.Response, limits: Limits
    ) -> None:
        status = response.status_code
        headers = towards_client(response.headers, status)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        more = True
        while more:
            try:
                data, more = await connection.body(limits.pause)
            except (Broken, TimedOut) as error:
                if self._client_is_gone:
                    return
                why = str(error) or f"nothing came for {limits.pause:g} s"
                _log.warning("%s broke off in its answer: %s", _named(instance), why)
                await self._break_off(f"{_named(instance)} broke off in its answer: {why}")
            if not more:
                self._is_answered = True
            await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _break_off(self, why: str) -> NoReturn:
        # Starlette's BaseHTTPMiddleware ends an answer in order before it raises what the app has raised. A message
        # that nobody knows stops it; to servers it is an error like the one that follows.
        with contextlib.suppress(Exception):
            await self._send({"type": "waypost.answer.broke_off"})
        raise AnswerBrokeOff(why)

    async def _pump(self, connection: Connection, limits: Limits) -> None:
        """Passes the client's body on, then waits for the client to leave."""
        try:
            if b"100-continue" in values(self._scope["headers"], b"expect"):
                await connection.wait_for_continue(_CONTINUE)
            await self._send_body(connection, limits)
        except TimedOut:
            self._expire(connection, 0)
            return
        except h11.LocalProtocolError as error:
            detail = (
                f"the body is not as long as its content-length says ({error}); what changes a body on the way here "
                "(a middleware that decompresses it) must change or remove the field, too"
            )
            self._misfit = Refusal(Reason.BAD_REQUEST, detail)
            # Nothing more can be sent, and an answer to a part of a request is none.
            connection.channel.abort(detail)
            return
        except Broken as error:
            # The instance may have answered before it closed: whoever reads from it decides what this means.
            _log.debug("the rest of a body was not passed on: %s", error)
            return
        await self._watch()

    async def _send_body(self, connection: Connection, limits: Limits) -> None:
        more = True
        while more:
            message = await self._receive()
            self._body_is_begun = True
            if message["type"] == "http.disconnect":
                self._gone()
                return
            more = message.get("more_body", False)
            if message.get("body"):
                await connection.send_body(message["body"], limits.pause)
        await connection.end_request(limits.pause)
        self._expire(connection, limits.answer)

    def _expire(self, connection: Connection, limit: float) -> None:
        """The time for an answer begins, unless it has begun to come."""
        if self._awaits_answer:
            connection.channel.expire_after(limit)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone()

    def _gone(self) -> None:
        if self._is_answered:
            return
        self._client_is_gone = True
        if self._connection is not None:
            self._connection.channel.abort("the client has gone")

    def _failure(self, instance: ServiceInstance, connection: Connection, error: Exception, limits: Limits) -> Failure:
        name = _named(instance)
        if isinstance(error, TimedOut):
            detail = f"{name} has not answered within {limits.answer:g} s (the gateway's timeout)"
            return Failure(Refusal(Reason.UPSTREAM_TIMEOUT, detail))
        if isinstance(error, ProtocolError):
            return Failure(Refusal(Reason.UPSTREAM_PROTOCOL, f"{name} does not answer as HTTP/1.1 asks for: {error}"))
        if not connection.was_used:
            instance.failed(time.monotonic())
        is_safe = self._target.method in _IDEMPOTENT and not self._body_is_begun
        detail = f"{name} closed the connection before it answered"
        return Failure(
            Refusal(Reason.UPSTREAM_CLOSED, detail),
            is_safe_to_repeat=is_safe,
            was_stale=connection.was_used,
        )


@dataclass(frozen=True)
class Failure:
    """Why an attempt has not led to an answer."""

    refusal: Refusal
    is_safe_to_repeat: bool = False
    was_stale: bool = False
    """Whether it was over a connection that had been idle."""


def _named(instance: ServiceInstance) -> str:
    return f"{instance.id} of {instance.service}"


def _has_body(scope: Scope) -> bool:
    headers: Headers = scope["headers"]
    if any(name == b"transfer-encoding" for name, _ in headers):
        return True
    lengths = [value for name, value in headers if name == b"content-length"]
    # HTTP/2 needs no length; there a method that usually has a body is taken to have one.
    is_unsaid = not lengths and scope.get("http_version", "1.1") not in ("1.0", "1.1")
    usually_has_one = is_unsaid and scope["method"] in ("POST", "PUT", "PATCH")
    return usually_has_one or any(value.strip() != b"0" for value in lengths)
