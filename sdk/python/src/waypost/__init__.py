"""Waypost's Python SDK: register a program, keep it registered, take it out without losing a request; look others up.

`Service` does all of it for a FastAPI or Starlette app; `Client` and `AsyncClient` are the same by hand. Frameworks
are never imported here: the standard library is all that this package needs.
"""

from waypost.aio import AsyncClient, AsyncRegistered, AsyncWatch
from waypost.client import Client
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
from waypost.model import (
    DrainOutcome,
    Endpoint,
    Instance,
    InstanceKey,
    Load,
    Protocol,
    Registration,
    ServiceSummary,
    State,
    WatchStep,
)
from waypost.registered import LeaseStatus, Registered
from waypost.service import Service
from waypost.watch import Watch

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncRegistered",
    "AsyncWatch",
    "Client",
    "ConfigurationError",
    "ControlPlaneUnreachableError",
    "DrainOutcome",
    "Endpoint",
    "Instance",
    "InstanceKey",
    "LeaseStatus",
    "LeaseSupersededError",
    "Load",
    "NotFoundError",
    "Problem",
    "Protocol",
    "RefusedError",
    "Registered",
    "Registration",
    "Service",
    "ServiceSummary",
    "State",
    "Violation",
    "Watch",
    "WatchStep",
    "WaypostError",
]
