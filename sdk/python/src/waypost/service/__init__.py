"""`@Service`: registers a FastAPI or Starlette app when its server is ready, and takes it out without losing a request.

    options ──▶ the app that is meant ──▶ around it: ServiceMiddleware ──▶ Lifecycle, in each process that serves

Frameworks are recognised, never imported: an app brings its own.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import EllipsisType
from typing import Any, ClassVar, TypeVar, cast

from waypost.errors import ConfigurationError
from waypost.service import asgi, rules, wsgi
from waypost.service.find_app import app_of, is_app
from waypost.service.lifecycle import Lifecycle
from waypost.service.settings import Settings, checked

T = TypeVar("T")
log = logging.getLogger("waypost")

_HEALTH = "/health"

# Which service an app is; an app is one service.
_SERVICES: weakref.WeakKeyDictionary[Any, Settings] = weakref.WeakKeyDictionary()
# What a setting is called among the options, where it is called something else.
_OPTIONS = {"address": "url", "ttl": "heartbeat_interval"}


class Service:
    """Registers an app: `Service(name="users")(app)`, or as a decorator on any of its handlers.

    - `version`, `description`, `tags`, `namespace`, `zone` (or WAYPOST_ZONE), `weight`, `metadata`: what is registered.
    - `prefix`: the path below which proxies send requests, which they strip; `None` means `/<name>`, empty means none.
      `strip_prefix=False` leaves it on. The app's own endpoints are reachable as they are, too.
    - `health_endpoint`: asked within the process where the app has one; not given means `/health`, `None` means never.
      A WSGI app is not asked.
    - `registry_url`: the control plane or planes; else WAYPOST_REGISTRY_URL, TAPPER_REGISTRY_URL, TAPER_REGISTRY_URL.
    - `url`: where proxies reach this instance; else WAYPOST_ADDRESS, else where it listens.
    - `heartbeat_interval`: in seconds; the lease is three times as long. `None` means a lease of 10 s.
    - `drain_timeout`: for how many seconds the end of the program waits for requests at most.
    """

    _settings_type: ClassVar[type[Settings]] = Settings

    def __init__(  # noqa: PLR0917 (Tapper's order, in which they may be given by position)
        self,
        name: str,
        version: str = "1.0.0",
        description: str = "",
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
        self._wants_health = bool(health_endpoint) and health_endpoint is not ...
        looked_at = checked(
            name=name,
            tags=tags,
            url=url,
            heartbeat_interval=heartbeat_interval,
            zone=zone,
            health_endpoint=_HEALTH if health_endpoint is ... else health_endpoint,
            drain_timeout=drain_timeout,
            metadata=metadata,
        )
        self._settings = self._settings_type(
            version=version,
            description=description,
            prefix=prefix,
            registry_url=registry_url,
            namespace=namespace,
            weight=weight,
            strip_prefix=strip_prefix,
            **cast(dict[str, Any], looked_at),
        )
        # What is known before the server listens: all but its address and endpoints.
        rules.check(self._settings.registration("", ()))

    def __call__(self, target: T) -> T:
        """Registers the app, or the app of a handler, and returns what it was given."""
        if is_app(target):
            self._attach(target)
        elif callable(target) and hasattr(target, "__globals__"):
            self._attach(app_of(target, sys._getframe(1), self._settings.name))  # noqa: SLF001
        else:
            raise ConfigurationError(
                f"@Service({self._settings.name!r}) stands on {target!r}, which is neither a FastAPI or Starlette app "
                "nor a handler: wrap other apps with Service(...).asgi(app) or Service(...).wsgi(app)"
            )
        return target

    def asgi(self, app: Callable[..., Any]) -> asgi.ServiceMiddleware:
        """Wraps any other ASGI app; serve what is returned."""
        return asgi.ServiceMiddleware(app, self._lifecycle(app), self._settings.health_endpoint, self._settings.ttl / 3)

    def wsgi(self, app: Callable[..., Any]) -> wsgi.WsgiService:
        """Wraps a WSGI app, such as a Flask app; serve what is returned."""
        if self._wants_health:
            log.warning(
                "@Service(%r): health_endpoint=%r is only written into the metadata, and never asked: a WSGI app "
                "cannot be called beside its requests. Proxies can ask (healthCheck in its policy), or an agent",
                self._settings.name,
                self._settings.health_endpoint,
            )
        return wsgi.WsgiService(app, self._lifecycle(app))

    def _attach(self, app: Any) -> None:
        settings = self._settings
        known = _SERVICES.get(app)
        if known is not None:
            _same(known, settings)
            return
        try:
            app.add_middleware(
                asgi.ServiceMiddleware,
                lifecycle=self._lifecycle(app),
                health_endpoint=settings.health_endpoint,
                interval=settings.ttl / 3,
            )
        except RuntimeError as error:
            raise ConfigurationError(
                f"@Service({settings.name!r}): {error}; decorate the app where it is made, before it is served"
            ) from error
        _SERVICES[app] = settings

    def _lifecycle(self, app: Any) -> Lifecycle:
        settings = self._settings
        return Lifecycle(settings, lambda: settings.endpoints(app))


def _same(known: Settings, settings: Settings) -> None:
    """An app may be decorated more than once, but not with something else."""
    if known.name != settings.name:
        raise ConfigurationError(
            f"the app is registered as {known.name!r} already, and cannot be {settings.name!r}, too: one app is one "
            "service; make an app for each, or use prefix and endpoints to tell parts apart"
        )
    names = [each.name for each in fields(Settings) if getattr(known, each.name) != getattr(settings, each.name)]
    if names:
        other = ", ".join(_OPTIONS.get(name, name) for name in names)
        raise ConfigurationError(
            f"@Service({settings.name!r}) stands on the app more than once, and with another {other}: one app is one "
            "service; keep one of them"
        )
