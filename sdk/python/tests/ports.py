"""Addresses for what is started at a port by name, again at the port that it had, or not at all.

They are none of those that the kernel gives away (port 0, and connections that go out): one of those may be somebody
else's by the time that it is needed, above all where several tests run at a time.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket

# Linux gives away those from 32768 on, others those from 49152 on. Each process that runs tests has a part of its own.
_PART = 5_000
_FIRST = 10_000 + _PART * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4)
_ours = random.sample(range(_FIRST, _FIRST + _PART), _PART)


def free_port() -> int:
    """A port at which nobody listens, and none that was given before."""
    while True:
        port = _ours.pop()
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def free_address() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"
