"""Which tests there are, which of them cannot run on this machine, and what becomes of each, a line of JSON for each.

Cargo lists them as its own (tests/tests/python.rs), and asks for the lines with WAYPOST_TEST_LINES:

    {"name": "tests/test_client.py::test_x", "ignored": "this machine has no IPv6"}     collected; null: it can run
    {"name": "tests/test_client.py::test_x", "failure": "E  assert …"}                  ended; null: it has passed

What cannot run is marked with `skipif`, so that it is known before anything runs. A test that skips itself while it
runs has failed: nobody would notice that it is never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator

import pytest

REQUESTED = "WAYPOST_TEST_LINES"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tells where that is asked for; of several processes, the one that hands out the tests."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if os.environ.get(REQUESTED) and reporter is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Lines(reporter))


class Lines:
    """Writes the lines, between those that pytest writes."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._failures: dict[str, list[str]] = {}

    def _say(self, **line: str | None) -> None:
        # pytest may be in the middle of a line of dots.
        self._reporter.write(f"\n{json.dumps(line)}\n", flush=True)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests are known."""
        if session.config.option.collectonly:
            for item in session.items:
                self._say(name=item.nodeid, ignored=why_ignored(item))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A step of a test is over: its set-up, the test, or what cleans up after it."""
        failures = self._failures.setdefault(report.nodeid, [])
        if report.failed:
            failures.append(f"{report.longreprtext}\n{report.capstderr}")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over."""
        failures = self._failures.pop(nodeid, [])
        self._say(name=nodeid, failure="\n".join(failures) or None)

    def pytest_sessionfinish(self) -> None:
        """All is over; a test whose process has crashed has no other end."""
        for nodeid in list(self._failures):
            self.pytest_runtest_logfinish(nodeid)


def why_ignored(item: pytest.Item) -> str | None:
    """The reason of a mark that keeps a test from running on this machine."""
    for mark in (*item.iter_markers("skip"), *item.iter_markers("skipif")):
        conditions = mark.args if mark.name == "skipif" else (True,)
        reason = mark.kwargs.get("reason")
        if not reason or not all(isinstance(each, bool) for each in conditions):
            raise pytest.UsageError(f"{item.nodeid}: write skipif(a bool, reason=...), so that it can be listed")
        if any(conditions):
            return str(reason)
    return None


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that skips itself would hide its tests."""
    if report.skipped:
        raise pytest.UsageError(f"{report.nodeid} skips itself: {report.longrepr}: mark its tests with skipif")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and why_ignored(item) is None:
        report.outcome = "failed"
        report.longrepr = f"it skips itself while it runs: {report.longrepr}: mark it with skipif"
    return report
