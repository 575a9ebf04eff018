"""Keeps all leases of a client alive, from one native thread.

A thread, not a task: an event loop that is busy for a while is not dead, and its instance must not be taken for it.
What is due when is decided by `leases`, which is pure; this is the shell: the thread, the requests, the waiting.

A process that is forked off has none of its parent's leases: they stay the parent's. Deliberately absent: draining,
which its caller waits for (`registered`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable

from waypost.backoff import Backoff
from waypost.errors import ConfigurationError, ControlPlaneUnreachableError, LeaseSupersededError, WaypostError
from waypost.leases import Lease, Phase, Verdict, due_beats, due_registrations, next_due
from waypost.model import Grant, Load, Registration, duration
from waypost.transport import Transport, instance_path

log = logging.getLogger("waypost")

# Beats that are not answered within this go to another control plane.
_LONGEST_SILENCE = 2.0
_REGISTER_TIMEOUT = 5.0


class Keeper:
    """The thread's handle. The thread runs while there is a lease."""

    def __init__(self, transport: Callable[[], Transport], client: str) -> None:
        self._make_transport = transport
        self._client = client
        self._begin()
        _KEEPERS.add(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._leases: list[Lease] = []
        self._thread: threading.Thread | None = None
        self._transport = self._make_transport()
        self._backoff = Backoff(0.2, 5.0)
        self._away: WaypostError | None = None
        self._not_before = 0.0

    def after_fork(self) -> None:
        """In a process that was forked off: the leases and the thread are the parent's."""
        for lease in self._leases:
            lease.phase, lease.leaving = Phase.OVER, True
        # The connection is the parent's, too: it is forgotten, not closed with a word to the peer.
        self._begin()

    def keep(self, lease: Lease) -> None:
        """Registers a lease as soon as it is due, and keeps it alive."""
        with self._changed:
            self._leases.append(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="waypost-keeper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, lease: Lease) -> None:
        """Stops beating for a lease; it runs out by itself."""
        with self._changed:
            lease.phase = Phase.OVER
            if lease in self._leases:
                self._leases.remove(lease)
            self._changed.notify_all()

    def give_up(self, lease: Lease) -> None:
        """Stops trying to register a lease; what is granted all the same is given back."""
        with self._changed:
            lease.leaving = True
            self.forget(lease)

    def change(self, change: Callable[[float], None]) -> None:
        """Changes a lease with the lock held."""
        with self._changed:
            change(time.monotonic())
            self._changed.notify_all()

    def wait(self, until: Callable[[], bool], timeout: float) -> bool:
        """Waits for a change of a lease."""
        with self._changed:
            return self._changed.wait_for(until, timeout)

    @property
    def away(self) -> WaypostError | None:
        """Why the control plane cannot be reached, while it cannot."""
        return self._away

    def leave(self, lease: Lease, timeout: float) -> int:
        """Prepares a lease for its deregistration: it is beaten for, but not registered again. Returns its epoch."""
        with self._changed:
            lease.leaving = True
            # A registration that is under way must not come after the deregistration.
            self._changed.wait_for(lambda: lease.phase is not Phase.REGISTERING, timeout)
            if lease.phase is Phase.WANTED:
                lease.phase = Phase.OVER
            return lease.grant.epoch if lease.grant else 0

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                goes_on = self._round()
            except Exception as error:
                self._lost([], self._known(error))

    def _round(self) -> bool:
        """Waits for what is due, or does it; False when there is no lease any more."""
        with self._changed:
            if not self._leases:
                self._thread = None
                self._transport.close()
                return False
            due = next_due(self._leases)
            now = time.monotonic()
            start = None if due is None else max(due, self._not_before)
            if start is None or start > now:
                self._changed.wait(None if start is None else start - now)
                return True
            beats = due_beats(self._leases, now)
            messages = [lease.beat() for lease in beats]
        if messages:
            self._beat(beats, messages)
        self._register()
        return True

    def _beat(self, beats: list[Lease], messages: list[dict[str, object]]) -> None:
        patience = min((lease.grant.interval for lease in beats if lease.grant), default=_LONGEST_SILENCE)
        try:
            answer = self._transport.call(
                "POST", "/v1/heartbeats", body={"beats": messages}, timeout=min(patience, _LONGEST_SILENCE)
            )
            with self._changed:
                now = time.monotonic()
                for lease, result in zip(beats, answer.get("results") or (), strict=False):
                    self._judge(lease, lease.result(result, now))
                self._changed.notify_all()
        except Exception as error:
            self._lost(beats, self._known(error))
            return
        self._found()
        if answer.get("going_away"):
            self._transport.close()
            self._transport.move_on(self._transport.current)

    def _judge(self, lease: Lease, verdict: Verdict | None) -> None:
        if verdict is Verdict.LOST:
            log.warning("the control plane does not know %s any more: registering it again", lease.key)
        elif verdict is Verdict.SUPERSEDED:
            log.error("%s", superseded(lease))

    def _register(self) -> None:
        with self._changed:
            now = time.monotonic()
            if now < self._not_before:
                return
            wanted = due_registrations(self._leases, now)
            for lease in wanted:
                lease.phase = Phase.REGISTERING
        for lease in wanted:
            self._register_one(lease)

    def _register_one(self, lease: Lease) -> None:
        declared = lease.registration
        try:
            check(declared, lease.ttl)  # what it holds may have been changed since
            body = {"instance": declared.to_json(), "ttl": duration(lease.ttl), "client": self._client}
            answer = self._transport.call("POST", "/v1/instances", body=body, timeout=_REGISTER_TIMEOUT)
            grant = Grant.from_json(answer)
        except Exception as error:
            known = self._known(error)
            with self._changed:
                lease.refused(time.monotonic())
                lease.error = known
                self._changed.notify_all()
            if isinstance(known, ControlPlaneUnreachableError):
                self._lost([], known)
            else:
                log.error("%s cannot be registered: %s", lease.key, known)
            return
        self._found()
        with self._changed:
            late = lease.leaving and lease not in self._leases
            if not late:
                lease.granted(grant, time.monotonic())
                lease.error = None
                if lease.registration != declared:  # it has been replaced meanwhile
                    lease.replace(lease.registration, time.monotonic())
                self._changed.notify_all()
        if late:
            self._give_back(grant)
            return
        for conflict in grant.conflicts:
            log.warning("%s does not get all of its routes: %s", grant.key, conflict)
        log.info("registered %s at %s (epoch %d)", grant.key, declared.address, grant.epoch)

    def _give_back(self, grant: Grant) -> None:
        """Nobody beats for it: it would get requests until it runs out."""
        query = {"epoch": str(grant.epoch), "reason": "granted too late", "client": self._client}
        with contextlib.suppress(WaypostError):
            self._transport.call("DELETE", instance_path(grant.key), query=query, timeout=_REGISTER_TIMEOUT)

    def _known(self, error: Exception) -> WaypostError:
        """What nobody has foreseen ends no thread, as all leases would run out for it: it counts as an outage."""
        if isinstance(error, WaypostError):
            return error
        address = self._transport.current
        log.error("unforeseen, with the control plane at %s", address, exc_info=error)
        self._transport.close()
        self._transport.move_on(address)
        return ControlPlaneUnreachableError(
            f"unforeseen, with the control plane at {address}: {error!r}; does a Waypost control plane answer there?"
        )

    def _lost(self, beats: list[Lease], error: WaypostError) -> None:
        now = time.monotonic()
        self._not_before = now + self._backoff.after_failure()
        if self._away is None:
            log.warning("%s; trying again until it answers", error)
        self._away = error
        with self._changed:
            for lease in beats:
                lease.due = now
            self._changed.notify_all()

    def _found(self) -> None:
        if self._away is not None:
            log.info("the control plane at %s answers again", self._transport.current)
        self._away = None
        self._not_before = 0.0
        self._backoff.reset()


def superseded(lease: Lease) -> LeaseSupersededError:
    """Another process has registered under the same name."""
    return LeaseSupersededError(
        f"{lease.key} has been registered by another process, and this one is out for good: two processes must not "
        "share an id; give each its own (Registration.id), or end one of them"
    )


def check(registration: Registration, ttl: float) -> None:
    """ConfigurationError where something cannot be said to a control plane at all; it says the rules for the rest."""
    try:
        json.dumps([registration.to_json(), duration(ttl)])
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"the registration of {registration.service!r} cannot be written as JSON: {error}; give text, numbers and "
            "what holds them, as the fields' types say"
        ) from error


def new_lease(registration: Registration, ttl: float, load: Load | None = None) -> Lease:
    """A lease that is to be registered at once."""
    check(registration, ttl)
    return Lease(registration, ttl, due=0.0, load=load)


_KEEPERS: weakref.WeakSet[Keeper] = weakref.WeakSet()


def _after_fork() -> None:
    for keeper in list(_KEEPERS):
        keeper.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
