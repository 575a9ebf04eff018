"""Idle connections to instances, to be used again.

One is kept for less than the 5 s for which uvicorn keeps it, so that a request seldom meets a connection that is just
being closed.

Deliberately absent: a limit on connections. In-flight requests are what a balancer sees; limits are the proxy's.
"""

from __future__ import annotations

import asyncio

from waypost.gateway.channel import connect
from waypost.gateway.http1 import Connection

_KEPT_FOR = 4.0
_KEPT = 64


class Pool:
    """The idle connections of one event loop, by address."""

    def __init__(self) -> None:
        self._idle: dict[str, list[tuple[Connection, asyncio.TimerHandle]]] = {}
        self._is_closed = False

    async def take(self, address: str, limit: float, *, fresh: bool = False) -> Connection:
        """A connection, the one that was used last or a new one. Raises ConnectFailed."""
        idle = self._idle.get(address, [])
        while idle and not fresh:
            connection, timer = idle.pop()
            timer.cancel()
            if not idle:
                del self._idle[address]
            if connection.is_reusable():
                return connection
            connection.channel.close()
        return Connection(await connect(address, limit))

    def give_back(self, address: str, connection: Connection) -> None:
        """Keeps a connection for another request, if it can carry one."""
        if self._is_closed or len(self._idle.get(address, ())) >= _KEPT or not connection.is_reusable():
            connection.channel.close()
            return
        timer = asyncio.get_running_loop().call_later(_KEPT_FOR, self._forget, address, connection)
        self._idle.setdefault(address, []).append((connection, timer))

    def close(self) -> None:
        """Closes all that is idle, and what is given back from now on."""
        self._is_closed = True
        for idle in self._idle.values():
            for connection, timer in idle:
                timer.cancel()
                connection.channel.close()
        self._idle.clear()

    def _forget(self, address: str, connection: Connection) -> None:
        connection.channel.close()
        left = [each for each in self._idle.get(address, []) if each[0] is not connection]
        if left:
            self._idle[address] = left
        else:
            self._idle.pop(address, None)
