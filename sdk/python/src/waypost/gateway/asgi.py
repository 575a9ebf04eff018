"""The types of ASGI 3 (asgi.readthedocs.io), as far as the gateway needs them.

Deliberately absent: a dependency on Starlette. The gateway is mounted in it, and runs as well without.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
"""Header fields in their order, names in lower case, repeated ones as often as they came."""
Changes = list[tuple[bytes, bytes | None]]
"""Header fields that replace those of their names; `None` takes them away."""
