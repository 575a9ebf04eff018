"""Which of the sockets at which a process listens is its server's.

A process may listen elsewhere, too: metrics, a debugger. When a socket came says whose it is.

    bound before the app starts ──▶ while it starts ──▶ after it has started
    older: inherited (Gunicorn,     the app's own:      newer: the server's, which binds
    workers, --fd), or a library's  never taken         when the app is ready (uvicorn)

1. The port at which a request has come in.
2. Under a server that hands its sockets down (Gunicorn): the only older one.
3. The port that uvicorn is to bind itself.
4. The only newer one.
5. An ASGI app's only older one, when no newer one has come. A WSGI app is started by its import, in whatever process
   that is, and so waits for its first request instead. A newer one it takes for its server's, of which most (waitress,
   werkzeug) have no other sign, and proxies send no first request to what is not registered: a process that imports it
   and then listens for something else is taken for its server.

A Unix socket counts like a port: where it is the server's, no other one is taken for it.

Deliberately absent: the sockets themselves; see `listener`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from waypost.service.listener import Listener, Name

# A server that binds itself does so at once when the app has started.
_BINDS_WITHIN = 2.0
# The file of Gunicorn's control socket, of which workers of some versions (25.1) inherit a copy.
_CONTROL_SOCKET = "gunicorn.ctl"


def _inherits() -> bool:
    """Whether this process' server has got its sockets from another process: if so, it has some when the app starts.

    Gunicorn may be imported without serving, by `uvicorn.workers` for one.
    """
    return "gunicorn.arbiter" in sys.modules


@dataclass(frozen=True)
class Evidence:
    """What is known of a process when its app has started."""

    before: frozenset[Name]
    """What it had bound when the app began to start."""
    ready: frozenset[Name]
    """Where it listened when the app had started."""
    hint: int | None = None
    """Which port uvicorn is to bind."""
    serves: bool = True
    """Whether a server has started the app, and not merely an import."""
    inherits: bool = field(default_factory=_inherits)

    def server(self, found: Sequence[Listener], asked: int | None, waited: float) -> list[Listener]:
        """The server's listener; several where it could be any of them. `asked`: the port of a request."""
        found = [each for each in found if Path(each.host).name != _CONTROL_SOCKET]
        newer = [each for each in found if each.name not in self.ready]
        older = [each for each in found if each.name in self.ready and each.name in self.before]
        inherits = self.inherits and (bool(older) or not self.serves)
        if asked is not None:
            matching = [each for each in found if each.port == asked]
            if matching or not inherits:  # a request that has come in nowhere is a test's
                return matching[:1]
        if inherits:
            return older
        hinted = [each for each in (*newer, *older) if self.hint is not None and each.port == self.hint]
        if hinted:
            return hinted[:1]
        waits = waited < _BINDS_WITHIN
        if newer:
            return [] if self.hint is not None and waits else newer
        return older if self.serves and not waits else []
