"""All that requests are routed by at one moment: routes, services and instances, which change together.

Deliberately absent: where it comes from; see `discovery`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal, TypedDict

from waypost.gateway.balancer import Choice, LoadBalancerError, NoHealthyInstanceError
from waypost.gateway.instance import InstanceStatus, ServiceInstance
from waypost.gateway.problem import Reason, Refusal
from waypost.gateway.routes import Route, Routes, ServiceKey
from waypost.model import Instance, InstanceKey, Protocol

_Health = Literal["healthy", "degraded", "down"]


class ServiceStatus(TypedDict):
    """What `get_service_status` says of a service. As the type of a FastAPI route's answer it needs Python 3.12."""

    status: _Health
    versions: list[str]
    instances: list[InstanceStatus]


class Table:
    """Immutable, but for what is counted in its instances. The next one is made from it."""

    def __init__(self, routes: Routes, instances: dict[InstanceKey, ServiceInstance]) -> None:
        self.routes = routes
        self._instances = instances
        self._services: dict[ServiceKey, list[ServiceInstance]] = {}
        for key in sorted(instances):
            self._services.setdefault(ServiceKey(key.namespace, key.service), []).append(instances[key])

    def next(self, routes: Routes, known: Iterable[Instance]) -> Table:
        """The table after a change. An instance of the same epoch stays the same object, with what it counts."""
        instances = {}
        for each in known:
            before = self._instances.get(each.key)
            if before is not None and before.epoch == each.epoch:
                before.update(each)
                instances[each.key] = before
            else:
                instances[each.key] = ServiceInstance.of(each)
        return Table(routes, instances)

    def pick(self, route: Route, tried: list[ServiceInstance], choose: Choice) -> ServiceInstance:
        """An instance for a request, which was not tried for it yet. Raises Refusal where there is none."""
        of_service = self._services.get(route.service, [])
        able = [
            each
            for each in of_service
            if each.takes_traffic and each not in tried and (not route.versions or each.version in route.versions)
        ]
        if not able:
            raise Refusal(Reason.NO_HEALTHY_INSTANCE, self._why_none(route, of_service))
        now = time.monotonic()
        cool = [each for each in able if each.is_cool(now)]
        if not cool:
            return min(able, key=lambda each: each.due)
        name = route.service.name
        try:
            chosen = choose(list(cool), name)
        except NoHealthyInstanceError as error:
            raise Refusal(Reason.NO_HEALTHY_INSTANCE, str(error)) from error
        if not any(chosen is each for each in cool):
            raise LoadBalancerError(
                f"the balancer chose {chosen!r} for {name}, which is none of the instances it was given"
            )
        return chosen

    def status(self) -> dict[str, ServiceStatus]:
        """What `get_service_status` says."""
        return {str(key): _status(instances) for key, instances in sorted(self._services.items(), key=_name)}

    def _why_none(self, route: Route, of_service: list[ServiceInstance]) -> str:
        name = route.service
        if not of_service:
            return f"service {name} has no instance; start one"
        if all(each.protocol is not Protocol.HTTP1 for each in of_service):
            return f"all instances of {name} speak HTTP/2 or gRPC, which this gateway does not; use waypost-proxy"
        states = ", ".join(sorted({each.state.name.lower() for each in of_service}))
        versions = f" of version {' or '.join(route.versions)}" if route.versions else ""
        return f"none of the {len(of_service)} instances of {name}{versions} takes requests (states: {states})"


def _name(item: tuple[ServiceKey, list[ServiceInstance]]) -> str:
    return str(item[0])


def _status(instances: list[ServiceInstance]) -> ServiceStatus:
    well = sum(each.healthy for each in instances)
    word: _Health = "healthy" if well == len(instances) else "degraded" if well else "down"
    return {
        "status": word,
        "versions": sorted({each.version for each in instances if each.version}),
        "instances": [each.status() for each in instances],
    }
