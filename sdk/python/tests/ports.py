"""Addresses for what is started at a port by name, again at the port that it had, or not at all.

They are none of those that the kernel gives away (port 0, and connections that go out): one of those may be somebody
else's by the time that it is needed, above all where several tests run at a time.
"""

from __future__ import annotations

import contextlib
import random
import socket

# Linux gives away those from 32768 on, others those from 49152 on.
_OURS = range(10_000, 32_000)


def free_port() -> int:
    """A port at which nobody listens."""
    while True:
        port = random.choice(_OURS)  # noqa: S311 (keeps several processes apart, guards nothing)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def free_address() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"
