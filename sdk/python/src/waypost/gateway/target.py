"""Where a request goes: its path as it is matched, the route that takes it, and who says that it may pass.

Deliberately absent: which instance; that is chosen for each attempt.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from waypost.gateway.asgi import Changes, Scope
from waypost.gateway.auth import AuthProvider, GatewayRequest, changed_by
from waypost.gateway.path import PathError, normalised, stripped
from waypost.gateway.problem import Reason, Refusal
from waypost.gateway.routes import OtherMethods, Route
from waypost.gateway.table import Table

_log = logging.getLogger("waypost.gateway")

_UNFIT = re.compile(rb"[^\x21-\x7e]")


@dataclass(frozen=True)
class Target:
    """What is known of a request before an instance is chosen."""

    method: str
    route: Route
    request_target: str
    """The path and the query, as the instance gets them."""
    changes: Changes
    """What the auth provider adds to its header fields, and takes away."""


def path_of(scope: Scope) -> str:
    """A request's path as it is matched. Raises Refusal for one that could be read as another."""
    try:
        return normalised(raw_path(scope))
    except PathError as error:
        raise Refusal(Reason.BAD_REQUEST, f"the path has {error}") from None


async def target_of(scope: Scope, table: Table, auth: AuthProvider | None) -> Target:
    """Finds the route of a request. Raises Refusal for what does not pass, and for what nobody answers."""
    method, path = scope.get("method", "GET"), path_of(scope)
    found = table.routes.find(method, path)
    changes = await checked(auth, scope, path, found.service.name if isinstance(found, Route) else None)
    if found is None:
        raise Refusal(Reason.NO_ROUTE, f"no service answers {path}; the control plane's /v1/routes lists what is there")
    if isinstance(found, OtherMethods):
        allow = ", ".join(found.allow)
        raise Refusal(
            Reason.METHOD_NOT_ALLOWED,
            f"{path} is not answered for {method}, but for {allow}",
            [(b"allow", allow.encode())],
        )
    if found.is_prefix and found.strip_prefix:
        path = stripped(path, found.path)
    query = scope.get("query_string") or b""
    return Target(method, found, f"{path}?{_visible(query)}" if query else path, changes)


def raw_path(scope: Scope) -> bytes:
    """The path as the client sent it, below where the gateway is mounted."""
    raw = scope.get("raw_path") or quote(scope["path"], safe="/!$&'()*+,;=:@~").encode()
    raw = raw.split(b"?", 1)[0]
    mounted_at = scope.get("root_path", "").rstrip("/")
    if not mounted_at:
        return bytes(raw)
    segments = raw.split(b"/")
    depth = mounted_at.count("/") + 1
    if unquote_to_bytes(b"/".join(segments[:depth])) != mounted_at.encode():
        return bytes(raw)  # the server has taken its root path off already
    return b"/" + b"/".join(segments[depth:])


async def checked(auth: AuthProvider | None, scope: Scope, path: str, service: str | None) -> Changes:
    """What the auth provider changes of a request that may pass. Raises Refusal for one that may not."""
    if auth is None:
        return []
    client = scope.get("client")
    request = GatewayRequest(
        method=scope.get("method", "GET"),
        path=path,
        query_string=scope.get("query_string") or b"",
        headers=list(scope["headers"]),
        client=str(client[0]) if client else None,
        service=service,
        scope=scope,
    )
    try:
        return await changed_by(auth, request)
    except Refusal:
        raise
    except Exception as error:
        _log.exception("the auth provider has failed; the request is refused")
        raise Refusal(Reason.INTERNAL, "who may pass could not be checked; the gateway's log says why") from error


def _visible(query: bytes) -> str:
    """A query as it came, but for bytes that a request line has no room for, which become escapes."""
    return _UNFIT.sub(lambda found: b"%%%02X" % found[0][0], query).decode("ascii")
