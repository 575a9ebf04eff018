"""What is due when, and what a result means: the pure core of the keep-alive.

    HELD ──UNKNOWN──▶ WANTED(at) ──at──▶ REGISTERING ──granted──▶ HELD
     │                    ▲                   │
     │                    └──── refused ──────┘
     ├──STALE──▶ OVER            (while leaving: UNKNOWN and refused lead to OVER, too)
     └──replaced──▶ REGISTERING ──granted or refused──▶ HELD

Deliberately absent: threads, calls and the clock. `now` comes in, beats and verdicts go out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from waypost.backoff import Backoff
from waypost.errors import WaypostError
from waypost.model import Grant, InstanceKey, Json, Load, Registration, integer

MAX_BEATS = 10_000
# From each of these on the control plane gives an instance a smaller part of its share (control-plane/REGISTRY.md).
_STEPS = (0.8, 0.9, 1.0, 1.2)


class Phase(Enum):
    """Where a lease is in its life."""

    HELD = "held"
    WANTED = "wanted"
    REGISTERING = "registering"
    OVER = "over"


class Verdict(Enum):
    """What the result of a beat means."""

    RENEWED = "renewed"
    LOST = "lost"
    SUPERSEDED = "superseded"


@dataclass
class Lease:
    """One lease: what is registered, what was granted, and what is next."""

    registration: Registration
    ttl: float
    phase: Phase = Phase.WANTED
    due: float = 0.0
    """When the next beat is due (HELD), or the next registration (WANTED)."""
    grant: Grant | None = None
    healthy: bool | None = None
    reason: str = ""
    load: Load | None = None
    leaving: bool = False
    replace_at: float | None = None
    """When something else is to be registered in its place, while it is held as it is."""
    error: WaypostError | None = None
    """Why the last registration failed."""

    def __post_init__(self) -> None:
        self._told = 0
        self.backoff = Backoff(0.2, 5.0)

    @property
    def key(self) -> InstanceKey:
        """Its name, as the control plane writes it once it has granted the lease."""
        return self.grant.key if self.grant is not None else self.registration.key

    def beat(self) -> dict[str, Any]:
        """The contract's Beat."""
        beat: dict[str, Any] = {"key": self.key.to_json(), "epoch": str(self.grant.epoch if self.grant else 0)}
        if self.healthy is not None:
            beat["health"] = {"healthy": self.healthy, "reason": self.reason}
        if self.load is not None:
            beat["load"] = self.load.to_json()
        self._told = _step(self.load)
        return beat

    def granted(self, grant: Grant, now: float) -> None:
        """A registration was granted."""
        self.grant = grant
        self.phase, self.replace_at = Phase.HELD, None
        # What is known of its health and load is said at once: a new registration begins without either.
        self.due = now if self.healthy is not None or self.load is not None else now + grant.interval
        self.backoff.reset()

    def refused(self, now: float) -> None:
        """A registration failed; it is tried again unless the lease is leaving. What was to be replaced is held."""
        wait = self.backoff.after_failure()
        if self.replace_at is not None:
            self.phase, self.replace_at = Phase.HELD, now + wait
        else:
            self.phase, self.due = (Phase.OVER if self.leaving else Phase.WANTED), now + wait

    def report_load(self, load: Load | None, now: float) -> None:
        """How busy it is; said with the next beat, and at once where it is to get less than by the last one."""
        self.load = load
        if _step(load) > self._told and self.phase is Phase.HELD:
            self.due = now

    def report_health(self, healthy: bool, reason: str, now: float) -> None:
        """Its own health; said at once where it has changed."""
        changed = (self.healthy, self.reason) != (healthy, reason)
        self.healthy, self.reason = healthy, reason
        if changed and self.phase is Phase.HELD:
            self.due = now

    def replace(self, registration: Registration, now: float) -> None:
        """Something else is to be registered in its place."""
        self.registration = registration
        if self.phase is Phase.HELD and not self.leaving:
            self.replace_at = now
        elif self.phase is Phase.WANTED:
            self.due = now

    def result(self, result: Json, now: float) -> Verdict | None:
        """Takes the result of a beat. A result for another epoch than the present one changes nothing."""
        if self.grant is None or integer(result.get("epoch", 0)) != self.grant.epoch or self.phase is not Phase.HELD:
            return None
        outcome = result.get("outcome")
        if outcome == "BEAT_OUTCOME_RENEWED":
            return Verdict.RENEWED
        if outcome == "BEAT_OUTCOME_UNKNOWN":
            self.replace_at = None
            self.phase, self.due = (Phase.OVER if self.leaving else Phase.WANTED), now
            return None if self.leaving else Verdict.LOST
        if outcome == "BEAT_OUTCOME_STALE":
            self.phase = Phase.OVER
            return Verdict.SUPERSEDED
        return None


def due_beats(leases: Iterable[Lease], now: float) -> list[Lease]:
    """The leases to beat for in one request: those that are due, and those that nearly are; each is due again later."""
    held = [lease for lease in leases if lease.phase is Phase.HELD and lease.grant is not None]
    if not any(lease.due <= now for lease in held):
        return []
    batch = [lease for lease in held if lease.grant and lease.due <= now + lease.grant.interval / 8][:MAX_BEATS]
    for lease in batch:
        lease.due = now + (lease.grant.interval if lease.grant else 0.0)
    return batch


def due_registrations(leases: Iterable[Lease], now: float) -> list[Lease]:
    """The leases to register now."""

    def is_due(lease: Lease) -> bool:
        if lease.phase is Phase.HELD:
            return lease.replace_at is not None and lease.replace_at <= now and not lease.leaving
        return lease.phase is Phase.WANTED and lease.due <= now

    return [lease for lease in leases if is_due(lease)]


def next_due(leases: Iterable[Lease]) -> float | None:
    """When something is to be done next."""
    waiting = [lease for lease in leases if lease.phase in (Phase.HELD, Phase.WANTED)]
    times = [lease.due for lease in waiting]
    times += [lease.replace_at for lease in waiting if lease.replace_at is not None and not lease.leaving]
    return min(times, default=None)


def _step(load: Load | None) -> int:
    """How many steps its share is reduced by."""
    if load is None:
        return 0
    utilization = load.application if load.application is not None else load.cpu
    return sum(1 for bound in _STEPS if utilization is not None and utilization >= bound)
