"""Who of several processes keeps the lease: real processes, some of which are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import eventually
from waypost import ConfigurationError
from waypost.service.roster import Roster, Word, join

MEMBER = """
import sys, time
from pathlib import Path
from waypost.service.roster import Roster, Word, join
roster = Roster("group", Path(sys.argv[1]))
print(roster.try_lead(), flush=True)
for line in sys.stdin:
    if line == "leave\\n":
        roster.say(Word(True, 2, 0.5))
    print(roster.try_lead(), flush=True)
"""


class Member:
    """A member in a process of its own."""

    def __init__(self, base: Path) -> None:
        command = [sys.executable, "-c", MEMBER, str(base)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.leads = self._line()

    def _line(self) -> bool:
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "True\n"

    def ask(self, word: str) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self._line()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    started = Member(tmp_path)
    yield started
    started.kill()


def test_one_leads_until_it_is_killed(tmp_path: Path, member: Member) -> None:
    roster = Roster("group", tmp_path)
    assert member.leads
    assert not roster.try_lead()
    assert roster.led()
    assert roster.others() == [Word()]
    assert member.ask("leave")
    assert roster.others() == [Word(True, 2, 0.5)]
    member.kill()
    eventually("the lead is free", roster.try_lead)
    assert roster.others() == [], "the dead are removed"
    roster.quit()


def test_who_leaves_gives_up_the_lead_and_says_whether_it_has_drained(tmp_path: Path, member: Member) -> None:
    roster = Roster("group", tmp_path)
    member.kill()
    eventually("the lead is free", roster.try_lead)
    assert not roster.registered, "nobody has begun"
    roster.begin()
    assert roster.registered
    roster.conclude()
    roster.quit()
    other = Roster("group", tmp_path)
    assert not other.led()
    assert not other.registered
    assert other.try_lead()
    other.begin()
    assert other.registered
    other.quit()


def test_another_group_has_another_leader(tmp_path: Path, member: Member) -> None:
    other = Roster("other", tmp_path)
    assert member.leads
    assert other.try_lead()
    other.quit()


def test_a_child_that_is_forked_off_does_not_hold_on_to_the_lead(tmp_path: Path) -> None:
    roster = Roster("group", tmp_path)
    assert roster.try_lead()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0)
    try:
        roster.quit()
        other = Roster("group", tmp_path)
        assert other.try_lead()
        assert other.others() == []
        other.quit()
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_a_worker_that_can_write_no_folder_leads_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = tmp_path / "file"
    nowhere.touch()
    alone = join("group", nowhere)
    assert "set TMPDIR" in caplog.text
    assert not alone.led()
    assert alone.try_lead()
    assert (alone.leading, alone.led(), alone.registered, alone.others()) == (True, True, False, [])
    alone.begin()
    alone.say(Word(False, 2, 0.5))
    assert (alone.registered, alone.everybody()) == (True, [Word(False, 2, 0.5)])
    alone.conclude()
    alone.quit()
    assert not alone.registered
    assert not alone.led()


def test_without_its_folder_it_goes_on_and_finds_nobody(tmp_path: Path, member: Member) -> None:
    roster = Roster("group", tmp_path)
    shutil.rmtree(tmp_path / f"waypost-{os.getuid()}")
    assert member.leads
    assert member.ask("leave"), "it leads as before"
    assert (roster.others(), roster.registered, roster.try_lead()) == ([], False, False)
    roster.say(Word(True))
    roster.quit()


def test_the_leaders_file_never_looks_abandoned(tmp_path: Path) -> None:
    roster = Roster("group", tmp_path)
    assert roster.try_lead()
    (leader,) = tmp_path.glob("*/*/leader")
    os.utime(leader, (1, 1))
    roster.say(Word())
    assert leader.stat().st_mtime > 1
    roster.quit()


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"waypost-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        Roster("group", tmp_path)
