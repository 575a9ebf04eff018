"""Tapper's gateway, its balancers, and what they choose among: the names of `waypost.gateway`."""

from __future__ import annotations

from collections.abc import Sequence

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

__all__ = [
    "LeastConnectionsBalancer",
    "LoadBalancer",
    "LoadBalancerError",
    "NoHealthyInstanceError",
    "RandomBalancer",
    "RoundRobinBalancer",
    "ServiceInstance",
    "TapperGateway",
]


class TapperGateway(WaypostGateway):
    """`WaypostGateway`, which also answers `/health` by itself, as Tapper's does.

    It says more than Tapper's, namely each service, and so asks an `auth_provider` first. One that is to let probes
    pass says so: `if request.path == "/health": return None`.
    """

    def __init__(
        self,
        registry_url: str | Sequence[str] | None = None,
        discovery_interval: float = 30,
        timeout: float = 5,
        load_balancer: str | LoadBalancer = "round-robin",
        auth_provider: AuthProvider | None = None,
        *,
        namespace: str = "",
        retries: int = 2,
        health_path: str | None = "/health",
    ) -> None:
        super().__init__(
            registry_url,
            discovery_interval,
            timeout,
            load_balancer,
            auth_provider,
            namespace=namespace,
            retries=retries,
            health_path=health_path,
        )
