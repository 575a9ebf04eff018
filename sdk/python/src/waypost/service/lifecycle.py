"""The way of a service in one process: it waits until the server listens, registers, keeps that true, drains.

    started ──▶ the server listens ──▶ member of the roster ──▶ leads: registered ──▶ leaving ──▶ drained, passed on
                                              ▲      │                                  │
                                              └──────┘ the leader is gone               └─▶ others go on: handed over

All of it happens in one native thread, which begins with the server and not with the import: a process that imports an
app without serving it (a test, a script, a supervisor) registers nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from waypost.client import Client
from waypost.errors import NotFoundError, WaypostError
from waypost.model import Registration
from waypost.registered import LeaseStatus, Registered
from waypost.service.endpoints import MOST
from waypost.service.find_listener import Evidence
from waypost.service.listener import Listener, Name, copies, has_own_queue, listeners, reachable, supervisor_stays
from waypost.service.load import LoopProbe, together
from waypost.service.roster import Alone, Roster, Word, join
from waypost.service.settings import Settings, host_port
from waypost.service.signals import Gate
from waypost.transport import Transport

log = logging.getLogger("waypost")

_TICK = 0.1
_UPKEEP = 0.3
# To look through hundreds of routes takes milliseconds, in which no handler runs.
_ROUTES = 3.0
_GLANCE = 0.02
# How long a worker that accepts no more still serves: what it has accepted is read by then.
_READ = 0.3
# How long a worker that is told to end waits to see whether the others are told, too.
_OTHERS_ARE_TOLD = 1.0
# How long proxies may go by what they knew when a control plane has lost its registry: its settle time, by default.
_SETTLE = 10.0
_SAY_THAT_NOTHING_LISTENS = 10.0
# Between two questions by which way the control plane is reached.
_ASK_AGAIN = 1.0


class Health(Protocol):
    """Asks the service how it is."""

    def poll(self) -> tuple[bool, str] | None:
        """What it has answered last, if that says anything; never waits."""


class Lifecycle:
    """A service in this process."""

    def __init__(self, settings: Settings, endpoints: Callable[[], tuple[str, ...]]) -> None:
        self._settings = settings
        self._endpoints = endpoints
        # Fails where the control plane's address is none: with the import, where everybody sees it.
        self._planes = Transport(settings.registry_url)
        self._pid = 0
        self._reset()

    def _reset(self) -> None:
        self.in_flight = 0
        self.port: int | None = None
        """At which port a request has come in."""
        self.hands_over = False
        """Whether other workers go on: then each answer is the last one on its connection."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._gate = Gate(self._signalled)
        self._thread: threading.Thread | None = None
        self._probe: LoopProbe | None = None
        self._health: Health | None = None
        self._roster: Roster | Alone | None = None
        self._client: Client | None = None
        self._registered: Registered | None = None
        self._evidence: Evidence | None = None
        self._listener: Listener | None = None
        self._address_registered: str | None = None
        self._upkeep_at = 0.0
        self._routes_at = 0.0
        self._says_too_many = False
        self._failure = ""

    @property
    def name(self) -> str:
        """The service's."""
        return self._settings.name

    @property
    def registered(self) -> Registered | None:
        """The lease, in the worker that keeps it."""
        return self._registered

    @property
    def started(self) -> bool:
        """Whether this process serves."""
        return self._pid == os.getpid()

    def start(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        health: Health | None = None,
        *,
        before: frozenset[Name] | None = None,
        hint: int | None = None,
    ) -> None:
        """The server is about to listen, or listens. Once for each process, and by one thread at a
        time; call it from the main thread where you can, which alone can take signals.

        `before` is what was bound when the app began to start, `hint` the port that the server is to bind.
        """
        if self.started:
            return
        self._reset()
        ready = frozenset(listener.name for listener in listeners())
        self._evidence = Evidence(ready if before is None else before, ready, hint, serves=loop is not None)
        self._pid = os.getpid()
        self._loop = loop
        self._probe = None if loop is None else LoopProbe(loop)
        self._health = health
        self._gate.install(loop)
        self._thread = threading.Thread(target=self._run, name="waypost-service", daemon=True)
        self._thread.start()

    def take_signals(self) -> None:
        """Takes the signals where that could not be done before, or where the server has set its own since."""
        self._gate.install()

    def _signalled(self) -> None:
        """The process is to end. Within a signal's handler: it takes no lock."""
        self._commands.put("leave")
        if self._roster is None:
            # Nothing can have been registered, and nothing will be: there is no drain to wait for. The thread may be
            # kept by a name server that does not answer.
            self._gate.open()

    def stop(self, timeout: float) -> None:
        """Leaves, and waits for it: the server ends without a signal, or was not told by one."""
        thread = self._thread
        if thread is None or not self.started:
            return
        self._commands.put("leave")
        thread.join(timeout)

    def _run(self) -> None:
        try:
            self._serve()
        except WaypostError as error:
            log.error("%s is not registered: %s", self._settings.name, error)
        except Exception:
            log.exception("%s is not registered: a defect of the SDK", self._settings.name)
        try:
            self._leave()
        finally:
            self._gate.open()

    def _serve(self) -> None:
        address = self._address()
        if address is None:
            return
        settings = self._settings
        self._address_registered = address
        self._roster = join(f"{settings.namespace}/{settings.name}/{address}")
        while not self._told(_TICK):
            if self._probe is not None:
                self._probe.tick()
            now = time.monotonic()
            if now >= self._upkeep_at:
                self._upkeep_at = now + _UPKEEP
                try:
                    self._upkeep(self._roster, address)
                except Exception as error:
                    if self._failure != repr(error):  # it may come with each round
                        self._failure = repr(error)
                        log.exception("%s stays as it is registered", self._settings.name)

    def _told(self, timeout: float) -> bool:
        try:
            self._commands.get(timeout=timeout)
        except queue.Empty:
            return False
        return True

    def _address(self) -> str | None:
        """Waits until the server listens; None if this process is to end first."""
        began, step, warned = time.monotonic(), 0.01, False
        while True:
            waited = time.monotonic() - began
            found = listeners()
            chosen = self._choose(found, waited)
            if chosen is not None:
                address = self._settings.address
                if address is None and chosen.port:
                    address = reachable(chosen, self._planes.addresses)
                if address is not None:
                    self._listener = chosen
                    return address
                step = _ASK_AGAIN
            if not warned and (chosen is not None or waited >= _SAY_THAT_NOTHING_LISTENS):
                warned = True
                log.warning("%s", self._why_not(found, chosen))
            if self._told(step):
                return None
            step = min(step * 1.5, 0.25)

    def _choose(self, found: list[Listener], waited: float) -> Listener | None:
        if self._evidence is None:
            return None
        chosen = self._evidence.server(found, self.port, waited)
        if self._settings.address is None:
            return chosen[0] if len(chosen) == 1 else None
        if self.port is not None and not self._evidence.serves:
            # A WSGI app that is called is served; the port in its request may be the front server's (uWSGI).
            chosen = chosen or found
        return chosen[0] if chosen else None

    def _why_not(self, found: list[Listener], chosen: Listener | None) -> str:
        name = self._settings.name
        if chosen is not None and not chosen.port:
            return (
                f"{name} is not registered: it is served at the Unix socket {chosen.host}, which proxies do not reach; "
                "say by which address they do with url= or WAYPOST_ADDRESS"
            )
        if chosen is not None:
            planes = ", ".join(str(plane) for plane in self._planes.addresses)
            return (
                f"{name} is not registered yet: this process listens at all interfaces, and which of them leads to the "
                f"control plane at {planes} is not known, as its name is not resolved or no way leads there; trying "
                "again until it is; url= or WAYPOST_ADDRESS can say it instead"
            )
        if any(listener.port for listener in found):
            places = [host_port(each.host, each.port) if each.port else f"unix:{each.host}" for each in found]
            return (
                f"{name} is not registered: this process listens at {', '.join(places)}, and where the service is "
                "served is not known before its first request; say so with url= or WAYPOST_ADDRESS"
            )
        return (
            f"{name} is not registered: this process listens at no TCP port; if proxies reach it by another way, "
            "say by which with url= or WAYPOST_ADDRESS"
        )

    def _upkeep(self, roster: Roster | Alone, address: str) -> None:
        word = Word(False, self.in_flight, None if self._probe is None else round(self._probe.utilization(), 3))
        roster.say(word)
        if not roster.try_lead():
            return
        now = time.monotonic()
        if self._registered is None or now >= self._routes_at:
            self._routes_at = now + _ROUTES
            self._registered = self._keep_registered(roster, self._wanted(address))
        self._registered.set_load(together(roster.everybody()))
        report = None if self._health is None else self._health.poll()
        if report is not None:
            self._registered.set_health(*report)

    def _wanted(self, address: str) -> Registration:
        """What is to be registered by now: routes may be added at any time."""
        endpoints = self._endpoints()
        if len(endpoints) > MOST and not self._says_too_many:
            self._says_too_many = True
            log.warning(
                "%s has %d endpoints, and registers the first %d, as many as an instance may have: the others are "
                "reachable below its prefix only",
                self.name,
                len(endpoints),
                MOST,
            )
        return self._settings.registration(address, endpoints[:MOST])

    def _keep_registered(self, roster: Roster | Alone, wanted: Registration) -> Registered:
        registered = self._registered
        if registered is None:
            settings = self._settings
            self._client = Client([str(plane) for plane in self._planes.addresses])
            registered = self._client.register(wanted, ttl=settings.ttl, wait=0, drain_timeout=settings.drain_timeout)
            # Whatever fails from now on, this is drained at the end.
            self._registered = registered
            roster.begin()
        elif registered.registration != wanted:
            log.info("%s has other endpoints now: registering it again", registered.key)
            registered.update(wanted)
        return registered

    def _leave(self) -> None:
        roster, registered = self._roster, self._registered
        if roster is None:
            return
        inode = 0 if self._listener is None else self._listener.inode
        try:
            roster.say(Word(True, self.in_flight))
            # The workers that stay, or that come instead, are the same instance: its lease goes on.
            goes_on = not self._wait_for_others(roster) or supervisor_stays(inode)
        except Exception:
            log.exception("%s drains, as whether other workers go on cannot be told", self.name)
            goes_on = False
        if registered is not None and roster.leading:
            if goes_on or registered.status is LeaseStatus.SUPERSEDED:
                registered.release()
            else:
                outcome = registered.drain()
                if outcome.gone:
                    self._settle(outcome.took)
                roster.conclude()
        elif not goes_on:
            self._wait_for_drain(roster)
            self._drain_for_another(roster)
        roster.quit()
        if goes_on and self._loop is not None:
            self._hand_over(self._loop, inode)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, inode: int) -> None:
        """Leaves new connections to the other workers: servers that end close what they have accepted and not read.

        Other loops than asyncio's own do not let go of their sockets, and accept until the server ends. Sockets from
        which nobody else would accept are not let go of either: what waits there when they close is reset.
        """

        def accept_no_more() -> None:
            for descriptor in copies(inode):
                with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
                    if not has_own_queue(descriptor):
                        loop.remove_reader(descriptor)

        self.hands_over = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(accept_no_more)
            time.sleep(_READ)

    def _wait_for_others(self, roster: Roster | Alone) -> bool:
        """Whether all workers are about to end: whoever stops all of them tells them one after another."""
        until = time.monotonic() + _OTHERS_ARE_TOLD
        while any(not word.leaving for word in roster.others()):
            if time.monotonic() >= until:
                return False
            time.sleep(_GLANCE)
        return True

    def _wait_for_drain(self, roster: Roster | Alone) -> None:
        """Serves until the worker that keeps the lease has drained it."""
        until = time.monotonic() + self._settings.drain_timeout + _OTHERS_ARE_TOLD
        while roster.led() and time.monotonic() < until:
            time.sleep(_GLANCE)

    def _drain_for_another(self, roster: Roster | Alone) -> None:
        """The worker that kept the lease is gone without a drain (killed, or it took this one for one that stays)."""
        settings = self._settings
        if self._address_registered is None or not roster.try_lead() or not roster.registered:
            return
        client, began = Client([str(plane) for plane in self._planes.addresses]), time.monotonic()
        try:
            client.deregister(
                settings.name,
                self._address_registered,
                namespace=settings.namespace,
                drain=True,
                timeout=settings.drain_timeout,
                reason="the last worker ends",
            )
        except NotFoundError:
            self._settle(time.monotonic() - began)
        except WaypostError as error:
            log.warning("%s is left to its lease: %s", settings.name, error)
        roster.conclude()

    def _settle(self, took: float) -> None:
        """Serves on where a control plane that has lost its registry cannot say who still sends requests here."""
        seconds = min(_SETTLE, max(self._settings.drain_timeout - took, 0.0))
        log.warning(
            "the control plane does not know %s any more: serving on for %.1f s, as proxies may go by what they knew",
            self._settings.name,
            seconds,
        )
        time.sleep(seconds)
