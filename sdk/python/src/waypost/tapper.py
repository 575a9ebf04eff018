"""Tapper's names: its users change one import, `from waypost.tapper import Service, TapperGateway, LoadBalancer`.

FROM_TAPPER.md says what is different. Deliberately absent: registries. They are the control plane's stores, and asking
for one here says so.
"""

from __future__ import annotations

from typing import Any, NoReturn

from waypost.errors import NotFoundError as ServiceNotFoundError
from waypost.errors import WaypostError as RegistryError
from waypost.errors import WaypostError as TapperException
from waypost.gateway import (
    AuthProvider,
    LeastConnectionsBalancer,
    LoadBalancer,
    LoadBalancerError,
    NoHealthyInstanceError,
    RandomBalancer,
    RoundRobinBalancer,
    ServiceInstance,
    WaypostGateway,
)
from waypost.service import Service

__all__ = [
    "LeastConnectionsBalancer",
    "LoadBalancer",
    "LoadBalancerError",
    "NoHealthyInstanceError",
    "RandomBalancer",
    "RegistryError",
    "RoundRobinBalancer",
    "Service",
    "ServiceInstance",
    "ServiceNotFoundError",
    "TapperException",
    "TapperGateway",
]

_STORES = "where services are kept is the control plane's: waypost-control-plane --store"
_ELSEWHERE = {
    "RegistryBackend": f"{_STORES} redis://…, etcd://…, consul://…, or a program that implements StorePlugin",
    "InMemoryBackend": f"{_STORES} memory (the default)",
    "RedisBackend": f"{_STORES} redis://host:6379",
    "create_registry_app": "run the program waypost-control-plane instead",
    "RegistryClient": "use waypost.Client or waypost.AsyncClient",
    "ServiceInfo": "use waypost.ServiceSummary, which waypost.Client.services() returns",
    "Route": "a service's routes are texts such as 'GET /users/{user_id}': waypost.Registration.endpoints",
    "get_load_balancer": "pass the name as TapperGateway(load_balancer=…)",
}


class TapperGateway(WaypostGateway):
    """`WaypostGateway`, which also answers `/health` by itself, as Tapper's does."""

    def __init__(
        self,
        registry_url: str | None = None,
        discovery_interval: float = 30,
        timeout: float = 5,
        load_balancer: str | LoadBalancer = "round-robin",
        auth_provider: AuthProvider | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            registry_url,
            discovery_interval,
            timeout,
            load_balancer,
            auth_provider,
            **{"health_path": "/health", **more},
        )


def __getattr__(name: str) -> NoReturn:
    instead = _ELSEWHERE.get(name)
    if instead is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(f"waypost.tapper has no {name}: {instead}; see FROM_TAPPER.md")
