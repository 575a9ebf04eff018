"""WebSockets pass as they are: what was agreed on, each message, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol
from wsproto.utilities import generate_accept_token

from gateway.harness import FakeControlPlane, RawServer, Server, answering, eventually, read_head
from ports import free_address
from waypost.gateway import WaypostGateway
from waypost.gateway.asgi import Message, Receive, Scope, Send

Start = Callable[..., tuple[WaypostGateway, Server]]
Serve = Callable[..., Server]


async def talk(scope: Scope, receive: Receive, send: Send) -> None:
    """An instance that agrees on the last subprotocol, repeats what it hears, and closes when it is told to."""
    await receive()
    offered = scope["subprotocols"]
    path = f"{scope['raw_path'].decode()}?{scope['query_string'].decode()}"
    headers = [(b"x-path", path.encode()), (b"x-as", b"1"), (b"x-as", b"2")]
    await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None, "headers": headers})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            ends.append((message["code"], message.get("reason")))
            return
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4321, "reason": "as asked"})
            return
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})


ends: list[tuple[int, str | None]] = []


def _connect(server: Server, path: str = "/talk/a%2Fb?q=%zz", **options: Any) -> ClientConnection:
    client: ClientConnection = connect(f"ws://{server.address}{path}", **options)
    return client


class Client:
    """A client and its server at once, which says when what happens: ASGI by hand."""

    def __init__(self, gateway: WaypostGateway, path: str) -> None:
        self._gateway = gateway
        self._scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"a")],
            "subprotocols": [],
        }
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self.got: list[Message] = []
        self.has_left = False

    def say(self, kind: str, **message: Any) -> None:
        """The client does something."""
        self._to_app.put_nowait({"type": f"websocket.{kind}", **message})

    async def run(self, takes: Callable[[Message], None]) -> list[Message]:
        """Connects, and hands over each message until it is over."""

        async def send(message: Message) -> None:
            if self.has_left:
                raise OSError("the client has left")  # as ASGI 2.4 has it
            self.got.append(message)
            takes(message)
            for _ in range(10):  # a server may take its time
                await asyncio.sleep(0)

        self.say("connect")
        try:
            await self._gateway(self._scope, self._to_app.get, send)
        finally:
            await self._gateway.close()
        return self.got


def test_what_a_client_says_while_the_instance_closes_does_not_change_how_it_ends(
    control_plane: FakeControlPlane, serve: Serve
) -> None:
    control_plane.add("talk", serve(talk, lifespan="off").address)
    client = Client(WaypostGateway(control_plane.url), "/talk")

    def talk_on(message: Message) -> None:
        if message["type"] == "websocket.accept":
            client.say("receive", text="close")
        if message["type"] == "websocket.close":
            client.say("receive", text="one more thing")

    got = asyncio.run(client.run(talk_on))
    assert got[-1] == {"type": "websocket.close", "code": 4321, "reason": "as asked"}


def test_a_client_that_leaves_while_the_instance_talks_takes_its_leave(
    control_plane: FakeControlPlane, serve: Serve
) -> None:
    codes: list[int] = []

    async def chatter(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        leaving = asyncio.ensure_future(receive())
        with contextlib.suppress(OSError):
            while not leaving.done():
                await send({"type": "websocket.send", "text": "and so on"})
                await asyncio.sleep(0)
        codes.append((await leaving)["code"])

    control_plane.add("chatter", serve(chatter, lifespan="off").address)
    client = Client(WaypostGateway(control_plane.url), "/chatter")

    def leave(message: Message) -> None:
        if message["type"] == "websocket.send" and not client.has_left:
            client.has_left = True
            # The server notices that nothing can be sent before it hands over why.
            asyncio.get_running_loop().call_later(0.2, lambda: client.say("disconnect", code=4001, reason="enough"))

    asyncio.run(client.run(leave))
    assert eventually(lambda: codes, "the instance hears of it") == [4001]


@pytest.mark.parametrize("implementation", ["websockets-sansio", "wsproto"])
def test_a_websocket_passes_as_it_is(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start, implementation: str
) -> None:
    del ends[:]
    control_plane.add("talk", serve(talk, lifespan="off", ws=implementation).address)
    gateway, server = gateway_to()

    with _connect(server, subprotocols=[Subprotocol("v1"), Subprotocol("v2")]) as client:
        assert client.subprotocol == "v2"
        assert client.response is not None
        assert client.response.headers["x-path"] == "/a%2Fb?q=%zz"
        assert client.response.headers.get_all("x-as") == ["1", "2"]
        for message in ("grüße", b"\x00\xff", "", b"", "x" * 300_000):
            client.send(message)
            assert client.recv(timeout=20) == message
        client.send(["in ", "parts"])
        assert client.recv(timeout=20) == "in parts"
        assert gateway.get_service_status()["talk"]["instances"][0]["in_flight"] == 1
        client.close(4001, "enough")
    assert eventually(lambda: ends, "the instance hears of it") == [(4001, "enough")]
    eventually(lambda: gateway.get_service_status()["talk"]["instances"][0]["in_flight"] == 0, "nothing is under way")


def test_how_an_instance_ends_it_is_how_the_client_sees_it(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.add("talk", serve(talk, lifespan="off").address)
    _, server = gateway_to()
    with _connect(server) as client:
        client.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as asked")


def _accepted(head: bytes) -> bytes:
    """The answer to a handshake (RFC 6455, 4.2.2)."""
    (key,) = (line.split()[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    proof = generate_accept_token(key)
    return b"HTTP/1.1 101 \r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: " + proof + b"\r\n\r\n"


def test_a_ping_before_the_end_does_not_hide_how_it_ends(control_plane: FakeControlPlane) -> None:
    ended = threading.Event()

    def end(peer: socket.socket) -> None:
        peer.sendall(_accepted(read_head(peer)) + b"\x81\x02hi" + b"\x89\x00" + b"\x88\x02\x03\xf4")
        peer.shutdown(socket.SHUT_WR)
        ended.set()

    def wait(_: Message) -> None:
        ended.wait()

    with RawServer(end) as instance:
        control_plane.add("talk", instance.address)
        got = asyncio.run(Client(WaypostGateway(control_plane.url), "/talk").run(wait))
    assert got[-1] == {"type": "websocket.close", "code": 1012, "reason": ""}


def test_a_message_that_is_too_large_ends_it_for_both(control_plane: FakeControlPlane) -> None:
    heard: list[bytes] = []

    def shout(peer: socket.socket) -> None:
        size = 40 * 1024 * 1024  # more than what the kernel takes when nobody reads it
        peer.sendall(_accepted(read_head(peer)) + b"\x82\x7f" + size.to_bytes(8, "big") + bytes(size))
        heard.append(peer.recv(2))
        peer.sendall(b"\x88\x02\x03\xf1")

    with RawServer(shout) as instance:
        control_plane.add("talk", instance.address)
        got = asyncio.run(Client(WaypostGateway(control_plane.url), "/talk").run(lambda _: None))
    assert got[-1]["code"] == 1009
    assert eventually(lambda: heard, "the instance hears of it")[0][0] == 0x88, "a close frame, and no reset"


def test_a_server_that_ended_it_itself_is_a_client_that_has_gone(control_plane: FakeControlPlane, serve: Serve) -> None:
    del ends[:]
    control_plane.add("talk", serve(talk, lifespan="off").address)
    client = Client(WaypostGateway(control_plane.url), "/talk")

    def end(message: Message) -> None:
        if message["type"] == "websocket.accept":
            client.say("receive", text="hello")
        elif message["type"] == "websocket.send":
            client.say("disconnect", code=1009, reason="too large")
            raise RuntimeError("Unexpected ASGI message 'websocket.send'")  # as uvicorn has it

    asyncio.run(client.run(end))
    assert eventually(lambda: ends, "the instance hears of it") == [(1009, "too large")]


def test_an_instance_that_breaks_off_is_never_a_clean_end(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    instance = serve(talk, lifespan="off")
    control_plane.add("talk", instance.address)
    _, server = gateway_to()
    with _connect(server) as client:
        client.send("hello")
        client.recv(timeout=20)
        instance.stop()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code in (1011, 1012)  # 1012: uvicorn said that it ends


def test_a_client_that_vanishes_is_gone_for_the_instance(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    del ends[:]
    control_plane.add("talk", serve(talk, lifespan="off").address)
    _, server = gateway_to()
    client = _connect(server)
    client.send("hello")
    client.recv(timeout=20)
    client.socket.close()
    assert eventually(lambda: ends, "the instance hears of it")[0][0] in (1005, 1006)


def test_an_instance_refuses_in_its_own_words(control_plane: FakeControlPlane, gateway_to: Start) -> None:
    refusal = b"HTTP/1.1 418 Teapot\r\nx-why: tea\r\ncontent-length: 5\r\n\r\nshort"
    with answering(refusal) as instance:
        control_plane.add("talk", instance.address)
        _, server = gateway_to()
        with pytest.raises(InvalidStatus) as refused, _connect(server):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["x-why"], response.body) == (418, "tea", b"short")


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 100\r\n\r\nhalf", (502, "upstream_closed")),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 70000\r\n\r\n" + bytes(70000), (502, "upstream_closed")),
        (b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\nwhole", (403, None)),
    ],
)
def test_a_refusal_that_is_not_whole_is_never_taken_for_one(
    control_plane: FakeControlPlane, gateway_to: Start, refusal: bytes, expected: tuple[int, str | None]
) -> None:
    with answering(refusal) as instance:
        control_plane.add("talk", instance.address)
        _, server = gateway_to()
        with pytest.raises(InvalidStatus) as refused, _connect(server):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers.get("x-waypost-reason")) == expected


def test_a_dead_instance_costs_no_handshake_an_error(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.add("talk", free_address())
    control_plane.add("talk", serve(talk, lifespan="off").address)
    _, server = gateway_to()
    for _ in range(4):
        with _connect(server) as client:
            client.send("hello")
            assert client.recv(timeout=20) == "hello"


def test_what_cannot_be_connected_is_explained(control_plane: FakeControlPlane, gateway_to: Start) -> None:
    def nothing(peer: Any) -> None:
        read_head(peer)
        with contextlib.suppress(OSError):
            peer.recv(1)

    with RawServer(nothing) as silent, answering(b"SSH-2.0\r\n\r\n") as other:
        control_plane.add("dead", free_address())
        control_plane.add("silent", silent.address)
        control_plane.add("other", other.address)
        control_plane.add("listed", free_address(), "POST /listed", prefix="")
        (_, patient), (_, impatient) = gateway_to(), gateway_to(timeout=1.0)
        for server, path, status, reason in [
            (patient, "/none", 404, "no_route"),
            (patient, "/listed", 405, "method_not_allowed"),
            (patient, "/dead", 503, "upstream_connect"),
            (impatient, "/silent", 504, "upstream_timeout"),
            (patient, "/other", 502, "upstream_protocol"),
        ]:
            with pytest.raises(InvalidStatus) as refused, _connect(server, path):
                pass
            response = refused.value.response
            assert (response.status_code, response.headers["x-waypost-reason"]) == (status, reason)
