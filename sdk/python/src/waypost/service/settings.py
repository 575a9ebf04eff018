"""What `@Service` is told: its options and the environment, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from waypost.errors import ConfigurationError
from waypost.model import Registration
from waypost.service.endpoints import endpoints
from waypost.service.rules import is_host

ADDRESS = "WAYPOST_ADDRESS"
ZONE = "WAYPOST_ZONE"
_LEASE = (1.0, 3600.0)
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """The options of a service."""

    name: str
    version: str = "1.0.0"
    description: str = ""
    prefix: str | None = None
    health_endpoint: str | None = "/health"
    tags: tuple[str, ...] = ()
    registry_url: str | Sequence[str] | None = None
    address: str | None = None
    """Where proxies reach it, where that is not to be found out."""
    ttl: float = 10.0
    namespace: str = "default"
    zone: str = ""
    weight: int | None = None
    drain_timeout: float = 20.0
    strip_prefix: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def endpoints(self, app: object) -> tuple[str, ...]:
        """What an app claims by its routes."""
        return endpoints(app, self.health_endpoint)

    def registration(self, address: str, endpoints: tuple[str, ...]) -> Registration:
        """What is registered for an address."""
        metadata = dict(self.metadata)
        if self.health_endpoint:
            metadata.setdefault("health_endpoint", self.health_endpoint)
        return Registration(
            service=self.name,
            address=address,
            namespace=self.namespace,
            version=self.version,
            description=self.description,
            tags=self.tags,
            zone=self.zone,
            weight=self.weight,
            prefix=self.prefix,
            strip_prefix=self.strip_prefix,
            endpoints=endpoints,
            metadata=metadata,
        )


def checked(
    *,
    name: object,
    tags: object,
    url: object,
    heartbeat_interval: object,
    zone: str | None,
    health_endpoint: object,
    drain_timeout: object,
    metadata: object = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """The options that need a look. Raises ConfigurationError, which names the option and what it must be."""
    environment = os.environ if environment is None else environment
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f'@Service needs a name, and not {name!r}: write @Service(name="users"), with parentheses'
        )
    if isinstance(tags, str):
        raise ConfigurationError(f"@Service({name!r}): tags={tags!r} is one text: write tags=[{tags!r}]")
    if not isinstance(tags or (), Iterable):
        raise ConfigurationError(f"@Service({name!r}): tags={tags!r} must be a list of texts")
    if not isinstance(metadata or {}, Mapping):
        raise ConfigurationError(f"@Service({name!r}): metadata={metadata!r} must be a dict of texts")
    if url and not isinstance(url, str):
        raise ConfigurationError(f"@Service({name!r}): url={url!r} must be a text, such as 'http://HOST:PORT'")
    if health_endpoint and not (isinstance(health_endpoint, str) and health_endpoint.startswith("/")):
        raise ConfigurationError(
            f"@Service({name!r}): health_endpoint={health_endpoint!r} must be a path that begins with a slash, or None"
        )
    if not 0 < _number(drain_timeout) < math.inf:
        raise ConfigurationError(
            f"@Service({name!r}): drain_timeout={drain_timeout!r} must be a number of seconds, more than 0"
        )
    ttl = 10.0 if heartbeat_interval is None else 3.0 * _number(heartbeat_interval)
    if not _LEASE[0] <= ttl <= _LEASE[1]:
        raise ConfigurationError(
            f"@Service({name!r}): heartbeat_interval={heartbeat_interval!r} must be a number, 1/3 to 1200 seconds: "
            "the lease is three times as long, and lives 1 s to 1 h"
        )
    place = cast(str, url) or environment.get(ADDRESS) or None
    return {
        "name": name,
        "tags": tuple(cast(Iterable[str], tags or ())),
        "ttl": ttl,
        "zone": zone if zone is not None else environment.get(ZONE, ""),
        "address": None if place is None else address(place, f"@Service({name!r}): url" if url else ADDRESS),
        "health_endpoint": health_endpoint or None,
        "drain_timeout": drain_timeout,
        "metadata": dict(cast(Mapping[str, str], metadata or {})),
    }


def _number(value: object) -> float:
    """A number; not a number (NaN), which no range has, where it is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def address(text: str, option: str) -> str:
    """Reads `http://host:port` or `host:port`; gives `host:port`."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80 if "://" in text else None)
    except ValueError:
        port = None
    if not parts.hostname or not is_host(parts.hostname) or port is None or not 0 < port <= _LARGEST_PORT:
        raise ConfigurationError(
            f"{option} = {text!r} is no address: write http://HOST:PORT or HOST:PORT, as proxies reach this instance "
            "(0.0.0.0 and [::] are for listening only)"
        )
    return host_port(parts.hostname, port)


def host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
