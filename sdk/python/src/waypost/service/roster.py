"""The workers that share one listening socket, and which of them keeps the registration.

Workers of one server are one instance: one address, one lease. Each has a file that it holds locked for as long as it
lives, with what it says of itself; whoever holds the lock `leader` keeps the lease. The kernel drops locks with their
process, so that a worker that was killed is noticed like one that has left, and another one takes the lead.

    folder/leader            locked by the one that keeps the lease; says `registered` while there is one
    folder/PID-NUMBER        locked by each member: {"leaving": false, "in_flight": 3, "utilization": 0.2}

A worker that can write no folder takes itself for the only one (`Alone`). Where the folder is taken away later (by what
cleans temporary files), nobody finds the others any more, and whoever leads goes on. Deliberately absent: messages.
What a member has to know it reads from the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import tempfile
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path

from waypost.errors import ConfigurationError

log = logging.getLogger("waypost")

_WIDTH = 120
_REGISTERED = b"registered"
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Word:
    """What a member says of itself."""

    leaving: bool = False
    in_flight: int = 0
    utilization: float | None = None


class Roster:
    """The membership of one worker."""

    def __init__(self, group: str, base: Path | None = None) -> None:
        self._folder = _folder(group, base)
        self._leader: int | None = None
        self._word = Word()
        name = f"{os.getpid()}-{next(_NUMBERS)}"
        # It gets its name when it is locked: a file that can be locked is taken for a dead member's.
        fresh = self._folder / f".{name}"
        self._member = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(self._member, fcntl.LOCK_EX)
        self.say(self._word)
        self._path = self._folder / name
        fresh.rename(self._path)
        _ROSTERS.add(self)

    @property
    def leading(self) -> bool:
        """Whether this worker keeps the lease."""
        return self._leader is not None

    def try_lead(self) -> bool:
        """Takes the lead if nobody has it."""
        if self._leader is None:
            self._leader = _lock(self._folder / "leader")
        return self._leader is not None

    @property
    def registered(self) -> bool:
        """Whether the instance was registered by the worker that led last, and not drained."""
        try:
            return (self._folder / "leader").read_bytes() == _REGISTERED
        except FileNotFoundError:
            return False

    def begin(self) -> None:
        """The one that leads has registered the instance."""
        if self._leader is not None:
            os.pwrite(self._leader, _REGISTERED, 0)

    def conclude(self) -> None:
        """The one that leads has drained the instance."""
        if self._leader is not None:
            os.ftruncate(self._leader, 0)

    def step_down(self) -> None:
        """Gives up the lead."""
        leader, self._leader = self._leader, None
        if leader is not None:
            # A child that was forked off just now may not have closed its copy yet, and would hold the lock on.
            fcntl.flock(leader, fcntl.LOCK_UN)
            os.close(leader)

    def led(self) -> bool:
        """Whether anybody keeps the lease."""
        if self.leading:
            return True
        probe = _lock(self._folder / "leader")
        if probe is None:
            return True
        os.close(probe)
        return False

    def say(self, word: Word) -> None:
        """Tells the others about this worker."""
        self._word = word
        os.pwrite(self._member, json.dumps(asdict(word)).encode().ljust(_WIDTH), 0)
        if self._leader is not None:
            os.utime(self._leader)  # what was not touched for days is cleaned away, and somebody else would lead, too

    def others(self) -> list[Word]:
        """What the other living members say of themselves; the files of dead ones are removed."""
        words = []
        try:
            paths = list(self._folder.iterdir())
        except FileNotFoundError:
            return []
        for path in paths:
            if path == self._path or path.name == "leader" or path.name.startswith("."):
                continue
            dead = _lock(path)
            if dead is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
                os.close(dead)
                continue
            with contextlib.suppress(OSError, ValueError, TypeError):
                words.append(Word(**json.loads(path.read_bytes())))
        return words

    def everybody(self) -> list[Word]:
        """What all members say, this one included."""
        return [self._word, *self.others()]

    def quit(self) -> None:
        """Leaves."""
        self.step_down()
        with contextlib.suppress(OSError):
            self._path.unlink()
        self.forget()

    def forget(self) -> None:
        """Closes the files; after a fork they are the parent's, whose locks stay."""
        leader, self._leader = self._leader, None
        for file in (leader, self._member):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.close(file)
        _ROSTERS.discard(self)


class Alone:
    """The membership of a worker that can find no others: it leads as soon as it likes to."""

    def __init__(self) -> None:
        self.leading = False
        self.registered = False
        self._word = Word()

    def try_lead(self) -> bool:
        """Takes the lead."""
        self.leading = True
        return True

    def begin(self) -> None:
        """It has registered the instance."""
        self.registered = True

    def conclude(self) -> None:
        """It has drained the instance."""
        self.registered = False

    def led(self) -> bool:
        """Whether it keeps the lease."""
        return self.leading

    def say(self, word: Word) -> None:
        """Tells nobody."""
        self._word = word

    def others(self) -> list[Word]:
        """Nobody is known."""
        return []

    def everybody(self) -> list[Word]:
        """What it says itself."""
        return [self._word]

    def quit(self) -> None:
        """Leaves."""
        self.leading = False


def join(group: str, base: Path | None = None) -> Roster | Alone:
    """The membership of this worker."""
    try:
        return Roster(group, base)
    except OSError as error:
        log.warning(
            "no folder can be written in which the workers of a service find each other (%s): this one takes itself "
            "for the only one; where there are several, set TMPDIR to a folder that they can write",
            error,
        )
        return Alone()


def _folder(group: str, base: Path | None) -> Path:
    """A folder of this user's own, one for each group; ports are only unique within one network namespace."""
    try:
        network = os.readlink("/proc/self/ns/net")
    except OSError:
        network = ""
    digest = hashlib.sha256(f"{network} {group}".encode()).hexdigest()[:24]
    root = (base or Path(tempfile.gettempdir())) / f"waypost-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ConfigurationError(
            f"{root}, where workers of one service find each other, belongs to or can be written by somebody else: "
            "remove it, or set TMPDIR to a folder of this user's own"
        )
    folder = root / digest
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _lock(path: Path) -> int | None:
    """Opens and locks a file; None if somebody holds it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if path.name == "leader" else 0), 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


_ROSTERS: weakref.WeakSet[Roster] = weakref.WeakSet()


def _after_fork() -> None:
    for roster in list(_ROSTERS):
        roster.forget()


os.register_at_fork(after_in_child=_after_fork)
