"""Where this process listens, and how proxies reach that.

The process' own sockets tell: a server that has bound and listens accepts connections from then on, whichever server it
is. No request is made and no server's insides are read. Deliberately absent: which of several is meant; see
`find_listener`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from waypost.service.settings import host_port
from waypost.transport import Address

# The local address of a socket; the path and 0 where it is not TCP.
Name = tuple[str, int]

_ANY = ("0.0.0.0", "::")  # noqa: S104 (read, not bound)


@dataclass(frozen=True)
class Listener:
    """A socket of this process that accepts connections."""

    host: str
    port: int
    """0 for one that is not TCP."""
    inode: int

    @property
    def name(self) -> Name:
        """Its local address."""
        return self.host, self.port


def listeners() -> list[Listener]:
    """All of them, those that share a port once."""
    found: dict[Name, Listener] = {}
    for held, listens in _sockets():
        if listens:
            found.setdefault(held.name, held)
    return list(found.values())


def bound() -> frozenset[Name]:
    """The local addresses of all sockets of this process, whether they listen (yet) or not."""
    return frozenset(held.name for held, _ in _sockets())


def copies(inode: int) -> list[int]:
    """The descriptors under which this process has a socket; none where the system gives sockets no inodes (macOS)."""
    if not inode:
        return []
    found = []
    for descriptor in _descriptors():
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode) and status.st_ino == inode:
                found.append(descriptor)
    return found


def has_own_queue(descriptor: int) -> bool:
    """Whether a listening socket has connections that no other one of its port can take (SO_REUSEPORT)."""
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        return bool(listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def reachable(listener: Listener, control_planes: Sequence[Address]) -> str | None:
    """`host:port` for proxies. Where it is bound to all interfaces: the one that leads towards a control plane.

    None while that is not known: no control plane's name can be resolved, or no way leads there.
    """
    host: str | None = listener.host
    if host in _ANY:
        host = next(filter(None, map(_towards, control_planes)), None)
    return None if host is None else host_port(host, listener.port)


def supervisor_stays(inode: int) -> bool:
    """Whether the process that has started this worker goes on serving.

    A Gunicorn master closes its own copy of the socket before it ends its workers for good, and keeps it where it only
    replaces them (HUP, max_requests). Other supervisors keep it always, so that nothing can be told: False.
    """
    if "gunicorn.arbiter" not in sys.modules or not inode:
        return False
    folder = Path(f"/proc/{os.getppid()}/fd")
    try:
        return any(os.readlink(entry) == f"socket:[{inode}]" for entry in folder.iterdir())
    except OSError:
        return False


def _descriptors() -> list[int]:
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def _sockets() -> Iterator[tuple[Listener, bool]]:
    """Each socket of this process, and whether it listens."""
    for descriptor in _descriptors():
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            # Nothing but sockets is copied: closing a copy of a file would drop the locks that SQLite holds on it.
            if not stat.S_ISSOCK(status.st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                listens = bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                name, is_tcp = copy.getsockname(), copy.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp:
                yield Listener(str(name[0]).split("%", 1)[0], int(name[1]), status.st_ino), listens
            else:
                path = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
                yield Listener(path, 0, status.st_ino), listens


def _towards(control_plane: Address) -> str | None:
    """The address of the interface from which the control plane is reached; nothing is sent."""
    try:
        kind, _, _, _, target = socket.getaddrinfo(control_plane.host, control_plane.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0]).split("%", 1)[0]
    except (OSError, UnicodeError):  # the latter is what Python says of a name that cannot be one
        return None
