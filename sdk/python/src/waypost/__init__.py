"""Waypost's Python SDK: register a program, keep it registered, take it out without losing a request; look others up.

`Service` does all of it for a FastAPI or Starlette app; `Client` and `AsyncClient` are the same by hand. Frameworks
are never imported here: the standard library is all that this package needs.
"""

from waypost.errors import (
    ConfigurationError,
    ControlPlaneUnreachableError,
    LeaseSupersededError,
    NotFoundError,
    Problem,
    RefusedError,
    Violation,
    WaypostError,
)

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "ControlPlaneUnreachableError",
    "LeaseSupersededError",
    "NotFoundError",
    "Problem",
    "RefusedError",
    "Violation",
    "WaypostError",
]
