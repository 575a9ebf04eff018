"""What tests of the gateway have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.harness import App, FakeControlPlane, Server, eventually
from waypost.gateway import WaypostGateway


@pytest.fixture
def control_plane() -> Iterator[FakeControlPlane]:
    fake = FakeControlPlane()
    yield fake
    fake.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start(app: App, **options: Any) -> Server:
            return stack.enter_context(Server(app, **options))

        yield start


@pytest.fixture
def gateway_to(
    control_plane: FakeControlPlane, serve: Callable[..., Server]
) -> Callable[..., tuple[WaypostGateway, Server]]:
    """Starts a gateway in front of what the control plane knows by now."""

    def start(**options: Any) -> tuple[WaypostGateway, Server]:
        gateway = WaypostGateway(control_plane.url, **options)
        server = serve(gateway)
        expected = {service for service, _ in control_plane.instances}
        eventually(lambda: set(gateway.get_service_status()) == expected, f"the gateway knows {expected}")
        return gateway, server

    return start
