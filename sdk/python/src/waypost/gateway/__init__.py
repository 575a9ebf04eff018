"""An API gateway as an ASGI app: discovers services and forwards requests to them.

    from fastapi import FastAPI
    from waypost.gateway import WaypostGateway

    app = FastAPI()
    gateway = WaypostGateway()
    app.mount("/", gateway)

It routes as `waypost-proxy` does: by the endpoints that services have registered, then by their prefixes. It is for
programs that want to do in Python what happens on the way: authentication, a balancer of one's own, routes beside
services. For everything else prefer `waypost-proxy`: it is far faster, uses all cores, speaks HTTP/2 and gRPC, and
carries out declared routes and policies. See GATEWAY.md.

Install it as `waypost[gateway]`.
"""

try:
    from waypost.gateway.app import WaypostGateway
except ModuleNotFoundError as error:
    if error.name not in ("h11", "wsproto"):
        raise
    raise ImportError(f"waypost.gateway needs {error.name}: pip install 'waypost[gateway]'") from error
from waypost.gateway.auth import AddedHeaders, AuthProvider, Forbidden, GatewayRequest, Unauthorized
from waypost.gateway.balancer import (
    LeastConnectionsBalancer,
    LoadBalancer,
    LoadBalancerError,
    NoHealthyInstanceError,
    RandomBalancer,
    RoundRobinBalancer,
)
from waypost.gateway.forward import AnswerBrokeOff
from waypost.gateway.instance import InstanceStatus, ServiceInstance
from waypost.gateway.table import ServiceStatus

__all__ = [
    "AddedHeaders",
    "AnswerBrokeOff",
    "AuthProvider",
    "Forbidden",
    "GatewayRequest",
    "InstanceStatus",
    "LeastConnectionsBalancer",
    "LoadBalancer",
    "LoadBalancerError",
    "NoHealthyInstanceError",
    "RandomBalancer",
    "RoundRobinBalancer",
    "ServiceInstance",
    "ServiceStatus",
    "Unauthorized",
    "WaypostGateway",
]
