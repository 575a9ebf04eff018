"""What a client sends is what an instance gets, and what it answers is what the client gets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

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
    read_all,
    read_head,
)
from ports import free_address
from waypost.gateway import WaypostGateway
from waypost.gateway.asgi import Receive, Scope, Send

Start = Callable[..., tuple[WaypostGateway, Server]]
Serve = Callable[..., Server]


def _seen(server: Server, request: str, body: bytes = b"") -> dict[str, Any]:
    head = request.replace("\n", "\r\n") + "\r\nhost: shop.example\r\nconnection: close\r\n\r\n"
    answer = ask(server, head.encode("latin-1") + body)
    head_of_answer, _, content = answer.partition(b"\r\n\r\n")
    assert head_of_answer.startswith(b"HTTP/1.1 200"), answer
    seen: dict[str, Any] = json.loads(content)
    return seen


def _problem(answer: bytes) -> tuple[int, str, dict[str, Any]]:
    head, _, content = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    reason = next(line.removeprefix("x-waypost-reason: ") for line in lines if line.startswith("x-waypost-reason"))
    assert "content-type: application/problem+json" in lines
    document: dict[str, Any] = json.loads(content) if content else {}
    return int(lines[0].split()[1]), reason, document


def _get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{more}\r\n".encode()


def test_path_query_and_repeated_headers_pass_byte_for_byte(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.add("files", serve(echo).address, "GET /raw/{name:path}")
    _, server = gateway_to()

    seen = _seen(
        server,
        "GET /raw/a%2Fb//c%20d/%E4?q=a%2fb&q=%zz+&=&e HTTP/1.1\n"
        "x-many: 1\nx-other: x\nx-many: 2, 3\nx-many: \nx-latin: \xe4",
    )

    assert seen["path"] == "/raw/a%2Fb//c%20d/%E4"
    assert seen["query"] == "q=a%2fb&q=%zz+&=&e"
    ours = [[name, value] for name, value in seen["headers"] if name in ("x-many", "x-other", "x-latin")]
    assert ours == [["x-many", "1"], ["x-other", "x"], ["x-many", "2, 3"], ["x-many", ""], ["x-latin", "\xe4"]]


def test_a_prefix_is_stripped_unless_the_service_keeps_it(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.add("users", serve(echo).address)
    control_plane.add("kept", serve(echo).address, strip_prefix=False)
    control_plane.add("api", serve(echo).address, prefix="/v1/api")
    _, server = gateway_to()

    assert _seen(server, "GET /users/7%2F8?a HTTP/1.1")["path"] == "/7%2F8"
    assert _seen(server, "GET /users HTTP/1.1")["path"] == "/"
    assert _seen(server, "GET /kept/7 HTTP/1.1")["path"] == "/kept/7"
    assert _seen(server, "GET /v1/api/7 HTTP/1.1")["path"] == "/7"
    assert _problem(ask(server, _get("/users2")))[:2] == (404, "no_route")


def test_any_method_and_body_passes(control_plane: FakeControlPlane, serve: Serve, gateway_to: Start) -> None:
    control_plane.add("a", serve(echo).address)
    _, server = gateway_to()

    assert _seen(server, "PROPFIND /a/x HTTP/1.1")["method"] == "PROPFIND"
    sized = _seen(server, "POST /a HTTP/1.1\ncontent-length: 5", b"hello")
    assert sized["body"] == "hello"
    assert ["content-length", "5"] in sized["headers"]
    chunked = _seen(server, "PUT /a HTTP/1.1\ntransfer-encoding: chunked", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert chunked["body"] == "abcde"
    assert "content-length" not in dict(chunked["headers"])
    empty = _seen(server, "POST /a HTTP/1.1\ncontent-length: 0")
    assert ["content-length", "0"] in empty["headers"]


def test_what_concerns_one_hop_ends_here_and_nobody_forges_who_is_behind(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    control_plane.add("a", serve(echo).address)
    _, server = gateway_to()

    seen = _seen(
        server,
        "GET /a HTTP/1.1\nconnection: x-mine, close\nx-mine: 1\nkeep-alive: timeout=5\nte: trailers\nproxy-x: 1\n"
        "x-forwarded-proto: https\nx-forwarded-host: evil\nx-forwarded-port: 1\nforwarded: for=1\nx-real-ip: 1\n"
        "x-waypost-reason: none\nvia: 1.0 first",
    )

    headers = seen["headers"]
    names = [name for name, _ in headers]
    for gone in ("x-mine", "keep-alive", "te", "proxy-x", "x-forwarded-port", "forwarded", "x-real-ip"):
        assert gone not in names
    assert "x-waypost-reason" not in names
    assert ["host", "shop.example"] in headers
    assert ["x-forwarded-host", "shop.example"] in headers
    assert ["x-forwarded-for", "127.0.0.1"] in headers
    assert [value for name, value in headers if name == "via"] == ["1.0 first", "1.1 waypost"]


def test_an_answers_headers_pass_in_their_order(control_plane: FakeControlPlane, gateway_to: Start) -> None:
    answer = (
        b"HTTP/1.1 207 Whatever\r\nServer: theirs\r\nSet-Cookie: a=1\r\nX-Y: \xe4\r\nSet-Cookie: b=2\r\n"
        b"Connection: x-hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n"
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"
    )
    with answering(answer) as instance:
        control_plane.add("a", instance.address)
        _, server = gateway_to()
        got = ask(server, _get("/a"))

    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 207")
    assert lines[1:-1] == [
        b"server: theirs",
        b"set-cookie: a=1",
        b"x-y: \xe4",
        b"set-cookie: b=2",
        b"content-length: 2",
        b"via: 1.1 waypost",
    ]
    assert lines[-1].lower() == b"connection: close"
    assert body == b"ok"


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n", b"content-length: 999"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 999\r\netag: x\r\n\r\n", b"etag: x"),
        ("GET", b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n", b"x-a: 1"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n", b"x-a: 1"),
    ],
)
def test_answers_without_a_body_have_none(
    control_plane: FakeControlPlane, gateway_to: Start, method: str, answer: bytes, expected: bytes
) -> None:
    with answering(answer) as instance:
        control_plane.add("a", instance.address)
        _, server = gateway_to()
        got = ask(server, f"{method} /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())

    head, _, body = got.partition(b"\r\n\r\n")
    final = answer[answer.rindex(b"HTTP/1.1") :]
    assert head.startswith(final[: len(b"HTTP/1.1 200")])
    assert expected in head
    assert b"link" not in head
    assert body == b""


def test_bodies_stream_both_ways_at_the_same_time(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    async def upper(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": more})

    control_plane.add("a", serve(upper, lifespan="off").address)
    _, server = gateway_to()

    with dial(server) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        head = read_head(client)
        assert b"200" in head
        for word in (b"one", b"two", b"three"):
            client.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            got = b""
            while word.upper() not in got:
                got += client.recv(1000)
        client.sendall(b"0\r\n\r\n")
        eventually(lambda: b"0\r\n\r\n" in client.recv(1000), "the end of the answer")


def test_a_client_that_does_not_read_holds_the_instance_back(
    control_plane: FakeControlPlane, serve: Serve, gateway_to: Start
) -> None:
    sent = 0
    total = 64

    async def flood(_: Scope, __: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _number in range(total):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    control_plane.add("a", serve(flood, lifespan="off").address)
    _, server = gateway_to()

    with dial(server) as client:
        client.sendall(_get("/a"))
        begun = read_head(client)
        eventually(lambda: sent > 0, "the answer begins")
        before = -1
        while before != sent:
            before = sent
            threading.Event().wait(0.3)
        assert sent < total * 3 / 4, "the gateway has taken what the client did not"
        assert len(begun + read_all(client)) > total << 20
    assert sent == total


def test_an_upload_is_not_asked_for_before_an_instance_is_there(
    control_plane: FakeControlPlane, gateway_to: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost.gateway.forward._CONTINUE", 30.0)

    def refuse(peer: socket.socket) -> None:
        assert b"expect: 100-continue" in read_head(peer)
        peer.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        assert read_all(peer) == b"", "not a byte of the body"

    with RawServer(refuse) as instance:
        control_plane.add("a", instance.address)
        _, server = gateway_to()
        with dial(server) as client:
            client.sendall(b"POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9999\r\n\r\n")
            assert read_head(client).startswith(b"HTTP/1.1 413")


def test_an_upload_follows_the_instances_100(control_plane: FakeControlPlane, serve: Serve, gateway_to: Start) -> None:
    control_plane.add("a", serve(echo).address)
    _, server = gateway_to()
    with dial(server) as client:
        client.sendall(
            b"POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        )
        assert read_head(client).startswith(b"HTTP/1.1 100")
        client.sendall(b"hello")
        assert b'"body": "hello"' in read_all(client)


def test_a_client_that_leaves_ends_the_request_to_the_instance(
    control_plane: FakeControlPlane, gateway_to: Start
) -> None:
    got: list[bytes] = []

    def wait_for_the_end(peer: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            read_all(peer)
        got.append(b"the end")

    with RawServer(wait_for_the_end) as instance:
        control_plane.add("a", instance.address)
        gateway, server = gateway_to(timeout=60)
        for request in (_get("/a"), b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab"):
            del got[:]
            client = dial(server)
            client.sendall(request)
            eventually(lambda: _in_flight(gateway) == 1, "the request is under way")
            client.close()
            eventually(lambda: got, "the instance sees the end")
            eventually(lambda: _in_flight(gateway) == 0, "nothing is under way")


def _in_flight(gateway: WaypostGateway) -> int:
    return sum(each["in_flight"] for service in gateway.get_service_status().values() for each in service["instances"])


def test_what_nobody_answers_is_explained(control_plane: FakeControlPlane, serve: Serve, gateway_to: Start) -> None:
    control_plane.add("orders", serve(echo).address, "POST /orders", "GET /orders/{}", prefix="")
    control_plane.add("down", free_address(), state="INSTANCE_STATE_DOWN")
    control_plane.add("rpc", free_address(), protocol="PROTOCOL_GRPC")
    _, server = gateway_to()

    assert _problem(ask(server, _get("/nothing")))[:2] == (404, "no_route")
    answer = ask(server, _get("/orders"))
    assert _problem(answer)[:2] == (405, "method_not_allowed")
    assert b"\r\nallow: POST\r\n" in answer
    status, reason, document = _problem(ask(server, _get("/down")))
    assert (status, reason) == (503, "no_healthy_instance")
    assert document["type"] == "urn:waypost:error:no_healthy_instance"
    assert "down" in document["detail"]
    assert "waypost-proxy" in _problem(ask(server, _get("/rpc")))[2]["detail"]
    assert _problem(ask(server, _get("/orders/%2e%2e/x")))[:2] == (400, "bad_request")
    head = ask(server, b"HEAD /nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"content-length: " in head
