"""What stands around a WSGI app (Flask, Django): the same as around an ASGI app, without a loop and a lifespan.

It begins with the import, under Gunicorn in a worker and never in the master. A process that imports it and listens
nowhere registers nothing. Deliberately absent: the health endpoint, as a WSGI app cannot be called beside its requests,
and the load, as there is no loop.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from waypost.service.lifecycle import Lifecycle

Environment = dict[str, Any]
App = Callable[[Environment, Callable[..., Any]], Iterable[bytes]]

_LATE_LEAVE = 5.0


class WsgiService:
    """A WSGI app around another one, which is registered while it is served."""

    def __init__(self, app: App, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._lock = threading.Lock()
        atexit.register(lifecycle.stop, _LATE_LEAVE)
        os.register_at_fork(after_in_child=self._forked)
        if not _in_gunicorn_master():
            lifecycle.start()

    def __call__(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI."""
        lifecycle = self._lifecycle
        with self._lock:  # a worker's first requests may come at once, each in a thread
            lifecycle.start()
        lifecycle.take_signals()
        if str(environ.get("SERVER_PORT", "")).isdigit():
            lifecycle.port = int(environ["SERVER_PORT"])
        self._count(1)
        try:
            body = self._app(environ, start_response)
        except BaseException:
            self._count(-1)
            raise
        return _Body(body, lambda: self._count(-1))

    def __getattr__(self, name: str) -> Any:
        """What is asked of the app beside WSGI (`app.run`, `app.test_client`) is the app's."""
        return getattr(self._app, name)

    def _count(self, step: int) -> None:
        with self._lock:
            self._lifecycle.in_flight += step

    def _forked(self) -> None:
        self._lock = threading.Lock()
        # A worker that Gunicorn has forked from a master that had loaded the app before (--preload).
        if "gunicorn.arbiter" in sys.modules and not self._lifecycle.started and _in_gunicorn_master():
            self._lifecycle.start()


class _Body:
    """The body, which says when it has ended."""

    def __init__(self, body: Iterable[bytes], ended: Callable[[], None]) -> None:
        self._body = body
        self._ended: Callable[[], None] | None = ended

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """WSGI: the server is done with it."""
        ended, self._ended = self._ended, None
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            if ended is not None:
                ended()


def _in_gunicorn_master() -> bool:
    """Whether the caller's callers are Gunicorn's arbiter, and no worker of it yet."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("gunicorn.workers"):
            return False
        if module == "gunicorn.arbiter":
            return True
        frame = frame.f_back
    return False
