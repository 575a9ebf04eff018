"""How busy a loop is said to be: the core with a clock of its own, and a real loop that is blocked."""

from __future__ import annotations

import asyncio
import threading
import time

from cluster import eventually
from waypost.service.load import Lag, LoopProbe, together
from waypost.service.roster import Word


def run(lag: Lag, start: float, until: float, answer_after: float) -> float:
    """Probes ten times a second, each of which runs after so long."""
    now = start
    while now < until:
        if lag.due(now):
            lag.ran(now + answer_after)
        now += 0.1
    return now


def test_an_idle_loop_is_idle() -> None:
    lag = Lag()
    now = run(lag, 0.0, 10.0, 0.0005)
    assert lag.utilization(now) < 0.02


def test_a_loop_with_too_much_before_it_is_full() -> None:
    lag = Lag()
    now = run(lag, 0.0, 20.0, 0.1)
    assert 0.95 < lag.utilization(now) < 1.05


def test_a_blocked_loop_is_seen_while_it_is_blocked_and_forgotten_soon_after() -> None:
    lag = Lag()
    now = run(lag, 0.0, 5.0, 0.0)
    assert lag.due(now)
    assert lag.utilization(now + 0.1) < 0.8, "a hiccup is none"
    assert lag.utilization(now + 1.0) > 1.2
    assert lag.utilization(now + 30.0) > 1.2
    assert not lag.due(now + 30.0), "one probe waits, however long"
    lag.ran(now + 30.0)
    assert lag.utilization(run(lag, now + 30.0, now + 36.0, 0.0)) < 0.75


def test_a_real_loop_is_probed_from_another_thread() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    probe = LoopProbe(loop)
    free = threading.Event()
    loop.call_soon_threadsafe(free.wait)

    def busy() -> bool:
        probe.tick()
        return probe.utilization() > 1.2

    eventually("it is seen", busy)
    free.set()

    def idle() -> bool:
        probe.tick()
        time.sleep(0.05)
        return probe.utilization() < 0.75

    eventually("it is over", idle)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    probe.tick()


def test_workers_are_one_instance_together() -> None:
    load = together([Word(False, 3, 5.0), Word(False, 1, 0.1)])
    assert (load.application, load.in_flight) == (1.05, 4), "one of two that is stuck is half of it"
    assert together([Word(False, 2, None)]).application is None
