"""What the process' own sockets tell."""

from __future__ import annotations

import os
import socket
import stat
from types import SimpleNamespace

import pytest

from waypost.service.listener import Listener, copies, has_own_queue, reachable
from waypost.transport import Address

EVERYWHERE = Listener("0.0.0.0", 8001, 1)  # noqa: S104 (read, not bound)
# No name can be as long as this, so that nobody is asked for it.
UNKNOWN = Address.parse(f"http://{'x' * 64}.internal:7401")
KNOWN = Address.parse("http://127.0.0.1:7401")


def test_sockets_that_share_a_port_have_a_queue_each() -> None:
    with socket.socket() as only, socket.socket() as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for each in (only, shared):
            each.bind(("127.0.0.1", 0))
            each.listen()
        assert not has_own_queue(only.fileno())
        assert has_own_queue(shared.fileno())
        assert only.getsockname(), "it is still open"


def test_the_copies_of_a_socket_are_found() -> None:
    with socket.socket() as one, socket.socket(), one.dup() as copy:
        assert sorted(copies(os.fstat(one.fileno()).st_ino)) == sorted([one.fileno(), copy.fileno()])


def test_sockets_without_inodes_are_not_taken_for_copies_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(), monkeypatch.context() as patch:
        patch.setattr("waypost.service.listener.os.fstat", lambda _: SimpleNamespace(st_mode=stat.S_IFSOCK, st_ino=0))
        found = copies(0)
    assert found == []


def test_where_no_way_leads_to_the_control_plane_the_address_is_not_known() -> None:
    assert reachable(EVERYWHERE, [UNKNOWN]) is None
    assert reachable(EVERYWHERE, [UNKNOWN, KNOWN]) == "127.0.0.1:8001"
    assert reachable(Listener("10.0.0.7", 8001, 1), [UNKNOWN]) == "10.0.0.7:8001", "nothing is to be asked"
