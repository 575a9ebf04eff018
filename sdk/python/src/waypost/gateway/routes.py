"""Which route takes a request, by the proxy's rules (data-plane/TABLE.md).

Routes are a tree of path segments. A search goes down the literal first, then the parameter, and on the way back takes
what matches all that follows; so the first match is the most specific one.

Deliberately absent: who wins where two services claim the same route. The control plane decides that for everybody.
Declared routes (HTTPRoute) are the proxy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServiceKey:
    """Names a service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return self.name if self.namespace == "default" else f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Route:
    """A route, as the control plane gives it to proxies (`RouteEntry`)."""

    id: str
    service: ServiceKey
    path: str
    """A prefix, or a template with `{}` for any one segment and `{:path}` for all that follows."""
    method: str = ""
    """Empty means any."""
    is_prefix: bool = False
    strip_prefix: bool = False
    versions: tuple[str, ...] = ()
    """The versions of the service that answer; empty means any."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Route:
        """Reads the contract's RouteEntry."""
        service = entry.get("service") or {}
        return cls(
            id=entry.get("id", ""),
            service=ServiceKey(service.get("namespace") or "default", service.get("name", "")),
            path=entry.get("path", "/"),
            method=entry.get("method", ""),
            is_prefix=entry.get("match") == "PATH_MATCH_PREFIX",
            strip_prefix=bool(entry.get("strip_prefix", False)),
            versions=tuple(entry.get("versions") or ()),
        )


@dataclass(frozen=True)
class OtherMethods:
    """Routes match the path, for these methods only."""

    allow: tuple[str, ...]


Found = Route | OtherMethods | None


class _Methods:
    """The routes that end at one place, by method."""

    __slots__ = ("any", "named")

    def __init__(self) -> None:
        self.named: dict[str, Route] = {}
        self.any: Route | None = None

    def put(self, route: Route) -> None:
        if route.method:
            self.named[route.method] = route
        else:
            self.any = route

    def find(self, method: str) -> Route | None:
        found = self.named.get(method)
        if found is None and method == "HEAD":
            found = self.named.get("GET")
        return found or self.any


class _Node:
    __slots__ = ("exact", "exact_slash", "literals", "parameter", "prefix", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.exact = _Methods()
        self.exact_slash = _Methods()
        self.rest = _Methods()
        self.prefix = _Methods()

    def closest_first(self, segments: list[str], at: int) -> Iterator[_Methods]:
        """The places that match, the most specific one first. An empty last segment is a slash at the end."""
        left = len(segments) - at
        if left == 0:
            yield self.exact
        elif left == 1 and not segments[at]:
            yield self.exact_slash
        else:
            segment = segments[at]
            literal = self.literals.get(segment)
            if literal is not None:
                yield from literal.closest_first(segments, at + 1)
            if self.parameter is not None and segment:
                yield from self.parameter.closest_first(segments, at + 1)
        yield self.rest
        yield self.prefix

    def below(self, segment: str) -> _Node:
        if segment.startswith("{"):
            if self.parameter is None:
                self.parameter = _Node()
            return self.parameter
        return self.literals.setdefault(segment, _Node())


class Routes:
    """Routes, to be found by method and path."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self.by_id = {route.id: route for route in routes}
        self._root = _Node()
        for route in self.by_id.values():
            self._put(route)

    def find(self, method: str, path: str) -> Found:
        """The most specific route for a method and a normalised path."""
        allow: set[str] = set()
        for place in self._root.closest_first(_segments(path), 0):
            found = place.find(method)
            if found is not None:
                return found
            allow.update(place.named)
        if "GET" in allow:
            allow.add("HEAD")
        return OtherMethods(tuple(sorted(allow))) if allow else None

    def _put(self, route: Route) -> None:
        node = self._root
        segments = _segments(route.path.rstrip("/") or "/" if route.is_prefix else route.path)
        place = "prefix" if route.is_prefix else "exact"
        for at, segment in enumerate(segments):
            if at == len(segments) - 1 and not route.is_prefix:
                if segment.startswith("{") and segment.endswith(":path}"):
                    place = "rest"
                    break
                if not segment:
                    place = "exact_slash"
                    break
            node = node.below(segment)
        getattr(node, place).put(route)


def _segments(path: str) -> list[str]:
    return [] if path == "/" else path[1:].split("/")
