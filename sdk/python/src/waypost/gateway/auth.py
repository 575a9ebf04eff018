"""Who may pass: the contract of an `auth_provider`, and what it is told of a request.

    def known_or_anonymous(request: GatewayRequest) -> dict[str, str | None]:
        token = request.header("authorization")
        if token is None:
            return {"x-user": None}  # a client that says so itself is not believed
        if token != "Bearer s3cret":
            raise Unauthorized("send the staff token", scheme="Bearer")
        return {"x-user": "staff"}

Deliberately absent: tokens, passwords, users. Verifying them is the provider's (or, for JWT, the proxy's).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from waypost.gateway.asgi import Changes, Headers, Scope
from waypost.gateway.problem import Reason, Refusal

AddedHeaders = Mapping[str, str | None] | Iterable[tuple[str, str | None]] | None

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True)
class GatewayRequest:
    """A request that is about to be forwarded. Its body is not read."""

    method: str
    """`GET` for a WebSocket's handshake."""
    path: str
    """As it is matched and forwarded, escapes and all; a prefix is not cut off yet."""
    query_string: bytes
    headers: Headers
    """As they came, names in lower case."""
    client: str | None
    """The client's address, as the ASGI server knows it."""
    service: str | None
    """Who would get it; `None` where no route matches, and for the gateway's own `health_path`."""
    scope: Scope
    """All that the ASGI server says."""

    def header(self, name: str) -> str | None:
        """A field's value, the lines of a repeated one joined by `, `; `None` where there is none."""
        wanted = name.lower().encode("latin-1")
        lines = [value.decode("latin-1") for each, value in self.headers if each == wanted]
        return ", ".join(lines) if lines else None


class Unauthorized(Refusal):
    """401: it is not known who asks."""

    def __init__(self, detail: str = "credentials are needed", scheme: str = "Bearer") -> None:
        super().__init__(Reason.UNAUTHORIZED, detail, [(b"www-authenticate", scheme.encode("latin-1"))])


class Forbidden(Refusal):
    """403: it is known who asks, and that is not enough."""

    def __init__(self, detail: str = "this is not allowed") -> None:
        super().__init__(Reason.FORBIDDEN, detail)


class AuthProvider(Protocol):
    """Called with each request before it is forwarded, answered by the gateway (`health_path`) or refused otherwise.

    Deliberately not asked for: the routes of an app around the gateway, which are that app's.

    It returns header fields for the instance, which replace those that the client has sent under these names: a value
    of `None` takes them away. Where it returns `None` itself, all that the client has sent passes as it is, so that an
    instance that believes `x-user` would believe it of a client: name such a field in each answer. Or it raises
    `Unauthorized` or `Forbidden`. It may be `async`; one that is not must not wait. Whatever else
    it raises is answered with 500: a request that was not checked never passes.
    """

    def __call__(self, request: GatewayRequest, /) -> AddedHeaders | Awaitable[AddedHeaders]:
        """Lets a request pass, with what to add to it."""


async def changed_by(provider: AuthProvider, request: GatewayRequest) -> Changes:
    """The fields that a provider adds and takes away. Raises ValueError for what is no header field."""
    said = provider(request)
    added = await said if inspect.isawaitable(said) else said
    if added is None:
        return []
    pairs = added.items() if isinstance(added, Mapping) else added
    return [(_name(name), None if value is None else _value(name, value)) for name, value in pairs]


def _name(name: object) -> bytes:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"the auth provider has returned {name!r}, which is no name of a header field")
    return name.lower().encode()


def _value(name: str, value: object) -> bytes:
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        # The value itself may be a secret.
        raise ValueError(
            f"the auth provider has returned a value for {name} that a header field cannot carry: return a text in "
            "ISO 8859-1 without control characters, other texts escaped (urllib.parse.quote), or None for no field"
        )
    return value.strip().encode("latin-1")
