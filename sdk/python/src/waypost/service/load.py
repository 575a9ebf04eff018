"""How busy an event loop is: how long what is posted to it waits until it runs.

A native thread posts a probe and times it, so that a loop that is blocked is seen while it is. The mean over the last
seconds, weighed by time, against what counts as too long is the utilization: 1 is as much as the loop can take, above
that work queues up. Deliberately absent: what runs in threads (handlers that are not `async`), which does not keep a
loop from answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence

from waypost.model import Load
from waypost.service.roster import Word

# What waits for as long as this on the average has too much before it.
_TOO_LONG = 0.1
# A loop that was blocked for long is not taken for blocked much longer than it was.
_MOST = 0.5
_MEMORY = 2.0
# One worker that is stuck among others that are not is half of two, however stuck it is.
_MOST_OF_ONE = 2.0


class Lag:
    """The mean lag over the last seconds: the pure core. `now` comes in, in seconds."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._posted: float | None = None
        self._ran: float | None = None

    def due(self, now: float) -> bool:
        """Whether the next probe is to be posted now; the one before has run by then."""
        if self._posted is not None and self._ran is None:
            return False
        if self._posted is not None and self._ran is not None:
            self._mean = self._with(self._ran - self._posted, now - self._posted)
        self._posted, self._ran = now, None
        return True

    def ran(self, now: float) -> None:
        """The probe has run."""
        self._ran = now

    def utilization(self, now: float) -> float:
        """How busy it is; a probe that still waits counts for as long as it has waited."""
        mean = self._mean
        if self._posted is not None and self._ran is None:
            waits = now - self._posted
            mean = max(mean, self._with(waits, waits))
        return mean / _TOO_LONG

    def _with(self, lag: float, weight: float) -> float:
        keep = math.exp(-max(weight, 0.0) / _MEMORY)
        return self._mean * keep + min(max(lag, 0.0), _MOST) * (1.0 - keep)


class LoopProbe:
    """Probes one event loop, from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._lag = Lag()

    def tick(self) -> None:
        """To be called about ten times a second."""
        if self._lag.due(self._clock()):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._run)

    def utilization(self) -> float:
        """How busy the loop is."""
        return self._lag.utilization(self._clock())

    def _run(self) -> None:
        self._lag.ran(self._clock())


def together(words: Sequence[Word]) -> Load:
    """The load of an instance that several workers make up."""
    known = [min(word.utilization, _MOST_OF_ONE) for word in words if word.utilization is not None]
    application = round(sum(known) / len(known), 3) if known else None
    return Load(application=application, in_flight=sum(word.in_flight for word in words))
