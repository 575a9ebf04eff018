"""What the process' own sockets tell."""

from __future__ import annotations

import socket

from waypost.service.listener import has_own_queue


def test_sockets_that_share_a_port_have_a_queue_each() -> None:
    with socket.socket() as only, socket.socket() as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for each in (only, shared):
            each.bind(("127.0.0.1", 0))
            each.listen()
        assert not has_own_queue(only.fileno())
        assert has_own_queue(shared.fileno())
        assert only.getsockname(), "it is still open"
