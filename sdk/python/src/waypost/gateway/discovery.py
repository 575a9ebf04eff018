"""Keeps a gateway's table up to date, and leaves it as it was while the control plane is away.

    connect ──▶ watch: everything, then each change ──▶ lost ──▶ (back-off, the next control plane) connect …
                  └─ no such stream: ask for everything, each `interval`

Routes come from the control plane, which decides who has what; they are asked for where a change may concern them. A
control plane that has just started and may not know all yet (it is not settled) takes nothing away.

Deliberately absent: declared routes and policies, which are the proxy's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from waypost.backoff import Backoff
from waypost.errors import RefusedError, WaypostError
from waypost.gateway.control_plane import document, lines
from waypost.gateway.routes import Route, Routes
from waypost.gateway.table import Table
from waypost.model import Instance, InstanceKey, WatchStep
from waypost.transport import Address
from waypost.watch import View

_log = logging.getLogger("waypost.gateway")

_FIRST_RETRY = 0.1
_SETTLING = 0.5
_NO_SUCH_STREAM = (404, 405, 406, 501)
_Claim = tuple[str, str, str, object, object, tuple[str, ...]]


class Discovery:
    """What a gateway knows of services. `table` is the current one, `None` until there is a first."""

    def __init__(self, control_planes: list[Address], interval: float, namespace: str) -> None:
        self.table: Table | None = None
        self.error: WaypostError | None = None
        """Why the control plane is not heard just now."""
        self._control_planes = control_planes
        self._turn = 0
        self._interval = interval
        self._filter = f"?{urlencode({'namespace': namespace})}" if namespace else ""
        self._backoff = Backoff(_FIRST_RETRY, interval)
        self._view = View()
        self._carried: dict[InstanceKey, Instance] = {}
        self._routes = Routes()
        self._claims: frozenset[_Claim] | None = None
        self._refreshing = asyncio.Lock()
        self._first = asyncio.Event()
        self._begun_at = time.monotonic()

    async def first(self, limit: float) -> Table | None:
        """The table, once there is one; `None` if there is none within `limit` seconds of the start.

        Nobody waits after that: what does not need the table (an app's own `/health`) must not be held up by an
        outage, and what does need it can be told at once.
        """
        left = self._begun_at + limit - time.monotonic()
        if self.table is None and left > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._first.wait(), left)
        return self.table

    async def run(self) -> None:
        """Follows the control plane until it is cancelled."""
        while True:
            address = self._control_planes[self._turn % len(self._control_planes)]
            try:
                await self._follow(address)
            except WaypostError as error:
                self._lost(error)
            except Exception as error:
                # Whatever it is: a gateway that stops to follow would send requests to instances that are gone.
                _log.debug("what the control plane at %s says cannot be read", address, exc_info=True)
                self._lost(WaypostError(f"what the control plane at {address} says cannot be read: {error!r}"))
            self._turn += 1
            self._claims = None
            await asyncio.sleep(self._backoff.after_failure())

    async def _follow(self, address: Address) -> None:
        try:
            stream = await lines(address, f"/v1/watch{self._filter}")
        except RefusedError as error:
            if error.problem.status not in _NO_SUCH_STREAM:
                raise
            await self._poll(address)
            return
        settling: asyncio.Task[None] | None = None
        try:
            async for line in stream.arrivals():
                if not line:
                    continue
                message = json.loads(line)
                await self._apply(address, message)
                if self._carried and settling is None:
                    settling = asyncio.create_task(self._until_settled(address))
        finally:
            stream.close()
            if settling is not None:
                settling.cancel()

    async def _poll(self, address: Address) -> None:
        while True:
            answer = await document(address, f"/v1/instances{self._filter}")
            self._claims = None
            await self._apply(
                address,
                {"initial": True, "changed": answer.get("instances"), "revision": answer.get("revision")},
            )
            await asyncio.sleep(self._interval)

    async def _apply(self, address: Address, message: dict[str, Any]) -> None:
        before = {**self._carried, **self._view.instances}
        step = self._view.apply(message)
        if message.get("initial"):
            await self._begin(address, step, before)
        self._carried = {
            key: known
            for key, known in self._carried.items()
            if key not in step.instances and (message.get("initial") or key not in step.removed)
        }
        await self._refresh(address)
        self._heard()

    async def _begin(self, address: Address, step: WatchStep, before: dict[InstanceKey, Instance]) -> None:
        """Everything comes (again). What is missing is kept where it may only not have come back yet."""
        gone = {key: known for key, known in before.items() if key not in step.instances}
        if gone and not await self._is_settled(address):
            self._carried = gone
        else:
            self._carried = {}

    async def _refresh(self, address: Address) -> None:
        # One after the other: routes that were asked for before a change must not replace those that were after it.
        async with self._refreshing:
            await self._refresh_alone(address)

    async def _refresh_alone(self, address: Address) -> None:
        claims = frozenset(map(_claim, self._view.instances.values()))
        if claims != self._claims:
            answer = await document(address, f"/v1/routes{self._filter}")
            fresh = [Route.from_json(each.get("entry") or {}) for each in answer.get("routes") or ()]
            held: Iterable[Route] = self._routes.by_id.values() if self._carried else ()
            self._routes = Routes([*held, *fresh])
            self._claims = claims
        known = {**self._carried, **self._view.instances}
        self.table = (self.table or Table(Routes(), {})).next(self._routes, known.values())

    async def _until_settled(self, address: Address) -> None:
        """Lets go of what has not come back once the control plane is sure."""
        while self._carried or self._claims is None:
            await asyncio.sleep(_SETTLING)
            try:
                if self._carried and not await self._is_settled(address):
                    continue
                self._carried = {}
                self._claims = None
                await self._refresh(address)
            except Exception as error:
                _log.debug("cannot tell whether the control plane is settled: %s", error)

    async def _is_settled(self, address: Address) -> bool:
        return bool((await document(address, "/v1/status")).get("settled", False))

    def _heard(self) -> None:
        if self.error is not None:
            _log.info("the control plane is heard again")
        self.error = None
        self._backoff.reset()
        self._first.set()

    def _lost(self, error: WaypostError) -> None:
        if self.error is None:
            kept = "what was known is served on" if self.table else "there is nothing to serve by yet"
            _log.warning("%s; %s", error, kept)
        self.error = error


def _claim(instance: Instance) -> _Claim:
    """What of an instance decides about routes."""
    declared = instance.registration
    return (
        declared.namespace,
        declared.service,
        declared.version,
        declared.prefix,
        declared.strip_prefix,
        declared.endpoints,
    )
