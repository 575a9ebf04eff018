"""Which endpoints an app answers: its routes, as the contract's `METHOD /path/{parameter}`.

Routers, mounts and prefixes are followed. Left out is what no service should claim for itself on a shared address
(what is not in the app's schema, such as /docs, and the health endpoint) and what the contract cannot say (segments
after a `path` parameter, routes by host): all of it is still reachable by the service's prefix. A segment of which a
part is a parameter (`{name}.json`) stands for any segment, as the contract has nothing closer.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# As many as an instance may declare, the first ones.
MOST = 1024
_LITERAL = re.compile(r"[!$&'()+,\-.0-9:;=@A-Z\[\]^_`a-z|~]+")
_PARAMETER = re.compile(r"\{([A-Za-z0-9_-]*)(?::([A-Za-z0-9_-]*))?\}")


def endpoints(app: object, health_endpoint: str | None = None, *, hidden: bool = False) -> tuple[str, ...]:
    """The endpoints of an app, in the order of its routes. `hidden`: those of FastAPI that its schema hides, too."""
    found: dict[str, None] = {}
    for path, methods, _ in _walk(getattr(app, "routes", ()), "", _is_handled if hidden else _is_in_schema):
        shown = template(path)
        if shown is None or path == health_endpoint:
            continue
        for method in sorted(methods):
            if method != "HEAD" or "GET" not in methods:
                found[f"{method} {shown}"] = None
    return tuple(found)


def handlers(app: object) -> Iterator[Callable[..., Any]]:
    """The functions that an app's routes lead to."""
    for _, _, handler in _walk(getattr(app, "routes", ()), "", lambda _: True):
        if callable(handler):
            yield handler


def mounted(app: object) -> Iterator[object]:
    """The apps that are mounted in an app, at any depth."""
    for route in getattr(app, "routes", ()) or ():
        inner = getattr(route, "app", None)
        if inner is not None and type(route).__name__ in ("Mount", "Host"):
            yield inner
            yield from mounted(inner)


def template(path: str) -> str | None:
    """A path of Starlette's as a template; None if it cannot be said: `/a/{b:int}` becomes `/a/{b}`."""
    if not path.startswith("/"):
        return None
    if path == "/":
        return path
    segments = path[1:].removesuffix("/").split("/")
    shown = [_segment(segment, at + 1 == len(segments)) for at, segment in enumerate(segments)]
    if not all(shown):
        return None
    return "/" + "/".join(segment for segment in shown if segment) + ("/" if path.endswith("/") else "")


def _segment(text: str, last: bool) -> str | None:
    parameter = _PARAMETER.fullmatch(text)
    if parameter is None:
        if _PARAMETER.search(text) and ":path}" not in text:
            return "{any}"
        return text if _LITERAL.fullmatch(text) and text not in (".", "..") else None
    name, convertor = parameter.groups()
    if convertor == "path":
        return f"{{{name}:path}}" if last else None
    return f"{{{name}}}"


def _walk(
    routes: Iterable[object], prefix: str, wanted: Callable[[object], bool]
) -> Iterator[tuple[str, set[str], object]]:
    """Each route with its whole path, its methods and what handles it."""
    for route in _flat(routes or ()):
        path = prefix + (getattr(route, "path", None) or "")
        inner = getattr(route, "routes", None)
        if inner is not None:
            if getattr(route, "host", None) is None:
                yield from _walk(inner, path.rstrip("/"), wanted)
            continue
        handler = getattr(route, "endpoint", None)
        if handler is None or not wanted(route):
            continue
        if hasattr(getattr(route, "original_route", route), "methods"):
            yield path, set(route.methods or {"*"}), handler
        else:  # a WebSocket begins as a GET
            yield path, {"GET"}, handler


def _is_in_schema(route: object) -> bool:
    return bool(getattr(route, "include_in_schema", True))


def _is_handled(route: object) -> bool:
    """What FastAPI adds by itself (/docs, /openapi.json) is hidden, and depends on nothing."""
    return _is_in_schema(route) or hasattr(route, "dependant")


def _flat(routes: Iterable[object]) -> Iterable[Any]:
    """FastAPI keeps routers that are included as they are since 0.13x, and says how to see through them."""
    routing = sys.modules.get("fastapi.routing")
    see_through = getattr(routing, "iter_route_contexts", None)
    return routes if see_through is None else see_through(list(routes))
