"""Tapper's `Service`: registers an app as the control plane would have it from Tapper's own client.

That client is `tyler-ag-tapper` 0.1.0; what the control plane makes of it: control-plane/src/http/tapper/TAPPER.md.
Deliberately absent: the client's own protocol. It is registered, kept and drained as every service of this SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import EllipsisType

from waypost import service
from waypost.model import Registration
from waypost.service.endpoints import endpoints
from waypost.service.settings import Settings

_MOST_TAGS = 64
_LONGEST_TAG = 128
_KEEP_PREFIX = "waypost.strip-prefix=false"


class _Settings(Settings):
    def endpoints(self, app: object) -> tuple[str, ...]:
        """Without a prefix all routes; else what the client does not put below it, as its text begins with it."""
        claimed = endpoints(app, hidden=True)
        prefix = self._prefix
        return tuple(each for each in claimed if not prefix or _is_beside(prefix, each.split(" ", 1)[1]))

    def registration(self, address: str, endpoints: tuple[str, ...]) -> Registration:
        """Without a prefix its name is none; only where it has no routes it is reached by its name."""
        registered = super().registration(address, endpoints)
        return registered if self._prefix else replace(registered, prefix="" if endpoints else None)

    @property
    def _prefix(self) -> str:
        return self.prefix if self.prefix and self.prefix.strip("/") else ""


class Service(service.Service):
    """`waypost.Service` for Tapper's services. Where it differs, it does as Tapper does.

    - All routes of FastAPI are claimed, also those that are not in the schema, and the health endpoint.
    - With a `prefix` they are reached below it only. Without one they are reached as they are, and not by the name.
    - `tags` are labels, and no tags of OpenAPI: those that cannot be one (blanks, no ASCII) are left out.
      `waypost.strip-prefix=false` is `strip_prefix=False`.
    """

    _settings_type = _Settings

    def __init__(  # noqa: PLR0917 (Tapper's order, in which they may be given by position)
        self,
        name: str,
        version: str = "1.0.0",
        description: str | None = None,
        prefix: str | None = None,
        health_endpoint: str | EllipsisType | None = ...,
        tags: Sequence[str] | None = None,
        registry_url: str | Sequence[str] | None = None,
        url: str | None = None,
        heartbeat_interval: float | None = None,
        *,
        namespace: str = "default",
        zone: str | None = None,
        weight: int | None = None,
        drain_timeout: float = 20.0,
        strip_prefix: bool | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if strip_prefix is None and _KEEP_PREFIX in (tags or ()):
            strip_prefix = False
        super().__init__(
            name,
            version,
            description or "",
            prefix,
            health_endpoint,
            tags if isinstance(tags, str) else [tag for tag in tags or () if _is_label(tag)][:_MOST_TAGS],
            registry_url,
            url,
            heartbeat_interval,
            namespace=namespace,
            zone=zone,
            weight=weight,
            drain_timeout=drain_timeout,
            strip_prefix=strip_prefix,
            metadata=metadata,
        )


def _is_label(tag: str) -> bool:
    return 0 < len(tag) <= _LONGEST_TAG and all("!" <= character <= "~" for character in tag)


def _is_beside(prefix: str, path: str) -> bool:
    """Whether a path begins with a prefix, but not its segments: `/payments-old` and `/payments`."""
    rest = path.removeprefix(prefix.rstrip("/"))
    return path.startswith(prefix) and not (rest == "" or rest.startswith("/"))
