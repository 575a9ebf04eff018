"""The client: everything that a program asks the control plane, as blocking calls."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from types import TracebackType

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
from waypost.transport import Transport
from waypost.watch import Watch


class Client:
    """A control plane, or several that share one registry. Threads may share a client.

    `urls` is one URL, a list, or several with commas between; without it the environment names them
    (WAYPOST_REGISTRY_URL, TAPPER_REGISTRY_URL, TAPER_REGISTRY_URL), and without that it is http://127.0.0.1:7401.
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
        """Drains what is still registered."""
        for registered in list(self._registered):
            registered.drain()

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
        lease = new_lease(registration, ttl)
        registered = Registered(
            self._keeper, lambda: Transport(self._urls), lease, self._client, drain_timeout, left=self._left
        )
        self._keeper.keep(lease)

        def settled() -> bool:
            hopeless = lease.error is not None and not lease.error.is_retryable
            return lease.phase in (Phase.HELD, Phase.OVER) or hopeless

        if wait > 0:
            self._keeper.wait(settled, wait)
            if lease.phase is not Phase.HELD:
                error = lease.error or self._keeper.away or superseded(lease)
                self._keeper.forget(lease)
                raise error
        self._registered[registered] = None
        return registered

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
        """The instances of a service that take traffic now, those of `zone` first; NotFoundError if there is none."""
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
        path = _path(InstanceKey(namespace, service, instance)) + "/drain"
        answer = self._transport.call("POST", path, body=body, timeout=timeout + self._timeout)
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
        patience = self._timeout + (timeout if drain else 0.0)
        path = _path(InstanceKey(namespace, service, instance))
        answer = self._transport.call("DELETE", path, query=query, timeout=patience)
        return DrainOutcome.from_json(answer.get("drain"), 0.0)


def _path(key: InstanceKey) -> str:
    return f"/v1/instances/{key.namespace}/{key.service}/{key.id}"
