"""A registered instance, as its program holds it: what became of its lease, and how it leaves."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import TracebackType

from waypost.backoff import Backoff
from waypost.errors import ConfigurationError, NotFoundError, RefusedError, WaypostError
from waypost.keeper import Keeper, check, log, superseded
from waypost.leases import Lease, Phase
from waypost.model import DrainOutcome, InstanceKey, Load, Registration, duration
from waypost.transport import Transport, instance_path

# Added to the control plane's own deadline, so that it is the one that answers; for all control planes together.
_GRACE = 2.0


class LeaseStatus(Enum):
    """What has become of a lease."""

    HELD = "held"
    """The control plane keeps it."""
    DISCONNECTED = "disconnected"
    """The control plane cannot be reached; proxies go by what they know."""
    LOST = "lost"
    """The control plane does not know it (any more); it is being registered."""
    SUPERSEDED = "superseded"
    """Another process has taken its name: this one is out for good."""
    LEFT = "left"
    """It was drained or deregistered."""


class Registered:
    """A lease that is kept alive until it is drained or deregistered. As a context manager it drains at the end."""

    def __init__(
        self,
        keeper: Keeper,
        transport: Callable[[], Transport],
        lease: Lease,
        client: str,
        drain_timeout: float,
        *,
        left: Callable[[Registered], None],
    ) -> None:
        """`left` is called when it has left."""
        self._keeper = keeper
        self._transport = transport
        self._lease = lease
        self._client = client
        self._drain_timeout = drain_timeout
        self._has_left = left
        self._left: DrainOutcome | None = None
        self._leaving = threading.Lock()
        self._pid = os.getpid()

    def __enter__(self) -> Registered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drain()

    def __repr__(self) -> str:
        return f"<Registered {self.key} {self.status.value}>"

    @property
    def key(self) -> InstanceKey:
        """The instance's name."""
        return self._lease.key

    @property
    def registration(self) -> Registration:
        """What is registered."""
        return self._lease.registration

    @property
    def epoch(self) -> int:
        """The lease's epoch; it grows with each registration. 0 before the first."""
        return self._lease.grant.epoch if self._lease.grant else 0

    @property
    def error(self) -> WaypostError | None:
        """Why the lease is not held, where there is a reason."""
        if self.status is LeaseStatus.SUPERSEDED:
            return superseded(self._lease)
        return self._lease.error or self._keeper.away

    @property
    def status(self) -> LeaseStatus:
        """What has become of the lease."""
        if self._left is not None or (self._lease.phase is Phase.OVER and self._lease.leaving):
            return LeaseStatus.LEFT
        if self._lease.phase is Phase.OVER:
            return LeaseStatus.SUPERSEDED
        if self._keeper.away is not None:
            return LeaseStatus.DISCONNECTED
        return LeaseStatus.HELD if self._lease.phase is Phase.HELD else LeaseStatus.LOST

    def wait(self, timeout: float) -> bool:
        """Waits until the lease is held, at most so many seconds."""
        return self._keeper.wait(lambda: self._lease.phase is Phase.HELD, timeout)

    def set_health(self, healthy: bool, reason: str = "") -> None:
        """Takes the instance out of rotation, and puts it back."""
        self._keeper.change(lambda now: self._lease.report_health(healthy, reason, now))

    def set_load(self, load: Load | None) -> None:
        """Says how busy the instance is. From a utilization of 0.8 on it gets less of its share of traffic.

        ConfigurationError where it holds what is no number, or is negative or not finite; what was said before stays.
        """
        for each in () if load is None else (load.application, load.cpu, load.memory, load.in_flight):
            if each is not None and not (isinstance(each, (int, float)) and 0 <= each < math.inf):
                raise ConfigurationError(f"{self.key}: a load of {each!r}: it must be a finite number from 0 on")
        self._keeper.change(lambda now: self._lease.report_load(load, now))

    def update(self, registration: Registration) -> None:
        """Registers something else in place of what is registered, under a new epoch and without a gap.

        ConfigurationError where its name is another one: nobody would take the old one out.
        """
        check(registration, self._lease.ttl)
        if registration.key != self.registration.key:
            raise ConfigurationError(
                f"{self.key} cannot become {registration.key}, which is another instance: register that one, and then "
                "drain this one"
            )
        self._keeper.change(lambda now: self._lease.replace(registration, now))

    def release(self) -> None:
        """Stops the heartbeats without deregistering: another process of the same instance goes on with it.

        A last beat leaves it the whole lease for that.
        """
        if os.getpid() != self._pid:
            return
        with self._leaving:
            self._left = self._left or DrainOutcome(False, 0.0, reason="handed over")
            if self._lease.phase is Phase.HELD:
                with contextlib.suppress(WaypostError):
                    beats = {"beats": [self._lease.beat()]}
                    self._transport().call("POST", "/v1/heartbeats", body=beats, timeout=1.0)
            self._keeper.forget(self._lease)
            self._has_left(self)

    def drain(self, timeout: float | None = None) -> DrainOutcome:
        """Takes the instance out through the drain barrier; returns when no proxy has a request in flight to it.

        Keep serving until then. It never raises: the outcome says what is not as it should be. After `timeout`
        seconds the instance is removed all the same; where the control plane does not say so, this returns 2 s later.
        Where it is leaving already, this waits for that.
        """
        timeout = self._drain_timeout if timeout is None else timeout
        return self._leave("the program ends", timeout, drain=True)

    def deregister(self, reason: str = "") -> DrainOutcome:
        """Takes the instance out at once; requests in flight to it may fail."""
        return self._leave(reason, 5.0, drain=False)

    def _leave(self, reason: str, timeout: float, *, drain: bool) -> DrainOutcome:
        if os.getpid() != self._pid:
            return DrainOutcome(False, 0.0, reason="the lease is that of the process that has forked this one off")
        with self._leaving:  # whoever comes second waits for the outcome of the first
            if self._left is not None:
                return self._left
            started = time.monotonic()
            epoch = self._keeper.leave(self._lease, timeout)
            self._left = self._ask(reason, epoch, started, timeout, drain) if epoch else _never(started)
            self._keeper.forget(self._lease)
            self._has_left(self)
            log.info("left %s: drain %s", self.key, self._left)
            return self._left

    def _ask(self, reason: str, epoch: int, started: float, timeout: float, drain: bool) -> DrainOutcome:
        query = {"reason": reason, "epoch": str(epoch), "client": self._client}
        path = instance_path(self.key)
        transport, backoff = self._transport(), Backoff(0.1, 1.0)
        while True:
            left = max(timeout - (time.monotonic() - started), 0.1)
            if drain:
                query |= {"drain": "true", "drain_deadline": duration(left)}
            patience, waits = (_GRACE, left) if drain else (left, 0.0)
            try:
                answer = transport.call("DELETE", path, query=query, timeout=patience, waits=waits)
            except WaypostError as error:
                took = time.monotonic() - started
                wait = backoff.after_failure()
                if not error.is_retryable or took + wait >= timeout:
                    why = f"nothing to drain: {error}" if isinstance(error, RefusedError) else str(error)
                    return DrainOutcome(False, took, reason=why, gone=isinstance(error, NotFoundError))
                time.sleep(wait)
                continue
            return DrainOutcome.from_json(answer.get("drain"), time.monotonic() - started)


def _never(started: float) -> DrainOutcome:
    return DrainOutcome(True, time.monotonic() - started, reason="it was never registered")
