"""What a path means, so that it means the same here and to the instances.

A path is normalised once, before it is matched, and forwarded as it was matched, by the proxy's rules
(data-plane/src/table/declared/MATCHING.md): an escape of a letter, a digit or `-._~` is that character, other escapes
stay and are upper case, slashes in a row stay. What an instance might read as another path is refused.

Deliberately absent: the query string, which is passed on as it came.
"""

from __future__ import annotations

import re

_NOTABLE = re.compile(rb"[\x00-\x20\x7f-\xff%\\]|/\.")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_OUTSIDE = re.compile(rb"[\x20\x80-\xff]")
_SLASHES = re.compile(r"/|\\|%2F|%5C")
_PARAMETERS = re.compile(r";|%3B")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CONTROLS = frozenset((*range(0x20), 0x7F))


class PathError(ValueError):
    """Why a path is refused, and what to send instead."""


def normalised(raw: bytes) -> str:
    """A raw path as it is matched and forwarded.

    Raises PathError where it could mean something else to an instance. Bytes that are not ASCII, and spaces, come back
    as escapes.
    """
    if not _NOTABLE.search(raw):
        return raw.decode("ascii")
    if b"\\" in raw:
        raise PathError('a backslash, which some servers take for a slash; send "/", or "%5C" where it is meant')
    if _CONTROL.search(raw):
        raise PathError("a control character; send it without")
    path = _ESCAPE.sub(_escape, _OUTSIDE.sub(_escaped, raw)).decode("ascii")
    if any(_PARAMETERS.split(segment)[0] in (".", "..") for segment in _SLASHES.split(path)):
        raise PathError('a "." or ".." segment, which is not forwarded; send it resolved')
    return path


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % found[0][0]


def _escape(found: re.Match[bytes]) -> bytes:
    digits = found[1]
    if digits is None:
        raise PathError('a "%" that is not followed by two hexadecimal digits; send "%25" where it is meant')
    value = int(digits, 16)
    if value in _CONTROLS:
        raise PathError("a control character as an escape; send it without")
    return bytes((value,)) if value in _UNRESERVED else found[0].upper()


def stripped(path: str, prefix: str) -> str:
    """What is left of a path after a prefix that it begins with; it begins with a slash again."""
    rest = path[len(prefix.rstrip("/")) :]
    return rest if rest.startswith("/") else f"/{rest}"
