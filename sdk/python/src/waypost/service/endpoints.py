"""Which endpoints an app answers: its routes, as the contract's `METHOD /path/{parameter}`.

Routers, mounts and prefixes are followed. Left out is what no service should claim for itself on a shared address
(what is not in the app's schema, such as /docs, and the health endpoint) and what the contract cannot say (a part of a
segment as a parameter, routes by host): all of it is still reachable by the service's prefix.
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


def endpoints(app: object, health_endpoint: str | None = None) -> tuple[str, ...]:
    """The endpoints of an app, in the order of its routes."""
    found: dict[str, None] = {}
    for path, methods, _ in _walk(getattr(app, "routes", ()), ""):
        shown = template(path)
        if shown is None or path == health_endpoint:
            continue
        for method in sorted(methods):
            if method != "HEAD" or "GET" not in methods:
                found[f"{method} {shown}"] = None
    return tuple(found)


def handlers(app: object) -> Iterator[Callable[..., Any]]:
    """The functions that an app's routes lead to."""
    for _, _, handler in _walk(getattr(app, "routes", ()), "", hidden=True):
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
        return text if _LITERAL.fullmatch(text) and text not in (".", "..") else None
    name, convertor = parameter.groups()
    if convertor == "path":
        return f"{{{name}:path}}" if last else None
    return f"{{{name}}}"


def _walk(routes: Iterable[object], prefix: str, hidden: bool = False) -> Iterator[tuple[str, set[str], object]]:
    """Each route with its whole path, its methods and what handles it."""
    for route in _flat(routes or ()):
        path = prefix + (getattr(route, "path", None) or "")
        inner = getattr(route, "routes", None)
        if inner is not None:
            if getattr(route, "host", None) is None:
                yield from _walk(inner, path.rstrip("/"), hidden)
            continue
        handler = getattr(route, "endpoint", None)
        if handler is None or not (hidden or getattr(route, "include_in_schema", True)):
            continue
        if hasattr(getattr(route, "original_route", route), "methods"):
            yield path, set(route.methods or {"*"}), handler
        else:  # a WebSocket begins as a GET
            yield path, {"GET"}, handler


def _flat(routes: Iterable[object]) -> Iterable[Any]:
    """FastAPI keeps routers that are included as they are since 0.13x, and says how to see through them."""
    routing = sys.modules.get("fastapi.routing")
    see_through = getattr(routing, "iter_route_contexts", None)
    return routes if see_through is None else see_through(list(routes))
