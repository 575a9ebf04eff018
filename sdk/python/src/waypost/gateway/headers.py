"""What happens to header fields on the way through: RFC 9110, sections 7.6.1 to 7.6.3, as the proxy does it.

- Fields that concern one hop end here: those that `Connection` names, `Connection`, `Keep-Alive`, `Proxy-*`, `TE`,
  `Transfer-Encoding`, `Upgrade`.
- `X-Forwarded-For`, `-Proto` and `-Host` say what the ASGI server says of the client; what the client itself says of
  that, and `X-Waypost-*`, is dropped. `Via` is extended. `Host` stays.

Deliberately absent: a list of trusted proxies. The ASGI server has one (`uvicorn --forwarded-allow-ips`), and tells the
gateway who the client is.
"""

from __future__ import annotations

from collections.abc import Iterable

from waypost.gateway.asgi import Changes, Headers, Scope
from waypost.gateway.problem import Reason, Refusal

_ONE_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"),
)
_DOUBTFUL = frozenset((b"forwarded", b"x-real-ip"))
_NEEDED = frozenset((b"host", b"content-length"))


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The members of a list field, across all of its lines, in lower case."""
    lines = (value for each, value in headers if each == name)
    return [member.strip().lower() for line in lines for member in line.split(b",") if member.strip()]


def towards_instance(scope: Scope, address: str) -> Headers:
    """A client's fields as they go to the instance at `address`."""
    headers: Headers = list(scope["headers"])
    named = _named_by_connection(headers)
    is_chunked = _is_chunked(headers)
    passed = [field for field in headers if not (field[0] in named or _ends_here(field[0]))]
    if is_chunked:
        passed = [field for field in passed if field[0] != b"content-length"]
    hosts = [value for name, value in passed if name == b"host"]
    if len(hosts) > 1:
        raise Refusal(Reason.BAD_REQUEST, "the request has several Host fields; send one")
    if not hosts:
        hosts = [address.encode()]
        passed.insert(0, (b"host", hosts[0]))
    client = scope.get("client")
    secure = scope.get("scheme") in ("https", "wss")
    if client:
        passed.append((b"x-forwarded-for", str(client[0]).encode()))
    passed.append((b"x-forwarded-proto", b"https" if secure else b"http"))
    passed.append((b"x-forwarded-host", hosts[0]))
    passed.append((b"via", f"{scope.get('http_version', '1.1')} waypost".encode()))
    if is_chunked:
        passed.append((b"transfer-encoding", b"chunked"))
    return _with_one_cookie(passed)


def replaced(headers: Headers, changes: Changes) -> Headers:
    """Fields with others put in the place of those that have their names."""
    names = {name for name, _ in changes}
    put = [(name, value) for name, value in changes if value is not None]
    return [field for field in headers if field[0] not in names] + put


def towards_client(headers: Iterable[tuple[bytes, bytes]], status: int) -> Headers:
    """An instance's fields as they go to the client."""
    fields = [(bytes(name), bytes(value)) for name, value in headers]
    named = _named_by_connection(fields)
    # A length beside a coding does not count (RFC 9112, section 6.3), and what has no body has no length.
    without_length = status in (204, 304) or any(name == b"transfer-encoding" for name, _ in fields)
    passed: Headers = []
    for name, value in fields:
        if name in named or name in _ONE_HOP or name.startswith(b"proxy-"):
            continue
        if name == b"content-length":
            if without_length:
                continue
            without_length = True
        passed.append((name, value))
    passed.append((b"via", b"1.1 waypost"))
    return passed


def _ends_here(name: bytes) -> bool:
    return name in _ONE_HOP or name in _DOUBTFUL or name.startswith((b"proxy-", b"x-forwarded-", b"x-waypost-"))


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    return frozenset(values(headers, b"connection")) - _NEEDED


def _is_chunked(headers: Headers) -> bool:
    codings = values(headers, b"transfer-encoding")
    if codings and codings != [b"chunked"]:
        raise Refusal(
            Reason.BAD_REQUEST, "the body comes in a transfer coding other than chunked, which is not known here"
        )
    return bool(codings)


def _with_one_cookie(headers: Headers) -> Headers:
    """RFC 9113, section 8.2.3: lines of `Cookie` that HTTP/2 has split become one."""
    cookies = [value for name, value in headers if name == b"cookie"]
    if len(cookies) <= 1:
        return headers
    joined = [field for field in headers if field[0] != b"cookie"]
    return [*joined, (b"cookie", b"; ".join(cookies))]
