"""What becomes of a signal that is held back: in a process of its own, under handlers of each kind."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import asyncio, os, signal, sys, threading, time
from waypost.service.signals import Gate

told = threading.Event()
gate = Gate(lambda: print("told", flush=True))
seen = []

def kill(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
"""

HANDLED = """
signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
assert gate.install()
assert gate.install()
kill(); kill()
assert seen == []
thread = threading.Thread(target=gate.open); thread.start(); thread.join()
time.sleep(0.01)
assert seen == [signal.SIGTERM], seen
kill()
assert seen == [signal.SIGTERM] * 2, "nothing is held back any more"
"""

DEFAULT = """
gate.install()
kill()
gate.open()
time.sleep(30)
"""

TWICE = """
signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
gate.install()
kill(signal.SIGINT)
assert seen == []
kill(signal.SIGINT)
assert seen == [signal.SIGINT]
gate.open()
assert seen == [signal.SIGINT], "the server is told once"
"""

# The drain ends in the moment in which a signal comes: after it was found closed, and before it is held back.
MEANWHILE = """
class Late(type(gate._pending)):
    def append(self, number):
        thread = threading.Thread(target=gate.open); thread.start(); thread.join()
        super().append(number)

gate._pending = Late()
signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
gate.install()
kill()
assert seen == [signal.SIGTERM], seen
print("told")
"""

LOOP = """
async def scene():
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    gate.install(loop)
    kill()
    await asyncio.sleep(0.05)
    assert not ended.is_set()
    await asyncio.to_thread(gate.open)
    await asyncio.wait_for(ended.wait(), 5)
asyncio.run(scene())
"""

# With the handler that there is by default, and with one of the server's: either is the child's again.
FORKED = """
def end(number, frame):
    os._exit(3)

for handler, ends in ((signal.SIG_DFL, -signal.SIGTERM), (end, 3)):
    signal.signal(signal.SIGTERM, handler)
    gate = Gate(lambda: print("told", flush=True))
    gate.install()
    child = os.fork()
    if child == 0:
        kill()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ends
    assert signal.getsignal(signal.SIGTERM) == gate._handle, "the parent's is as it was"
print("told")
"""

# A library's handler calls the one that it finds, which is the gate, which has stepped in front of it since.
CHAINED = """
def chains(name):
    found = signal.getsignal(signal.SIGTERM)
    def handler(number, frame):
        seen.append(name)
        found(number, frame)
    signal.signal(signal.SIGTERM, handler)

signal.signal(signal.SIGTERM, lambda number, frame: seen.append("default"))
gate.install()
signal.signal(signal.SIGTERM, lambda number, frame: seen.append("server"))
gate.install()
chains("library")
gate.install()
chains("another")
gate.install()
gate.install()
kill(); kill()
assert seen == []
gate.open()
assert seen == ["another", "library", "server"], seen
kill()
assert seen == ["another", "library", "server"] * 2, seen
if os.fork() == 0:
    seen.clear()
    kill()
    os._exit(0 if seen == ["another", "library", "server"] else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""

# A second signal while the server's handler still runs is the server's, too, and not an older handler's.
WITHIN = """
gate.install()

def handler(number, frame):
    seen.append(number)
    if len(seen) == 1:
        kill()

signal.signal(signal.SIGTERM, handler)
gate.install()
kill()
gate.open()
assert seen == [signal.SIGTERM] * 2, seen
"""

THREAD = """
def run():
    seen.append(gate.install())
thread = threading.Thread(target=run); thread.start(); thread.join()
assert seen == [False]
print("told")
"""


@pytest.mark.parametrize(
    ("scene", "ends"),
    [
        (HANDLED, 0),
        (DEFAULT, -15),
        (TWICE, 0),
        (MEANWHILE, 0),
        (LOOP, 0),
        (FORKED, 0),
        (CHAINED, 0),
        (WITHIN, 0),
        (THREAD, 0),
    ],
    ids=[
        "handler",
        "no handler",
        "two interrupts",
        "opened meanwhile",
        "a loop's handler",
        "fork",
        "handlers that call on",
        "another one within",
        "not the main thread",
    ],
)
def test_a_signal_is_held_back_and_passed_on(scene: str, ends: int) -> None:
    command = [sys.executable, "-c", BEGIN + scene]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == ends, ended.stderr
    assert ended.stdout == "told\n", "once"
