"""What a client sees when an instance fails: the lines of data-plane/FAULTS.md that concern HTTP/1.1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gateway.harness import (
    FakeControlPlane,
    RawServer,
    Server,
    answering,
    ask,
    dial,
    echo,
    eventually,
    read_head,
    reset,
)
from ports import free_address
from waypost.gateway import WaypostGateway
from waypost.gateway.asgi import Message, Receive, Scope, Send

Start = Callable[..., tuple[WaypostGateway, Server]]
Serve = Callable[..., Server]

_GET = b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
_POST = b"POST /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab"


def _reason(answer: bytes) -> str:
    head = answer.split(b"\r\n\r\n")[0].decode()
    words = [line.split(": ")[1] for line in head.split("\r\n") if line.startswith("x-waypost-reason")]
    return f"{head.split()[1]} {words[0] if words else ''}".strip()


def test_a_dead_instance_costs_no_request_an_error(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.add("a", free_address())
    control_plane.add("a", serve(echo).address)
    _, server = gateway_to()
    # No connection means that nothing was sent: so a POST goes elsewhere, too.
    assert [_reason(ask(server, request)) for request in [_GET, _POST] * 5] == ["200"] * 10


def test_only_what_is_safe_is_sent_again_after_an_instance_has_seen_it(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    seen: list[bytes] = []

    def hang_up(peer: socket.socket) -> None:
        seen.append(read_head(peer))
        reset(peer)

    with RawServer(hang_up) as dying, RawServer(hang_up) as dying_too:
        control_plane.add("a", dying.address)
        control_plane.add("a", dying_too.address)
        _, server = gateway_to()
        assert _reason(ask(server, _POST)) == "502 upstream_closed"
        assert len(seen) == 1, "a POST is never sent twice"
        assert _reason(ask(server, _GET)) == "502 upstream_closed"
        assert len(seen) == 3, "a GET goes to each"
        control_plane.add("a", serve(echo).address)
        eventually(lambda: _reason(ask(server, _GET)) == "200", "the other instance takes over")
        assert [_reason(ask(server, _GET)) for _ in range(6)] == ["200"] * 6


def test_a_closed_idle_connection_is_no_fault(control_plane: FakeControlPlane, gateway_to: Start) -> None:
    answered = 0

    def answer_then_close_at_the_next(peer: socket.socket) -> None:
        nonlocal answered
        read_head(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        answered += 1
        read_head(peer)  # and not a word to the second request

    with RawServer(answer_then_close_at_the_next) as instance:
        control_plane.add("a", instance.address)
        gateway, server = gateway_to()
        assert [_reason(ask(server, _GET)) for _ in range(3)] == ["200"] * 3
        assert gateway.get_service_status()["a"]["status"] == "healthy"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "502 upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", "502 upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n", "502 upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "502 upstream_protocol"),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "502 upstream_protocol"),
        (b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n", "502 upstream_protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "502 upstream_protocol"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 40, "502 upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "502 upstream_protocol"),
        (b"HTTP/1.1 200 OK\r\nx-half: ", "502 upstream_closed"),
        (b"", "502 upstream_closed"),
    ],
)
def test_what_is_no_answer_is_said_so(
    control_plane: FakeControlPlane, gateway_to: Start, answer: bytes, expected: str
) -> None:
    with answering(answer) as instance:
        control_plane.add("a", instance.address)
        _, server = gateway_to()
        assert _reason(ask(server, _GET)) == expected


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 OK\r\nx: "])
def test_an_instance_that_says_nothing_is_given_up(
    control_plane: FakeControlPlane, gateway_to: Start, says: bytes
) -> None:
    with answering(says, then=read_head_forever) as instance:
        control_plane.add("a", instance.address)
        _, server = gateway_to(timeout=1.0)
        for request in (_GET, _POST):
            answer = ask(server, request)
            assert _reason(answer) == "504 upstream_timeout"
            assert b"1 s" in answer


def read_head_forever(peer: socket.socket) -> None:
    """Waits until the other side ends it."""
    while peer.recv(65536):
        pass


@pytest.mark.parametrize(
    ("body", "content_length"),
    [(b"inflated", 2), (b"cut", 9)],
    ids=["a body that became longer", "a body that became shorter"],
)
def test_a_body_of_another_length_than_it_says_is_refused_and_no_fault_of_the_instance(
    control_plane: FakeControlPlane, serve: Serve, body: bytes, content_length: int
) -> None:
    control_plane.add("a", serve(echo).address)
    gateway = WaypostGateway(control_plane.url)

    async def changes(scope: Scope, receive: Receive, send: Send) -> None:
        """As a middleware does that decompresses bodies and leaves the header as it is."""

        async def changed() -> Message:
            message = await receive()
            return {**message, "body": b"" if message.get("more_body") else body}

        await gateway(scope, changed, send)

    server = serve(changes)
    head = f"POST /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {content_length}\r\n\r\n"
    answer = ask(server, head.encode() + b"z" * content_length)
    assert _reason(answer) == "400 bad_request"
    assert b"content-length" in answer.split(b"\r\n\r\n")[1]
    assert gateway.get_service_status()["a"]["status"] == "healthy"
    assert _reason(ask(server, _GET)) == "200"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
)
def test_an_answer_that_breaks_off_never_looks_complete(
    control_plane: FakeControlPlane, gateway_to: Start, answer: bytes
) -> None:
    with answering(answer) as instance:
        control_plane.add("a", instance.address)
        _, server = gateway_to()
        got = ask(server, _GET)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    if b"content-length" in head:
        assert len(body) < 100
    else:
        assert not body.endswith(b"0\r\n\r\n")


def test_a_reset_is_not_the_end_of_an_answer_that_ends_with_the_connection(
    control_plane: FakeControlPlane, gateway_to: Start
) -> None:
    endless = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nsome"

    def wait_then_reset(peer: socket.socket) -> None:
        eventually(lambda: got_some, "the client has the beginning")
        reset(peer)

    got_some: list[bytes] = []
    with answering(endless) as orderly, answering(endless, then=wait_then_reset) as broken:
        control_plane.add("a", orderly.address)
        control_plane.add("b", broken.address)
        _, server = gateway_to()
        assert ask(server, _GET).endswith(b"4\r\nsome\r\n0\r\n\r\n")
        with dial(server) as client:
            client.sendall(_GET.replace(b"/a", b"/b"))
            got = read_head(client)
            while b"some\r\n" not in got:
                got += client.recv(1000)
            got_some.append(got)
            assert client.recv(1000) == b"", "the connection ends, and not with a last chunk"


@contextmanager
def _process_of_an_instance() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        command = [sys.executable, "-m", "uvicorn", "gateway.harness:echo", "--fd", str(listener.fileno())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [*command, "--log-level", "critical"],
            pass_fds=[listener.fileno()],
            env=environment,
        )
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield process, address
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_killed_process_under_load_costs_no_get_an_error(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.add("a", serve(echo).address)
    with _process_of_an_instance() as (process, address):
        control_plane.add("a", address)
        _, server = gateway_to()
        port = f'"port": {address.split(":")[1]}'.encode()
        eventually(lambda: port in ask(server, _GET), "the process takes requests")
        outcomes = []
        for number in range(200):
            if number == 50:
                process.kill()
            outcomes.append(_reason(ask(server, _GET)))
        assert outcomes == ["200"] * 200
