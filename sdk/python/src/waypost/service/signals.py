"""Takes the signals that end a server before the server does, and passes them on when the drain is over.

Servers stop accepting as soon as they are told to end, while proxies still send to them. Here a signal is held back,
the instance drains while the server serves as ever, and then the server sees the signal as if it had just come:

    SIGTERM ──▶ held back ──▶ drain ──▶ the server's own handler

More SIGTERMs change nothing meanwhile (a supervisor and its supervisor may both send one); a second SIGINT, Ctrl-C,
ends the waiting. A process that is forked off has no drain to wait for: its signals are as they were before.

Somebody may set a handler after the gate has stepped in, which the gate then steps in front of again. That handler may
call the one that it found, which is the gate: it is passed on to the next older one then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Gate:
    """Holds signals back until `open`."""

    def __init__(self, told: Callable[[], None]) -> None:
        """`told` is called with the first signal, within its handler: it must take no lock."""
        self._told = told
        self._previous: dict[int, list[Any]] = {}
        """The handlers that were there before, the oldest first."""
        self._passing: tuple[int, FrameType | None, int] | None = None
        """The signal that is being passed on, with its frame, and to which handler of the list."""
        self._looped: dict[int, Callable[[], None]] = {}
        self._pending: deque[int] = deque()
        self._open = False
        _GATES.add(self)

    def install(self, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """Steps in front of the handlers that are there. False where signals are not this thread's to handle."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if previous is None or previous is signal.SIG_IGN or previous == self._handle:
                continue
            handle = getattr(loop, "_signal_handlers", {}).get(number) if loop is not None else None
            if handle is not None and loop is not None:
                # `loop.add_signal_handler` has set it (Hypercorn, Gunicorn's own asgi worker): asyncio calls it.
                self._looped[number] = _again(loop, handle)
                loop.add_signal_handler(number, self._handle, number, None)
            else:
                older = [each for each in self._previous.get(number, ()) if each != previous]
                self._previous[number] = [*older, previous]
                signal.signal(number, self._handle)
        return bool(self._previous or self._looped)

    def open(self) -> None:
        """Passes on what was held back, and holds nothing back any more. Any thread may call it."""
        self._open = True
        main = threading.main_thread().ident
        while True:
            try:
                number = self._pending.popleft()
            except IndexError:
                return
            if number in self._looped:
                self._looped[number]()
            elif main is not None:
                signal.pthread_kill(main, number)

    def after_fork(self) -> None:
        """In a process that was forked off: nothing is held back, and the handlers are those that were there before."""
        self._open = True
        self._pending.clear()
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous.pop())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._open or (number == signal.SIGINT and number in self._pending):
            if not self._open:
                # The server is told now, and not again when the drain is over: twice means at once, to servers.
                self._open = True
                self._pending.clear()
            self._pass_on(number, frame)
        elif number not in self._pending:
            self._pending.append(number)
            if self._open:
                self.open()  # another thread has opened it just now, and may not have seen this one
            elif len(self._pending) == 1:
                self._told()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if number in self._looped:
            self._looped[number]()
            return
        handlers, outer = self._previous[number], self._passing
        at = len(handlers)
        # A handler that calls on has the frame of its own call; another signal has interrupted another one.
        if outer is not None and outer[0] == number and frame in (outer[1], None):
            at = outer[2]
        if at == 0:
            return
        previous = handlers[at - 1]
        if not callable(previous):
            signal.signal(number, previous)
            os.kill(os.getpid(), number)
            return
        self._passing = number, frame, at - 1
        try:
            previous(number, frame)
        finally:
            self._passing = outer


def _again(loop: asyncio.AbstractEventLoop, handle: Any) -> Callable[[], None]:
    callback, arguments = handle._callback, handle._args  # noqa: SLF001 (there is no other way to ask asyncio)

    def again() -> None:
        loop.call_soon_threadsafe(callback, *arguments)

    return again


_GATES: weakref.WeakSet[Gate] = weakref.WeakSet()


def _after_fork() -> None:
    for gate in list(_GATES):
        gate.after_fork()


os.register_at_fork(after_in_child=_after_fork)
