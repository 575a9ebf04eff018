"""Answers of the gateway's own: problem details (RFC 9457) with `x-waypost-reason`, in the words that the proxy uses.

Deliberately absent: answers to gRPC clients. ASGI servers speak no gRPC; the proxy does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum

from waypost.gateway.asgi import Headers, Scope, Send


class Reason(Enum):
    """Why the gateway answered instead of a service: the word, and the status."""

    NO_ROUTE = ("no_route", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    NO_HEALTHY_INSTANCE = ("no_healthy_instance", 503)
    NO_TABLE = ("no_table", 503)
    UPSTREAM_CONNECT = ("upstream_connect", 503)
    UPSTREAM_CLOSED = ("upstream_closed", 502)
    UPSTREAM_PROTOCOL = ("upstream_protocol", 502)
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504)
    BAD_REQUEST = ("bad_request", 400)
    UNAUTHORIZED = ("unauthorized", 401)
    FORBIDDEN = ("forbidden", 403)
    INTERNAL = ("internal", 500)

    def __init__(self, word: str, status: int) -> None:
        self.word = word
        self.status = status


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error of this program
    """A request that is answered here. `detail` says what it concerns, why, and the way out."""

    def __init__(self, reason: Reason, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self._headers = tuple(headers)

    def body(self) -> bytes:
        """The problem document."""
        word = self.reason.word
        document = {
            "type": f"urn:waypost:error:{word}",
            "title": word.replace("_", " "),
            "status": self.reason.status,
            "detail": self.detail,
            "code": word,
        }
        return json.dumps(document, ensure_ascii=False).encode()

    def headers(self, body: bytes) -> Headers:
        """The fields that go with the document."""
        fields = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-waypost-reason", self.reason.word.encode()),
            (b"cache-control", b"no-store"),
        ]
        if self.reason.status == Reason.NO_HEALTHY_INSTANCE.status:
            fields.append((b"retry-after", b"1"))
        return [*fields, *self._headers]

    async def answer(self, scope: Scope, send: Send) -> None:
        """Answers a request, or a handshake that was not accepted yet."""
        body = self.body()
        kind = "http.response"
        if scope["type"] == "websocket":
            kind = "websocket.http.response"
            if kind not in (scope.get("extensions") or {}):
                # All that such a server can say is 403.
                await send({"type": "websocket.close", "code": 1008, "reason": self.reason.word})
                return
        await send({"type": f"{kind}.start", "status": self.reason.status, "headers": self.headers(body)})
        content = b"" if scope.get("method") == "HEAD" else body
        await send({"type": f"{kind}.body", "body": content, "more_body": False})
