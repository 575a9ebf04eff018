"""The routes of the app that a gateway is mounted in: they come before services, wherever they stand.

`app.mount("/", gateway)` takes every path, so Starlette would never reach what is declared below it, as in

    app.mount("/", gateway)

    @app.get("/health")
    async def health(): ...

Deliberately absent: anything of Starlette's that is not public: an app's `routes`, and a route's `matches` and
`handle`.
"""

from __future__ import annotations

from typing import Any

from waypost.gateway.asgi import Receive, Scope, Send


async def own_route(gateway: object, scope: Scope, receive: Receive, send: Send) -> bool:
    """Lets the app around the gateway answer a request that it declares a route for; whether it did."""
    later = _declared_later(scope.get("app"), gateway)
    if not later:
        return False
    outer = dict(scope)
    outer["root_path"] = scope.get("app_root_path", "")
    for route in later:
        match, child = route.matches(outer)
        if match.name == "FULL":
            outer.update(child)
            await route.handle(outer, receive, send)
            return True
    return False


def _declared_later(app: Any, gateway: object) -> list[Any]:
    routes = list(getattr(app, "routes", ()))
    mounts = [at for at, route in enumerate(routes) if getattr(route, "app", None) is gateway]
    return routes[mounts[0] + 1 :] if mounts else []
