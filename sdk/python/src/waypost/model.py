"""What is registered, as Python values: immutable, typed, and made of the contract's JSON (proto/waypost/v1).

Reading is lenient (a field that is not there has its default, one that is unknown is passed over), so that an older
SDK understands a newer control plane. Writing says only what was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from waypost.errors import WaypostError

Json = Mapping[str, Any]

_DURATION = re.compile(r"^-?\d+(\.\d{1,9})?s$")


def seconds(value: object) -> float | None:
    """A duration of proto3's JSON mapping (`"10s"`), in seconds."""
    if isinstance(value, str) and _DURATION.match(value):
        return float(value[:-1])
    return None


def duration(value: float) -> str:
    """Seconds as a duration of proto3's JSON mapping."""
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


def integer(value: object) -> int:
    """A number that may come as a string: proto3's JSON mapping writes 64-bit integers so."""
    return int(value) if isinstance(value, (str, int)) and value != "" else 0


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


class State(Enum):
    """Whether an instance takes traffic. Only `UP` and `SUSPECT` do."""

    UNSPECIFIED = "INSTANCE_STATE_UNSPECIFIED"
    UP = "INSTANCE_STATE_UP"
    DOWN = "INSTANCE_STATE_DOWN"
    DRAINING = "INSTANCE_STATE_DRAINING"
    SUSPECT = "INSTANCE_STATE_SUSPECT"

    @classmethod
    def from_json(cls, value: object) -> State:
        """A state of a newer contract is read as `UNSPECIFIED`."""
        return next((state for state in cls if state.value == value), cls.UNSPECIFIED)

    @property
    def takes_traffic(self) -> bool:
        """Whether requests are sent to it."""
        return self in (State.UP, State.SUSPECT)


class Protocol(Enum):
    """What an instance speaks."""

    HTTP1 = "PROTOCOL_HTTP1"
    HTTP2 = "PROTOCOL_HTTP2"
    GRPC = "PROTOCOL_GRPC"

    @classmethod
    def from_json(cls, value: object) -> Protocol:
        """What is not said or not known is read as HTTP/1.1."""
        return next((protocol for protocol in cls if protocol.value == value), cls.HTTP1)


@dataclass(frozen=True, order=True)
class InstanceKey:
    """Names one instance of a service."""

    namespace: str
    service: str
    id: str

    @classmethod
    def from_json(cls, value: Json) -> InstanceKey:
        """Reads the contract's InstanceKey."""
        return cls(value.get("namespace") or "default", value.get("service", ""), value.get("id", ""))

    def to_json(self) -> dict[str, Any]:
        """The contract's InstanceKey."""
        return {"namespace": self.namespace, "service": self.service, "id": self.id}

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}/{self.id}"


@dataclass(frozen=True)
class Registration:
    """What is declared about one instance. What is left out has the control plane's default."""

    service: str
    """The service's name: 1 to 63 letters, digits, `-`, `_` or `.`."""
    address: str
    """Where proxies connect: `host:port`."""
    namespace: str = "default"
    id: str = ""
    """Unique within the service; empty means the address."""
    version: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    zone: str = ""
    weight: int | None = None
    """The share of traffic relative to the other instances, 0 to 65535; `None` means 1."""
    protocol: Protocol = Protocol.HTTP1
    prefix: str | None = None
    """The path prefix that routes to the service; `None` means `/<service>`, empty means no prefix route."""
    strip_prefix: bool | None = None
    """Whether the prefix is removed before a request is forwarded; `None` means yes."""
    endpoints: tuple[str, ...] = ()
    """What it answers, as `METHOD /path/{parameter}`; forwarded with the path unchanged."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    start_unhealthy: bool = False
    """Whether it starts out of rotation, until its health is reported as good."""

    def __post_init__(self) -> None:
        # Who does not check types gives lists, which may change and are not equal to what is read back.
        object.__setattr__(self, "tags", tuple(self.tags))
        object.__setattr__(self, "endpoints", tuple(self.endpoints))

    @property
    def key(self) -> InstanceKey:
        """Its name; where no id is given, its address is its id."""
        return InstanceKey(self.namespace, self.service, self.id or self.address)

    @classmethod
    def from_json(cls, value: Json) -> Registration:
        """Reads the contract's InstanceSpec."""
        return cls(
            service=value.get("service", ""),
            address=value.get("address", ""),
            namespace=value.get("namespace") or "default",
            id=value.get("id", ""),
            version=value.get("version", ""),
            description=value.get("description", ""),
            tags=_texts(value.get("tags")),
            zone=value.get("zone", ""),
            weight=value.get("weight"),
            protocol=Protocol.from_json(value.get("protocol")),
            prefix=value.get("prefix"),
            strip_prefix=value.get("strip_prefix"),
            endpoints=_texts(value.get("endpoints")),
            metadata=dict(value.get("metadata") or {}),
            start_unhealthy=bool(value.get("start_unhealthy", False)),
        )

    def to_json(self) -> dict[str, Any]:
        """The contract's InstanceSpec."""
        given: dict[str, Any] = {
            "service": self.service,
            "namespace": self.namespace,
            "id": self.id,
            "address": self.address,
            "version": self.version,
            "description": self.description,
            "tags": list(self.tags),
            "zone": self.zone,
            "protocol": self.protocol.value,
            "endpoints": list(self.endpoints),
            "metadata": dict(self.metadata),
            "start_unhealthy": self.start_unhealthy,
        }
        said = {name: value for name, value in given.items() if value}
        optional = {"weight": self.weight, "prefix": self.prefix, "strip_prefix": self.strip_prefix}
        return said | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Instance:
    """One registered instance, as the registry holds it."""

    key: InstanceKey
    registration: Registration
    state: State
    reason: str
    """Why it is in that state, in words."""
    epoch: int
    """It grows with each registration: another epoch is another process."""
    ttl: float
    """How long the lease lives without a heartbeat, in seconds."""
    revision: int
    share_percent: int
    """How much of the share that its weight gives it proxies send it now, 1 to 100."""
    registered_at: str
    renewed_at: str
    client: str

    @classmethod
    def from_json(cls, value: Json) -> Instance:
        """Reads the contract's Instance."""
        return cls(
            key=InstanceKey.from_json(value.get("key") or {}),
            registration=Registration.from_json(value.get("spec") or {}),
            state=State.from_json(value.get("state")),
            reason=value.get("reason", ""),
            epoch=integer(value.get("epoch", 0)),
            ttl=seconds(value.get("ttl")) or 0.0,
            revision=integer(value.get("revision", 0)),
            share_percent=integer(value.get("share_percent") or 100),
            registered_at=value.get("registered_at", ""),
            renewed_at=value.get("renewed_at", ""),
            client=value.get("client", ""),
        )

    @property
    def address(self) -> str:
        """Where it is: `host:port`."""
        return self.registration.address

    @property
    def version(self) -> str:
        """The version of its software."""
        return self.registration.version


@dataclass(frozen=True)
class Endpoint:
    """An instance that takes traffic, as `resolve` gives it: all that is needed to reach it."""

    key: InstanceKey
    address: str
    version: str
    zone: str
    weight: int
    protocol: Protocol
    tags: tuple[str, ...]
    epoch: int
    share_percent: int

    @classmethod
    def from_json(cls, value: Json) -> Endpoint:
        """Reads the contract's InstanceEntry."""
        return cls(
            key=InstanceKey.from_json(value.get("key") or {}),
            address=value.get("address", ""),
            version=value.get("version", ""),
            zone=value.get("zone", ""),
            weight=integer(value.get("weight", 0)),
            protocol=Protocol.from_json(value.get("protocol")),
            tags=_texts(value.get("tags")),
            epoch=integer(value.get("epoch", 0)),
            share_percent=integer(value.get("share_percent") or 100),
        )

    @property
    def url(self) -> str:
        """Its address as a URL."""
        return f"http://{self.address}"


@dataclass(frozen=True)
class ServiceSummary:
    """A service: a name, and its instances summed up."""

    namespace: str
    name: str
    description: str
    up: int
    down: int
    draining: int
    suspect: int
    versions: tuple[str, ...]
    tags: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Json) -> ServiceSummary:
        """Reads the contract's Service."""
        key = value.get("key") or {}
        return cls(
            namespace=key.get("namespace") or "default",
            name=key.get("name", ""),
            description=value.get("description", ""),
            up=integer(value.get("up", 0)),
            down=integer(value.get("down", 0)),
            draining=integer(value.get("draining", 0)),
            suspect=integer(value.get("suspect", 0)),
            versions=_texts(value.get("versions")),
            tags=_texts(value.get("tags")),
        )


@dataclass(frozen=True)
class WatchStep:
    """A step of a watch, with all that is known after it."""

    instances: Mapping[InstanceKey, Instance]
    """Everything that matches now."""
    changed: tuple[InstanceKey, ...]
    """What is new or different since the step before."""
    removed: tuple[InstanceKey, ...]
    """What is gone since the step before."""
    revision: int
    connected: bool = True
    """False while the control plane is away: the instances are the last that were known."""
    error: WaypostError | None = None
    """Why it is away."""


@dataclass(frozen=True)
class Load:
    """How busy an instance is, in the words of ORCA (gRFC A51). From a utilization of 0.8 on it gets less traffic."""

    application: float | None = None
    """What it does of what it can do: 0 is idle, 1 is as much as it can take, above 1 work queues up."""
    cpu: float | None = None
    memory: float | None = None
    in_flight: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The contract's LoadReport."""
        given: dict[str, Any] = {
            "application_utilization": self.application,
            "cpu_utilization": self.cpu,
            "memory_utilization": self.memory,
            "in_flight": None if self.in_flight is None else str(self.in_flight),
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Grant:
    """A lease that the control plane has granted."""

    key: InstanceKey
    epoch: int
    ttl: float
    interval: float
    """How often to send a heartbeat, in seconds."""
    conflicts: tuple[str, ...] = ()
    """Routes that an older claim of another service holds, in words."""

    @classmethod
    def from_json(cls, value: Json) -> Grant:
        """Reads the contract's RegisterResponse."""
        ttl = seconds(value.get("ttl")) or 10.0
        if not value.get("key") or not integer(value.get("epoch", 0)):
            raise ValueError("a grant without a key or an epoch")
        interval = seconds(value.get("heartbeat_interval")) or ttl / 3
        conflicts = tuple(
            f"{each.get('route', '')} is held by {(each.get('winner') or {}).get('name', 'another service')}"
            for each in value.get("conflicts") or ()
        )
        key = InstanceKey.from_json(value.get("key") or {})
        return cls(key, integer(value.get("epoch", 0)), ttl, interval if interval < ttl else ttl / 3, conflicts)


@dataclass(frozen=True)
class DrainOutcome:
    """How a drain ended."""

    complete: bool
    """Every live proxy had applied it, with nothing in flight: nothing can have been cut off."""
    took: float
    """How long it took, in seconds."""
    in_flight: int = 0
    waiting_for: tuple[str, ...] = ()
    """The proxies that were waited for when the deadline passed."""
    reason: str = ""
    """Why it is not complete, where it is not a matter of time: the lease was lost, or nobody answered."""
    gone: bool = False
    """The control plane did not know the instance (any more), so that nothing was waited for. Where it has lost its
    registry, proxies go by what they knew until it has settled (10 s by default): keep serving for that long."""

    @classmethod
    def from_json(cls, value: Json | None, took: float) -> DrainOutcome:
        """Reads the contract's DrainOutcome; none was asked for where there is none."""
        if not value:
            return cls(True, took)
        return cls(
            complete=bool(value.get("complete", False)),
            took=seconds(value.get("took")) or took,
            in_flight=integer(value.get("in_flight", 0)),
            waiting_for=_texts(value.get("waiting_for")),
        )

    def __str__(self) -> str:
        if self.complete:
            return f"complete after {self.took:.3f} s"
        if self.reason:
            return f"not drained after {self.took:.3f} s: {self.reason}"
        waiting = ", ".join(self.waiting_for) or "nobody"
        return f"incomplete after {self.took:.3f} s: {self.in_flight} in flight, waiting for {waiting}"
