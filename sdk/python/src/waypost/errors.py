"""What can go wrong between a program and the control plane.

Every error names the thing, the reason and the way out. What the control plane said is kept whole, as the problem
document (RFC 9457) that it answered with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One field of a request that breaks a rule."""

    field: str
    """Which field, for example `instance.address`."""
    value: str
    """Its value, as it came."""
    rule: str
    """The rule that it breaks."""


@dataclass(frozen=True)
class Problem:
    """A problem document (RFC 9457), as the control plane answers it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    """The word of Waypost's error table, for example `not_found`."""
    violations: tuple[Violation, ...] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, object], status: int) -> Problem:
        """Reads a document leniently: one that lacks a field is still the best description that there is."""

        def text(name: str, otherwise: str) -> str:
            value = document.get(name)
            return value if isinstance(value, str) and value else otherwise

        listed = document.get("violations")
        violations = tuple(
            Violation(str(each.get("field", "")), str(each.get("value", "")), str(each.get("rule", "")))
            for each in (listed if isinstance(listed, Sequence) else ())
            if isinstance(each, Mapping)
        )
        code = text("code", "unknown")
        return cls(
            type=text("type", "about:blank"),
            title=text("title", code),
            status=status,
            detail=text("detail", f"the control plane answered {status} without saying why"),
            code=code,
            violations=violations,
        )


class WaypostError(Exception):
    """Anything that goes wrong in this package; `problem` holds what the control plane said, if it said anything."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem

    @property
    def code(self) -> str:
        """The word of Waypost's error table, or `unreachable` and the like where nobody has answered."""
        return self.problem.code if self.problem else "error"

    @property
    def is_retryable(self) -> bool:
        """Whether the same call can work later: nobody answered, or the control plane could not do it just now."""
        return self.problem is not None and self.problem.status in (429, 500, 502, 503, 504)


class ControlPlaneUnreachableError(WaypostError):
    """No control plane has answered."""

    @property
    def code(self) -> str:
        """`unreachable`."""
        return "unreachable"

    @property
    def is_retryable(self) -> bool:
        """Always: it may come back."""
        return True


class RefusedError(WaypostError):
    """The control plane has answered that it cannot or will not; `problem` says why."""

    problem: Problem

    def __init__(self, problem: Problem, asked: str) -> None:
        super().__init__(f"{asked}: {problem.detail} ({problem.status} {problem.code})", problem)
        self._asked = asked

    def __reduce__(self) -> tuple[type[RefusedError], tuple[Problem, str]]:
        """Other processes get it whole (pickle); what an exception is made of is its message alone by default."""
        return type(self), (self.problem, self._asked)


class NotFoundError(RefusedError):
    """There is no such service or instance."""


class LeaseSupersededError(WaypostError):
    """Another process has registered under the same name: this one is out, and stays out."""

    @property
    def code(self) -> str:
        """`superseded`."""
        return "superseded"


class ConfigurationError(WaypostError):
    """An option, an environment variable or the program's structure is not what it has to be."""

    @property
    def code(self) -> str:
        """`configuration`."""
        return "configuration"
