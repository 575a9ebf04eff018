"""Which instance takes a request: three ways by name, and any other as a subclass.

All that is asked of a balancer is a choice. That an instance is well, was not tried for this request, and does not
cool down after a failure, is seen to before; how many requests it has under way is counted for all balancers alike.

Deliberately absent: latency, hashing, zones. The proxy has them (data-plane/src/balance/BALANCING.md).
"""

from __future__ import annotations

import difflib
import inspect
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from waypost.errors import ConfigurationError, WaypostError
from waypost.gateway.instance import ServiceInstance
from waypost.gateway.problem import Reason, Refusal

_log = logging.getLogger("waypost.gateway")


class LoadBalancerError(WaypostError):
    """A balancer's choice cannot be used."""


class NoHealthyInstanceError(WaypostError):
    """No instance of a service takes requests."""

    def __init__(self, service_name: str) -> None:
        super().__init__(f"no instance of {service_name or 'the service'} takes requests")
        self.service_name = service_name


class LoadBalancer(ABC):
    """Chooses among a service's instances.

    `select_instance` is called in the event loop, so it must not wait. It takes `(instances, service_name)`, or
    `instances` alone. Where it fails, the request is answered with `internal`, and the log says why;
    NoHealthyInstanceError is a refusal.
    """

    @abstractmethod
    def select_instance(self, instances: list[ServiceInstance], /, *args: Any, **kwargs: Any) -> ServiceInstance:
        """One of `instances`, which are never none."""

    def _filter_healthy(self, instances: list[ServiceInstance]) -> list[ServiceInstance]:
        """Those that are well. A balancer is given no others; Tapper's users call it."""
        return [instance for instance in instances if instance.healthy]


class RoundRobinBalancer(LoadBalancer):
    """One after the other, by weight (nginx's smooth weighted round robin)."""

    def __init__(self) -> None:
        self._credit: dict[tuple[str, str], dict[str, float]] = {}

    def select_instance(self, instances: list[ServiceInstance], service_name: str = "") -> ServiceInstance:
        """The instance that is owed most; each is owed its share with every choice."""
        # A name is a service's within its namespace.
        service = (instances[0].namespace, service_name)
        before = self._credit.get(service, {})
        credit = {instance.id: before.get(instance.id, 0.0) + instance.share for instance in instances}
        chosen = max(instances, key=lambda instance: credit[instance.id])
        credit[chosen.id] -= sum(instance.share for instance in instances)
        # Those that cannot be chosen just now keep what they are owed.
        self._credit[service] = {**_bounded(before), **credit}
        return chosen


class RandomBalancer(LoadBalancer):
    """By lot, by weight."""

    def select_instance(self, instances: list[ServiceInstance], service_name: str = "") -> ServiceInstance:  # noqa: ARG002
        """One by lot."""
        return random.choices(instances, [instance.share for instance in instances])[0]  # noqa: S311 - no secret


class LeastConnectionsBalancer(LoadBalancer):
    """The fewest requests under way for its weight; one after the other among equals."""

    def __init__(self) -> None:
        self._among_equals = RoundRobinBalancer()

    def select_instance(self, instances: list[ServiceInstance], service_name: str = "") -> ServiceInstance:
        """The instance that has least to do."""
        loads = [instance.in_flight / instance.share for instance in instances]
        least = min(loads)
        equals = [instance for instance, load in zip(instances, loads, strict=True) if load == least]
        return self._among_equals.select_instance(equals, service_name)

    def increment(self, url: str) -> None:
        """Does nothing: requests are counted as they begin. Tapper's users call it."""

    def decrement(self, url: str) -> None:
        """Does nothing: requests are counted as they end. Tapper's users call it."""


Choice = Callable[[list[ServiceInstance], str], ServiceInstance]

_BY_NAME: dict[str, type[LoadBalancer]] = {
    "round-robin": RoundRobinBalancer,
    "random": RandomBalancer,
    "least-connections": LeastConnectionsBalancer,
}
_KEPT = 1000


def choice(balancer: str | LoadBalancer) -> Choice:
    """What a `load_balancer=` means. Raises ConfigurationError for what is none."""
    if isinstance(balancer, str):
        known = _BY_NAME.get(balancer)
        if known is None:
            near = difflib.get_close_matches(balancer.lower().replace("_", "-"), _BY_NAME, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(f"load_balancer={balancer!r} must be {_listed()}, or a LoadBalancer{hint}")
        return known().select_instance
    if isinstance(balancer, type) and issubclass(balancer, LoadBalancer):
        raise ConfigurationError(
            f"load_balancer is the class {balancer.__name__}; pass an instance: {balancer.__name__}()"
        )
    if not isinstance(balancer, LoadBalancer):
        raise ConfigurationError(
            f"load_balancer={balancer!r} must be {_listed()}, or an instance of a subclass of LoadBalancer",
        )
    return _custom(balancer)


def _custom(balancer: LoadBalancer) -> Choice:
    """Calls a balancer by the signature that it has; what it raises that is no answer is a defect, and said so."""
    select = _by_signature(balancer)

    def chosen(instances: list[ServiceInstance], service_name: str) -> ServiceInstance:
        try:
            return select(instances, service_name)
        except (Refusal, WaypostError):
            raise
        except Exception as error:
            _log.exception("the balancer %s has failed for %s: %r", type(balancer).__name__, service_name, error)
            raise Refusal(Reason.INTERNAL, "no instance could be chosen; the gateway's log says why") from error

    return chosen


def _by_signature(balancer: LoadBalancer) -> Choice:
    select = balancer.select_instance
    try:
        inspect.signature(select).bind([], "")
    except TypeError:
        pass
    else:
        return select
    try:
        inspect.signature(select).bind([])
    except TypeError:
        name = type(balancer).__name__
        raise ConfigurationError(
            f"{name}.select_instance{inspect.signature(select)} must take (instances) or (instances, service_name)",
        ) from None
    return lambda instances, _: select(instances)


def _bounded(credit: dict[str, float]) -> dict[str, float]:
    """Instances come and go; those that went are forgotten where there are many."""
    return credit if len(credit) < _KEPT else {}


def _listed() -> str:
    return ", ".join(repr(name) for name in _BY_NAME)
