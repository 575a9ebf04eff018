"""What is due when, and what a result means, without a clock and without a control plane."""

from __future__ import annotations

from waypost.backoff import Backoff
from waypost.leases import Lease, Phase, Verdict, due_beats, due_registrations, next_due
from waypost.model import Grant, InstanceKey, Load, Registration

KEY = InstanceKey("default", "users", "127.0.0.1:9001")


def held(now: float = 0.0, interval: float = 3.0) -> Lease:
    lease = Lease(Registration("users", "127.0.0.1:9001"), 10.0)
    lease.granted(Grant(KEY, 7, 10.0, interval), now)
    return lease


def result(outcome: str, epoch: int = 7) -> dict[str, object]:
    return {"key": KEY.to_json(), "epoch": str(epoch), "outcome": f"BEAT_OUTCOME_{outcome}"}


def test_a_lease_is_beaten_for_at_its_interval() -> None:
    lease = held()
    assert due_beats([lease], 2.9) == []
    assert next_due([lease]) == 3.0
    assert due_beats([lease], 3.0) == [lease]
    assert next_due([lease]) == 6.0


def test_leases_that_are_nearly_due_go_together() -> None:
    first, second, third = held(0.0), held(0.3), held(2.0)
    assert due_beats([first, second, third], 3.0) == [first, second]


def test_a_lease_that_is_not_known_is_registered_again() -> None:
    lease = held()
    assert lease.result(result("UNKNOWN"), 5.0) is Verdict.LOST
    assert due_registrations([lease], 5.0) == [lease]
    lease.phase = Phase.REGISTERING
    lease.refused(5.0)
    assert lease.phase is Phase.WANTED
    assert 5.1 <= lease.due <= 5.2


def test_a_lease_that_was_superseded_is_over() -> None:
    lease = held()
    assert lease.result(result("STALE"), 5.0) is Verdict.SUPERSEDED
    assert due_registrations([lease], 99.0) == []
    assert due_beats([lease], 99.0) == []


def test_a_result_of_another_epoch_changes_nothing() -> None:
    lease = held()
    assert lease.result(result("STALE", epoch=6), 5.0) is None
    assert lease.phase is Phase.HELD


def test_a_lease_that_leaves_is_not_registered_again() -> None:
    lease = held()
    lease.leaving = True
    assert lease.result(result("UNKNOWN"), 5.0) is None
    assert lease.phase is Phase.OVER


def test_what_cannot_be_replaced_stays_held() -> None:
    lease = held()
    lease.replace(Registration("users", "127.0.0.1:9001", version="2"), 1.0)
    assert due_registrations([lease], 1.0) == [lease]
    lease.phase = Phase.REGISTERING
    lease.refused(1.0)
    assert lease.phase is Phase.HELD
    assert due_beats([lease], 3.0) == [lease], "the lease that it has is kept alive"
    assert due_registrations([lease], 3.0) == [lease], "and the other one tried again"


def test_load_is_said_at_once_only_when_it_costs_share() -> None:
    lease = held(0.0)
    lease.report_load(Load(application=0.5), 1.0)
    assert lease.due == 3.0
    lease.report_load(Load(application=0.85), 1.0)
    assert lease.due == 1.0
    assert due_beats([lease], 1.0)[0].beat()["load"] == {"application_utilization": 0.85}
    lease.report_load(Load(application=0.87), 2.0)
    assert lease.due == 4.0
    lease.report_load(Load(application=2.0), 2.0)
    assert lease.due == 2.0


def test_health_is_said_at_once_when_it_changes() -> None:
    lease = held(0.0)
    lease.report_health(True, "", 1.0)
    assert lease.due == 1.0
    due_beats([lease], 1.0)
    lease.report_health(True, "", 2.0)
    assert lease.due == 4.0


def test_waits_grow_to_their_bound_and_are_spread() -> None:
    backoff = Backoff(0.2, 5.0, seed=1)
    waits = [backoff.after_failure() for _ in range(100)]
    for failures, wait in enumerate(waits):
        bound = min(0.2 * 2**failures, 5.0)
        assert bound / 2 <= wait <= bound
    assert len(set(waits)) == len(waits)
    backoff.reset()
    assert backoff.after_failure() <= 0.2
