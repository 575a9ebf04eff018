"""Which of several control planes is asked, and which is next: against ones that refuse, are gone, or never answer."""

from __future__ import annotations

import pytest

from planes import NOBODY, away, empty, plane
from waypost import Client, RefusedError
from waypost.transport import Transport

# So many draw all orders that there are.
MANY = 32


def test_one_that_cannot_just_now_is_left_for_another() -> None:
    with plane(away) as stopping, plane(empty) as well:
        for _ in range(MANY):
            client = Client([stopping, well], timeout=60)
            assert client.services() == []
            assert client.url == well


def test_a_watch_leaves_one_that_cannot_just_now() -> None:
    with plane(away) as stopping, plane(lambda _, __: (200, {"initial": True, "revision": "7"})) as well:
        for _ in range(8):
            with Client([stopping, well]).watch() as watch:
                assert 7 in (next(watch).revision, next(watch).revision)


def test_all_are_asked_before_a_call_fails() -> None:
    with plane(empty) as well:
        for _ in range(MANY):
            assert Client([NOBODY, "http://127.0.0.1:10", well, "http://127.0.0.1:11"], timeout=60).services() == []


def test_clients_of_one_that_has_failed_spread_over_the_others() -> None:
    planes = [Transport(["a", "b", "c"]) for _ in range(MANY)]
    assert {each.current.host for each in planes} == {"a", "b", "c"}
    left = [each for each in planes if each.current.host == "a"]
    for each in left:
        failed = each.current
        each.move_on(failed)
        each.move_on(failed)  # somebody else has seen the same
    assert {each.current.host for each in left} <= {"b", "c"}


def test_what_one_has_answered_is_raised_where_the_others_have_not() -> None:
    with plane(away) as stopping:
        for _ in range(8):
            with pytest.raises(RefusedError, match="about to stop"):
                Client([NOBODY, stopping]).services()


def test_what_will_not_change_is_asked_once() -> None:
    asked: list[str] = []

    def never(_: str, path: str) -> tuple[int, object]:
        asked.append(path)
        return 400, {"code": "invalid_argument", "detail": "no"}

    with plane(never) as one, plane(never) as other, pytest.raises(RefusedError):
        Client([one, other]).services()
    assert asked == ["/v1/services"]
