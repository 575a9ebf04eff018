"""The client for programs on an event loop: the same calls, each waited for off the loop.

The calls run in threads of their own: a drain that takes long keeps no other call waiting, and the loop's default
executor, which is the program's, is left alone. The heartbeats come from the keeper's thread as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from waypost.client import Client
from waypost.model import (
    DrainOutcome,
    Endpoint,
    Instance,
    InstanceKey,
    Load,
    Registration,
    ServiceSummary,
    State,
    WatchStep,
)
from waypost.registered import LeaseStatus, Registered
from waypost.watch import Watch

T = TypeVar("T")


async def _off_loop(call: Callable[[], T], abort: Callable[[], None] | None = None) -> T:
    """Runs a blocking call in a thread of its own; `abort` makes it return where its caller is cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def run() -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = call()
        except BaseException as error:  # it is raised in the caller
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, name="waypost-call", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        if abort is not None:
            abort()
        raise


class AsyncRegistered:
    """A lease that is kept alive until it is drained. `async with` drains at the end."""

    def __init__(self, registered: Registered) -> None:
        self._registered = registered

    async def __aenter__(self) -> AsyncRegistered:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()

    @property
    def key(self) -> InstanceKey:
        """The instance's name."""
        return self._registered.key

    @property
    def status(self) -> LeaseStatus:
        """What has become of the lease."""
        return self._registered.status

    def set_health(self, healthy: bool, reason: str = "") -> None:
        """Takes the instance out of rotation, and puts it back."""
        self._registered.set_health(healthy, reason)

    def set_load(self, load: Load | None) -> None:
        """Says how busy the instance is."""
        self._registered.set_load(load)

    def update(self, registration: Registration) -> None:
        """Registers something else in place of what is registered."""
        self._registered.update(registration)

    async def drain(self, timeout: float | None = None) -> DrainOutcome:
        """Takes the instance out through the drain barrier; keep serving until it returns."""
        return await _off_loop(lambda: self._registered.drain(timeout))

    async def deregister(self, reason: str = "") -> DrainOutcome:
        """Takes the instance out at once."""
        return await _off_loop(lambda: self._registered.deregister(reason))


class AsyncWatch:
    """Steps of a watch, as an asynchronous iterator; `aclose`, or the end of `async with`, ends it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __aiter__(self) -> AsyncIterator[WatchStep]:
        return self

    async def __anext__(self) -> WatchStep:
        step = await _off_loop(lambda: next(self._watch, None), self._watch.close)
        if step is None:
            raise StopAsyncIteration
        return step

    async def __aenter__(self) -> AsyncWatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the watch."""
        self._watch.close()


class AsyncClient:
    """A control plane, or several that share one registry; see `Client` for what the arguments mean."""

    def __init__(self, urls: str | Sequence[str] | None = None, *, client: str = "", timeout: float = 5.0) -> None:
        self._sync = Client(urls, client=client, timeout=timeout)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _off_loop(self._sync.close)

    async def register(
        self, registration: Registration, *, ttl: float = 10.0, wait: float = 30.0, drain_timeout: float = 30.0
    ) -> AsyncRegistered:
        """Registers an instance, and keeps it registered until it is drained."""
        call = lambda: self._sync.register(registration, ttl=ttl, wait=wait, drain_timeout=drain_timeout)  # noqa: E731
        return AsyncRegistered(await _off_loop(call))

    async def services(self, namespace: str = "") -> list[ServiceSummary]:
        """All services, sorted by name."""
        return await _off_loop(lambda: self._sync.services(namespace))

    async def instances(
        self,
        service: str = "",
        *,
        namespace: str = "",
        version: str = "",
        tags: Sequence[str] = (),
        state: State = State.UNSPECIFIED,
    ) -> list[Instance]:
        """The instances for which all that is given holds."""
        return await _off_loop(
            lambda: self._sync.instances(service, namespace=namespace, version=version, tags=tags, state=state)
        )

    async def resolve(
        self, service: str, *, namespace: str = "default", version: str = "", tags: Sequence[str] = (), zone: str = ""
    ) -> list[Endpoint]:
        """The instances of a service that take traffic now."""
        return await _off_loop(
            lambda: self._sync.resolve(service, namespace=namespace, version=version, tags=tags, zone=zone)
        )

    def watch(self, service: str = "", *, namespace: str = "") -> AsyncWatch:
        """Each change to the instances that match, with all of them as they are then."""
        return AsyncWatch(self._sync.watch(service, namespace=namespace))

    async def drain(
        self, service: str, instance: str, *, namespace: str = "default", cancel: bool = False, reason: str = ""
    ) -> DrainOutcome:
        """Takes an instance out of rotation, or puts it back; it stays registered."""
        return await _off_loop(
            lambda: self._sync.drain(service, instance, namespace=namespace, cancel=cancel, reason=reason)
        )

    async def deregister(
        self, service: str, instance: str, *, namespace: str = "default", epoch: int = 0, drain: bool = False
    ) -> DrainOutcome:
        """Removes an instance, after a drain if asked."""
        return await _off_loop(
            lambda: self._sync.deregister(service, instance, namespace=namespace, epoch=epoch, drain=drain)
        )
