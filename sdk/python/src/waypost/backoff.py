"""How long to wait before the next attempt.

Each wait is between half and the whole of a bound that doubles ("equal jitter"), so that a thousand clients that
lost one control plane do not come back together. The waiting itself is the caller's.
"""

from __future__ import annotations

import random


class Backoff:
    """Grows with each failure until `reset`."""

    def __init__(self, first: float, longest: float, seed: int | None = None) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0
        self._random = random.Random(seed)  # noqa: S311 (spreads clients, guards nothing)

    def after_failure(self) -> float:
        """The seconds to wait after one more failure."""
        bound = min(self._first * 2.0 ** min(self._failures, 60), self._longest)
        self._failures += 1
        return bound * (0.5 + self._random.random() / 2)

    def reset(self) -> None:
        """Something has worked: the next failure is a first one."""
        self._failures = 0
