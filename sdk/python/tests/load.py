"""Clients that ask without pause, over connections that they keep, and note each answer that is not as it should be."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections import Counter
from types import TracebackType

from cluster import eventually


class Load:
    """Requests through an address, from several threads, each of which repeats one of them: `/path` or `POST /path`.

    A proxy may send a GET again, so that it forgives what loses a POST.
    """

    def __init__(self, address: str, *requests: str, threads: int = 4) -> None:
        self._address = address
        self._stop = threading.Event()
        self._lock = threading.Lock()
        each = itertools.cycle(requests)
        self._threads = [threading.Thread(target=self._run, args=(next(each),), daemon=True) for _ in range(threads)]
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.more(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def count(self) -> int:
        """How many requests have been answered well."""
        return sum(self.answers.values())

    def more(self, count: int) -> None:
        """Waits until so many more have been answered, well or not."""
        until = self.count + len(self.failures) + count
        eventually(f"{count} more answers", lambda: self.count + len(self.failures) >= until)

    def part(self, body: str, count: int = 200) -> float:
        """Which part of so many more answers is this one."""
        before = self.answers.copy()
        self.more(count)
        more = self.answers.copy()
        more.subtract(before)
        return more[body] / sum(more.values())

    def stop(self) -> None:
        """Ends it; each request that was sent has its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, request: str) -> None:
        method, _, path = request.rpartition(" ")
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while not self._stop.is_set():
            try:
                connection.request(method or "GET", path)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._note(None, f"{request}: {type(error).__name__}: {error}")
                continue
            reason = answer.getheader("x-waypost-reason") or ""
            failure = "" if answer.status == 200 else f"{request}: {answer.status} {reason} {body[:200]!r}"
            self._note(body.decode(errors="replace"), failure)
            time.sleep(0.005)
        with contextlib.suppress(OSError):
            connection.close()

    def _note(self, body: str | None, failure: str) -> None:
        with self._lock:
            if failure:
                self.failures.append(failure)
            elif body is not None:
                self.answers[body] += 1
