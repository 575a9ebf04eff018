"""What tests have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import BINARIES, Cluster, clusters

pytest_plugins = ["listing"]

# What starts Waypost's own programs.
_CLUSTERS = {"shared_cluster", "own_cluster", "shell"}


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane and a proxy for all tests that break neither; each uses services of its own."""
    yield from clusters(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A control plane and a proxy for one test."""
    yield from clusters(tmp_path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs Waypost's own programs where nobody says where they are."""
    if hasattr(config, "workerinput"):
        # Several at a time: what takes long comes first, so that nothing is left to wait for alone.
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if os.environ.get(BINARIES):
        return
    reason = f"{BINARIES} is not set: build Waypost, and name the folder of its programs (target/debug)"
    for item in items:
        if isinstance(item, pytest.Function) and _CLUSTERS.intersection(item.fixturenames):
            item.add_marker(pytest.mark.skip(reason=reason))
