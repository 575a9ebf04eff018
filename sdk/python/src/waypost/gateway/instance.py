"""An instance as requests see it: where it is, how much of the traffic it gets, and what is known of it here.

What was counted belongs to one process of it, so it survives each change of the table and ends with the lease's epoch.

Deliberately absent: health checks and outlier detection. The proxy has them; here an instance that cannot be
connected to cools down, and its lease says the rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TypedDict

from waypost.model import Instance, Protocol, State

_FIRST_COOLDOWN = 1.0
_LONGEST_COOLDOWN = 30.0
_PROBE = 1.0
_MOST_FAILURES = 8


class InstanceStatus(TypedDict):
    """What `get_service_status` says of an instance."""

    id: str
    url: str
    version: str
    state: str
    """The control plane's word, in lower case."""
    healthy: bool
    """Whether it gets requests now."""
    in_flight: int


@dataclass(eq=False)
class ServiceInstance:
    """One instance of a service."""

    id: str
    service: str
    namespace: str
    address: str
    """`host:port`."""
    epoch: int
    version: str = ""
    tags: tuple[str, ...] = ()
    zone: str = ""
    weight: int = 1
    share: float = 1.0
    """Its weight, and how much of the share that this gives it it gets now; above 0."""
    state: State = State.UP
    protocol: Protocol = Protocol.HTTP1
    metadata: dict[str, str] = field(default_factory=dict)
    renewed_at: str = ""
    """The last heartbeat that was told here, as RFC 3339 has it. Heartbeats alone are not told to gateways."""
    in_flight: int = 0
    """Requests and WebSockets under way."""
    _failures: int = 0
    _cool_until: float = 0.0
    _is_probed: bool = False

    @classmethod
    def of(cls, known: Instance) -> ServiceInstance:
        """An instance as the control plane says it is."""
        key = known.key
        instance = cls(key.id, key.service, key.namespace, known.address, known.epoch)
        instance.update(known)
        return instance

    def update(self, known: Instance) -> None:
        """Takes over what has changed in the same epoch."""
        declared = known.registration
        self.address = declared.address
        self.version = declared.version
        self.tags = declared.tags
        self.zone = declared.zone
        self.weight = 1 if declared.weight is None else declared.weight
        self.share = self.weight * (known.share_percent or 100) / 100
        self.state = known.state
        self.protocol = declared.protocol
        self.metadata = dict(declared.metadata)
        self.renewed_at = known.renewed_at

    @property
    def url(self) -> str:
        """Its address as a URL."""
        return f"http://{self.address}"

    @property
    def health_endpoint(self) -> str:
        """Where it is asked for its health, as `@Service` says it."""
        return self.metadata.get("health_endpoint", "/health")

    @property
    def last_heartbeat(self) -> datetime:
        """When it was last heard of, to the second: now while it is up, as a heartbeat that is missing is told here."""
        if self.state is State.UP or not self.renewed_at:
            return datetime.now(timezone.utc)
        return datetime.strptime(self.renewed_at[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)

    @property
    def takes_traffic(self) -> bool:
        """Whether the control plane wants it to get requests, and the gateway speaks what it speaks."""
        return self.state.takes_traffic and self.weight > 0 and self.protocol is Protocol.HTTP1

    @property
    def healthy(self) -> bool:
        """Whether it gets requests now."""
        return self.takes_traffic and self.is_cool(time.monotonic())

    def is_cool(self, now: float) -> bool:
        """Whether no failure keeps requests from it."""
        return self._cool_until <= now

    @property
    def due(self) -> float:
        """When it may be tried again."""
        return self._cool_until

    def begin(self, now: float) -> None:
        """A request begins. After a cooldown it is a probe, and the others wait for how it goes, for a second."""
        self.in_flight += 1
        if self._failures:
            self._is_probed = True
            self._cool_until = now + _PROBE

    def end(self) -> None:
        """A request is over."""
        self.in_flight -= 1

    def failed(self, now: float) -> None:
        """It could not be connected to, or closed a new connection without an answer: it is left alone for a while."""
        if self._cool_until > now and not self._is_probed:
            return  # of a request that began before
        self._is_probed = False
        self._failures = min(self._failures + 1, _MOST_FAILURES)
        self._cool_until = now + min(_FIRST_COOLDOWN * 2 ** (self._failures - 1), _LONGEST_COOLDOWN)

    def answered(self) -> None:
        """It has answered."""
        if self._failures:
            self._failures = 0
            self._cool_until = 0.0
            self._is_probed = False

    def status(self) -> InstanceStatus:
        """What `get_service_status` says of it."""
        return {
            "id": self.id,
            "url": self.url,
            "version": self.version,
            "state": self.state.name.lower(),
            "healthy": self.healthy,
            "in_flight": self.in_flight,
        }
