"""Which app a decorated handler belongs to.

1. The app whose routes lead to it: `@Service` stands above `@app.get`.
2. Else the app that the caller can see, in its own variables or in the handler's module: `@Service` stands below.
3. Else the only app that there is in the process.

An app that is mounted in another one does not count: what is registered is the process, by its outermost app.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

from waypost.errors import ConfigurationError
from waypost.service.endpoints import handlers, mounted


def is_app(thing: object) -> bool:
    """Whether it is a Starlette or FastAPI app."""
    applications = sys.modules.get("starlette.applications")
    return applications is not None and issubclass(type(thing), applications.Starlette)


def app_of(handler: Callable[..., Any], caller: FrameType | None, service: str) -> Any:
    """The app of a handler. ConfigurationError says why there is none, or which there are."""
    everywhere = _outermost(_alive())
    routed = [app for app in everywhere if any(each is handler for each in handlers(app))]
    if routed:
        return _only(routed, {}, handler, service)
    visible = _visible(handler, caller)
    near = _outermost(visible.values())
    if near:
        return _only(near, visible, handler, service)
    if everywhere:
        return _only(everywhere, {}, handler, service)
    raise ConfigurationError(
        f"@Service({service!r}) stands on {_named(handler)}, and there is no FastAPI or Starlette app to be seen from "
        f"there: put it on the app itself, where that is made: Service(name={service!r})(app)"
    )


def _visible(handler: Callable[..., Any], caller: FrameType | None) -> Mapping[str, object]:
    """Apps by the names under which the handler and its surroundings know them."""
    scopes: list[Mapping[str, object]] = [getattr(handler, "__globals__", {})]
    if caller is not None:
        scopes += [caller.f_globals, caller.f_locals]
    return {name: value for scope in scopes for name, value in list(scope.items()) if is_app(value)}


def _alive() -> list[object]:
    return [thing for thing in gc.get_objects() if is_app(thing)]


def _outermost(apps: Iterable[object]) -> list[object]:
    """Each once, without those that are mounted in another."""
    distinct = list({id(app): app for app in apps}.values())
    inner = {id(each) for app in distinct for each in mounted(app)}
    return [app for app in distinct if id(app) not in inner]


def _only(apps: list[object], names: Mapping[str, object], handler: Callable[..., Any], service: str) -> object:
    if len(apps) == 1:
        return apps[0]
    shown = [next((name for name, value in names.items() if value is app), None) for app in apps]
    listed = ", ".join(
        name or repr(getattr(app, "title", type(app).__name__)) for name, app in zip(shown, apps, strict=True)
    )
    raise ConfigurationError(
        f"@Service({service!r}) stands on {_named(handler)}, and there are {len(apps)} apps that it could mean "
        f"({listed}): put it on the one that is meant: Service(name={service!r})(app)"
    )


def _named(handler: Callable[..., Any]) -> str:
    return f"{getattr(handler, '__module__', '?')}.{getattr(handler, '__qualname__', repr(handler))}"
