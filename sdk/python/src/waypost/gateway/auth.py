"""Who may pass: the contract of an `auth_provider`, and what it is told of a request.

    def only_staff(request: GatewayRequest) -> dict[str, str]:
        if request.header("authorization") != "Bearer s3cret":
            raise Unauthorized("send the staff token", scheme="Bearer")
        return {"x-user": "staff"}

Deliberately absent: tokens, passwords, users. Verifying them is the provider's (or, for JWT, the proxy's).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from waypost.gateway.asgi import Headers, Scope
from waypost.gateway.problem import Reason, Refusal

AddedHeaders = Mapping[str, str] | Iterable[tuple[str, str]] | None


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
    """Who would get it; `None` where no route matches."""
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
    """Called with each request before it is forwarded or refused otherwise.

    It returns header fields for the instance, which replace those that the client has sent under these names, or
    `None`; or raises `Unauthorized` or `Forbidden`. It may be `async`; one that is not must not wait. Whatever else
    it raises is answered with 500: a request that was not checked never passes.
    """

    def __call__(self, request: GatewayRequest, /) -> AddedHeaders | Awaitable[AddedHeaders]:
        """Lets a request pass, with what to add to it."""


async def added_by(provider: AuthProvider, request: GatewayRequest) -> Headers:
    """The fields that a provider adds."""
    said = provider(request)
    added = await said if inspect.isawaitable(said) else said
    if added is None:
        return []
    pairs = added.items() if isinstance(added, Mapping) else added
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
