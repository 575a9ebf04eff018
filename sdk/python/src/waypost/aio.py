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
from waypost.errors import WaypostError
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

    @property
    def registration(self) -> Registration:
        """What is registered."""
        return self._registered.registration

    @property
    def epoch(self) -> int:
        """The lease's epoch; it grows with each registration. 0 before the first."""
        return self._registered.epoch

    @property
    def error(self) -> WaypostError | None:
        """Why the lease is not held, where there is a reason."""
        return self._registered.error

    async def wait(self, timeout: float) -> bool:
        """Waits until the lease is held, at most so many seconds."""
        return await _off_loop(lambda: self._registered.wait(timeout))

    def set_health(self, healthy: bool, reason: str = "") -> None:
        """Takes the instance out of rotation, and puts it back."""
        self._registered.set_health(healthy, reason)

    def set_load(self, load: Load | None) -> None:
        """Says how busy the instance is."""
        self._registered.set_load(load)

    def update(self, registration: Registration) -> None:
        """Registers something else in place of what is registered."""
        self._registered.update(registration)

    async def release(self) -> None:
        """Stops the heartbeats without deregistering: another process of the same instance goes on with it."""
        await _off_loop(self._registered.release)

    async def drain(self, timeout: float | None = None) -> DrainOutcome:
        """Takes the instance out through the drain barrier; keep serving until it returns."""
        return await _off_loop(lambda: self._registered.drain(timeout))

    async def deregister(self, reason: str = "") -> DrainOutcome:
        """Takes the instance out at once."""
        return await _off_loop(lambda: self._registered.deregister(reason))


class AsyncWatch:
    """Steps of a watch, as an asynchronous iterator; `aclose`, or the end of `async with`, ends it.

    So does a wait for a step that is cancelled, by `asyncio.wait_for` for example. Whoever looks now and then keeps the
    step: `step = asyncio.ensure_future(anext(watch))`, and `await asyncio.wait({step}, timeout=1)` until it is done.
    """

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
        await self.close()

    @property
    def url(self) -> str:
        """The control plane in use."""
        return self._sync.url

    async def close(self) -> None:
        """Drains what is still registered."""
        await _off_loop(self._sync.close)

    async def register(
        self, registration: Registration, *, ttl: float = 10.0, wait: float = 30.0, drain_timeout: float = 30.0
    ) -> AsyncRegistered:
        """Registers an instance, and keeps it registered until it is drained. Cancelled, it leaves none registered."""
        registered, granted = self._sync._begin(registration, ttl, drain_timeout)  # noqa: SLF001 (the two are one)
        # Nobody holds the lease of a call that is cancelled. The end of the program waits for this thread.
        leave = threading.Thread(target=registered.deregister, args=("its registration was cancelled",))
        if wait > 0:
            await _off_loop(lambda: granted(wait), leave.start)
        return AsyncRegistered(registered)

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
        """The instances of a service that take traffic now; see `Client.resolve` for what it raises."""
        return await _off_loop(
            lambda: self._sync.resolve(service, namespace=namespace, version=version, tags=tags, zone=zone)
        )

    def watch(self, service: str = "", *, namespace: str = "") -> AsyncWatch:
        """Each change to the instances that match, with all of them as they are then."""
        return AsyncWatch(self._sync.watch(service, namespace=namespace))

    async def drain(
        self,
        service: str,
        instance: str,
        *,
        namespace: str = "default",
        timeout: float = 30.0,
        cancel: bool = False,
        reason: str = "",
    ) -> DrainOutcome:
        """Takes an instance out of rotation, or with `cancel` puts it back; it stays registered.

        Returns when no proxy has a request in flight to it; after `timeout` seconds it says who was waited for.
        """
        call = lambda: self._sync.drain(  # noqa: E731
            service, instance, namespace=namespace, timeout=timeout, cancel=cancel, reason=reason
        )
        return await _off_loop(call)

    async def deregister(
        self,
        service: str,
        instance: str,
        *,
        namespace: str = "default",
        epoch: int = 0,
        drain: bool = False,
        timeout: float = 30.0,
        reason: str = "",
    ) -> DrainOutcome:
        """Removes an instance, after a drain if asked; epoch 0 means whichever is there."""
        call = lambda: self._sync.deregister(  # noqa: E731
            service, instance, namespace=namespace, epoch=epoch, drain=drain, timeout=timeout, reason=reason
        )
        return await _off_loop(call)
