"""What tests have in common, and what is told to cargo, which lists them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster, clusters


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane and a proxy for all tests that break neither; each uses services of its own."""
    yield from clusters(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A control plane and a proxy for one test."""
    yield from clusters(tmp_path)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Writes down what has become of a test, where WAYPOST_TEST_REPORT says (tests/tests/python.rs)."""
    path = os.environ.get("WAYPOST_TEST_REPORT")
    if path and (report.failed or report.when == "call"):
        failure = f"{report.longreprtext}\n{report.capstderr}" if report.failed else None
        with Path(path).open("a") as file:
            file.write(json.dumps({"name": report.nodeid, "failure": failure}) + "\n")
