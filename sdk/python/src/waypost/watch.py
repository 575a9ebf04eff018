"""A watch that outlives the connection under it.

    subscribe ──▶ initial ──▶ change* ──▶ connection lost ──▶ step(connected=False) ──▶ (back-off) subscribe …

Each step holds the full current state, so that a reader needs to keep nothing. After an interruption everything comes
again; what has changed and gone meanwhile is worked out against what was known. While the control plane is away the
last known state stays.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import TracebackType

from waypost.backoff import Backoff
from waypost.errors import ControlPlaneUnreachableError, WaypostError
from waypost.model import Instance, InstanceKey, Json, WatchStep, integer
from waypost.transport import Stream, Transport

# The control plane sends an empty line every 10 s: without one for this long it is gone.
_SILENCE = 25.0


class View:
    """What is known, and what a message changes about it: the pure core of the watch."""

    def __init__(self) -> None:
        self.instances: dict[InstanceKey, Instance] = {}
        self.revision = 0

    def apply(self, message: Json) -> WatchStep:
        """Takes one WatchResponse."""
        changed = {instance.key: instance for instance in map(Instance.from_json, message.get("changed") or ())}
        removed = [InstanceKey.from_json(key) for key in message.get("removed") or ()]
        if message.get("initial"):
            removed = [key for key in self.instances if key not in changed]
            changed = {key: it for key, it in changed.items() if self.instances.get(key) != it}
        gone = set(removed)
        instances = {key: it for key, it in self.instances.items() if key not in gone} | changed
        self.instances = dict(sorted(instances.items()))
        self.revision = integer(message.get("revision", 0))
        return WatchStep(self.instances, tuple(changed), tuple(removed), self.revision)

    def interrupted(self, error: WaypostError) -> WatchStep:
        """The control plane is away: the same as before, and why."""
        return WatchStep(self.instances, (), (), self.revision, connected=False, error=error)


class Watch:
    """Steps of a watch, as an iterator: it ends with `close`, or with an error that no retry can cure."""

    def __init__(self, transport: Transport, service: str, namespace: str) -> None:
        self._transport = transport
        self._filter = {"service": service, "namespace": namespace}
        self._view = View()
        self._backoff = Backoff(0.1, 5.0)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._interrupted = False

    def __iter__(self) -> Iterator[WatchStep]:
        return self

    def __next__(self) -> WatchStep:
        while not self._closed.is_set():
            try:
                step = self._step()
            except WaypostError as error:
                self._drop()
                if self._closed.is_set():
                    break
                if not error.is_retryable:
                    raise
                if not self._interrupted:
                    self._interrupted = True
                    return self._view.interrupted(error)
                self._closed.wait(self._backoff.after_failure())
                continue
            self._backoff.reset()
            self._interrupted = False
            return step
        raise StopIteration

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the watch; another thread that waits for a step sees the end of the iteration."""
        self._closed.set()
        self._drop()

    def _step(self) -> WatchStep:
        stream = self._stream
        if stream is None:
            stream = self._transport.stream("/v1/watch", query=self._filter, timeout=_SILENCE)
            with self._lock:
                self._stream = stream
            if self._closed.is_set():
                raise ControlPlaneUnreachableError("the watch is closed")
        while True:
            line = stream.line()
            if line:
                return self._view.apply(json.loads(line))

    def _drop(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
