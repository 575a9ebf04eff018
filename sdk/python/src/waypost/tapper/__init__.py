"""Tapper's names: its users change one import, `from waypost.tapper import Service, TapperGateway, LoadBalancer`.

FROM_TAPPER.md says what is different. The gateway's names are imported when they are asked for: a service needs nothing
but the standard library. Deliberately absent: registries. They are the control plane's stores, and asking for one here
says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from waypost.errors import WaypostError
from waypost.errors import WaypostError as RegistryError
from waypost.errors import WaypostError as TapperException
from waypost.tapper.service import Service

if TYPE_CHECKING:
    from waypost.tapper.gateway import (
        LeastConnectionsBalancer,
        LoadBalancer,
        LoadBalancerError,
        NoHealthyInstanceError,
        RandomBalancer,
        RoundRobinBalancer,
        ServiceInstance,
        TapperGateway,
    )

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
    "RegistryBackend": (
        f"{_STORES} redis://…, etcd://…, consul://…, or a program that implements StorePlugin "
        "(control-plane/src/store/STORES.md and PLUGIN.md)"
    ),
    "InMemoryBackend": f"{_STORES} memory (the default)",
    "RedisBackend": f"{_STORES} redis://host:6379",
    "create_registry_app": "run the program waypost-control-plane instead",
    "RegistryClient": "use waypost.Client or waypost.AsyncClient",
    "ServiceInfo": "use waypost.ServiceSummary, which waypost.Client.services() returns",
    "Route": "a service's routes are texts such as 'GET /users/{user_id}': waypost.Registration.endpoints",
    "get_load_balancer": "pass the name as TapperGateway(load_balancer=…)",
}


class ServiceNotFoundError(WaypostError):
    """For programs that raise it themselves, as nothing in Tapper does. `waypost.Client` raises NotFoundError."""

    def __init__(self, service_name: str) -> None:
        super().__init__(f"there is no service {service_name}")
        self.service_name = service_name


# Type checkers would take a function of this name for a module that has every name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _ELSEWHERE:
            raise ImportError(f"waypost.tapper has no {name}: {_ELSEWHERE[name]}; see FROM_TAPPER.md")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from waypost.tapper import gateway

        return getattr(gateway, name)
