"""The client: everything that a program asks the control plane, as blocking calls."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from waypost.errors import ControlPlaneUnreachableError
from waypost.keeper import Keeper, new_lease, superseded
from waypost.leases import Phase
from waypost.model import (
    DrainOutcome,
    Endpoint,
    Instance,
    InstanceKey,
    Registration,
    ServiceSummary,
    State,
    duration,
)
from waypost.registered import Registered
from waypost.transport import Transport, instance_path
from waypost.watch import Watch

# How many instances a client drains at a time when it is closed.
_SIDE_BY_SIDE = 64


class Client:
    """A control plane, or several that share one registry. Threads may share a client.

    `urls` is one URL, a list, or several with commas between; without it the environment names them
    (WAYPOST_REGISTRY_URL, TAPPER_REGISTRY_URL, TAPER_REGISTRY_URL), and without that it is http://127.0.0.1:7401.
    A call takes at most `timeout` seconds, however many control planes it asks.
    """

    def __init__(self, urls: str | Sequence[str] | None = None, *, client: str = "", timeout: float = 5.0) -> None:
        self._urls = [str(address) for address in Transport(urls).addresses]
        self._timeout = timeout
        self._client = client or f"{socket.gethostname()}/pid-{os.getpid()}"
        self._transport = Transport(self._urls)
        self._keeper = Keeper(lambda: Transport(self._urls, keep=True), self._client)
        # A dictionary is a set that keeps the order.
        self._registered: dict[Registered, None] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The control plane in use."""
        return str(self._transport.current)

    def close(self) -> None:
        """Drains what is still registered, side by side."""
        waiting = list(self._registered)

        def drain_the_rest() -> None:
            with contextlib.suppress(IndexError):
                while True:
                    waiting.pop().drain()

        helpers = [threading.Thread(target=drain_the_rest, daemon=True) for _ in waiting[1:_SIDE_BY_SIDE]]
        with contextlib.suppress(RuntimeError):  # at the interpreter's end no thread can be started: one by one, then
            for helper in helpers:
                helper.start()
        drain_the_rest()
        for helper in helpers:
            if helper.ident is not None:
                helper.join()

    def register(
        self,
        registration: Registration,
        *,
        ttl: float = 10.0,
        wait: float = 30.0,
        drain_timeout: float = 30.0,
    ) -> Registered:
        """Registers an instance, and keeps it registered until it is drained.

        Waits at most `wait` seconds for the control plane to grant it, and raises what it says or why it cannot be
        reached. With `wait=0` it returns at once, and goes on trying for ever.
        """
        registered, granted = self._begin(registration, ttl, drain_timeout)
        if wait > 0:
            granted(wait)
        return registered

    def _begin(
        self, registration: Registration, ttl: float, drain_timeout: float
    ) -> tuple[Registered, Callable[[float], None]]:
        """Begins to register an instance, and returns as well how to wait until that is granted, or raise why not."""
        lease = new_lease(registration, ttl)
        registered = Registered(
            self._keeper, lambda: Transport(self._urls), lease, self._client, drain_timeout, left=self._left
        )

        def settled() -> bool:
            hopeless = lease.error is not None and not lease.error.is_retryable
            return lease.phase in (Phase.HELD, Phase.OVER) or hopeless

        def granted(wait: float) -> None:
            self._keeper.wait(settled, wait)
            if lease.phase is not Phase.HELD:
                late = ControlPlaneUnreachableError(f"{lease.key}: no control plane has granted it within {wait:g} s")
                other = superseded(lease) if lease.phase is Phase.OVER and not lease.leaving else late
                error = lease.error or self._keeper.away or other
                self._keeper.give_up(lease)
                self._left(registered)
                raise error

        self._registered[registered] = None
        self._keeper.keep(lease)
        return registered, granted

    def _left(self, registered: Registered) -> None:
        self._registered.pop(registered, None)

    def services(self, namespace: str = "") -> list[ServiceSummary]:
        """All services, sorted by name; empty means of all namespaces."""
        answer = self._transport.call("GET", "/v1/services", query={"namespace": namespace}, timeout=self._timeout)
        return [ServiceSummary.from_json(each) for each in answer.get("services") or ()]

    def instances(
        self,
        service: str = "",
        *,
        namespace: str = "",
        version: str = "",
        tags: Sequence[str] = (),
        state: State = State.UNSPECIFIED,
    ) -> list[Instance]:
        """The instances for which all that is given holds, whatever their state is."""
        query = {
            "service": service,
            "namespace": namespace,
            "version": version,
            "tag": list(tags),
            "state": "" if state is State.UNSPECIFIED else state.value.removeprefix("INSTANCE_STATE_").lower(),
        }
        answer = self._transport.call("GET", "/v1/instances", query=query, timeout=self._timeout)
        return [Instance.from_json(each) for each in answer.get("instances") or ()]

    def resolve(
        self,
        service: str,
        *,
        namespace: str = "default",
        version: str = "",
        tags: Sequence[str] = (),
        zone: str = "",
    ) -> list[Endpoint]:
        """The instances of a service that take traffic now, those of `zone` first; there is one at least.

        NotFoundError: there is no such service, or none of its instances has that version and those tags. RefusedError
        with a status of 503: there are some, and none of them takes traffic now.
        """
        query = {"service": service, "namespace": namespace, "version": version, "tag": list(tags), "zone": zone}
        answer = self._transport.call("GET", "/v1/resolve", query=query, timeout=self._timeout)
        return [Endpoint.from_json(each) for each in answer.get("instances") or ()]

    def watch(self, service: str = "", *, namespace: str = "") -> Watch:
        """Each change to the instances that match, with all of them as they are then; it outlives outages."""
        return Watch(Transport(self._urls), service, namespace)

    def drain(
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
        body = {
            "wait": not cancel,
            "cancel": cancel,
            "deadline": duration(timeout),
            "reason": reason,
            "client": self._client,
        }
        path = instance_path(InstanceKey(namespace, service, instance)) + "/drain"
        answer = self._transport.call("POST", path, body=body, timeout=self._timeout, waits=timeout)
        return DrainOutcome.from_json(answer.get("drain"), 0.0)

    def deregister(
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
        query = {
            "epoch": str(epoch),
            "drain": drain,
            "drain_deadline": duration(timeout) if drain else "",
            "reason": reason,
            "client": self._client,
        }
        path = instance_path(InstanceKey(namespace, service, instance))
        waits = timeout if drain else 0.0
        answer = self._transport.call("DELETE", path, query=query, timeout=self._timeout, waits=waits)
        return DrainOutcome.from_json(answer.get("drain"), 0.0)
