"""Which of several listeners is the server's: by when they came, by uvicorn's word, by the first request."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from waypost.service.find_listener import Evidence
from waypost.service.listener import Listener, bound, listeners

SERVER, METRICS, OTHER = (Listener("127.0.0.1", port, port) for port in (8001, 9090, 9091))
NOW, LATER = 0.0, 3.0


def evidence(before: list[Listener], ready: list[Listener], **more: Any) -> Evidence:
    names = [frozenset(each.name for each in some) for some in (before, ready)]
    return Evidence(names[0], names[1], **{"inherits": False, **more})


def test_what_the_app_opens_while_it_starts_is_never_taken() -> None:
    known = evidence([], [METRICS])
    assert known.server([METRICS], None, LATER) == [], "the server may bind late"
    assert known.server([METRICS, SERVER], None, NOW) == [SERVER]


def test_what_a_library_has_opened_before_does_not_stand_in_for_a_server_that_binds() -> None:
    known = evidence([METRICS], [METRICS])
    assert known.server([METRICS], None, NOW) == []
    assert known.server([METRICS, SERVER], None, NOW) == [SERVER]


def test_a_port_that_uvicorn_is_to_bind_is_waited_for() -> None:
    known = evidence([], [], hint=SERVER.port)
    assert known.server([OTHER], None, NOW) == []
    assert known.server([OTHER, SERVER], None, NOW) == [SERVER]
    assert known.server([OTHER], None, LATER) == [OTHER], "it was handed another socket: the port meant nothing"
    worker = evidence([SERVER], [SERVER], hint=SERVER.port)
    assert worker.server([SERVER], None, NOW) == [SERVER], "another worker of it listens there already"


def test_a_socket_that_was_inherited_is_taken_where_no_newer_one_comes() -> None:
    known = evidence([SERVER], [SERVER, METRICS])
    assert known.server([SERVER, METRICS], None, NOW) == []
    assert known.server([SERVER, METRICS], None, LATER) == [SERVER]
    bound_only = evidence([SERVER], [])
    assert bound_only.server([SERVER], None, NOW) == [SERVER], "it has begun to listen now"


def test_gunicorn_hands_down_the_only_socket_that_counts_whatever_uvicorn_says() -> None:
    known = evidence([SERVER], [SERVER, METRICS], hint=METRICS.port, inherits=True)
    assert known.server([SERVER, METRICS, OTHER], None, NOW) == [SERVER]


def test_a_server_that_binds_is_found_though_gunicorn_is_imported() -> None:
    known = evidence([], [], hint=SERVER.port, inherits=True)
    assert known.server([OTHER, SERVER], None, NOW) == [SERVER]
    assert known.server([OTHER, SERVER], 80, LATER) == [], "a request that has come in nowhere is a test's"
    master = evidence([], [], serves=False, inherits=True)
    assert master.server([SERVER], None, LATER) == [], "it has loaded the app for its workers"


def test_a_wsgi_app_that_is_imported_takes_nothing_older_before_its_first_request() -> None:
    known = evidence([METRICS], [METRICS], serves=False)
    assert known.server([METRICS], None, LATER) == []
    assert known.server([METRICS], METRICS.port, LATER) == [METRICS]
    assert known.server([METRICS, SERVER], None, NOW) == [SERVER], "its server has bound now"


def test_a_request_says_which_it_is_and_that_of_a_test_client_says_nothing() -> None:
    known = evidence([], [])
    assert known.server([SERVER, OTHER], None, LATER) == [SERVER, OTHER], "it could be either"
    assert known.server([SERVER, OTHER], OTHER.port, NOW) == [OTHER]
    assert known.server([SERVER], 80, LATER) == []


@pytest.mark.parametrize("listens", [False, True])
def test_what_is_bound_is_known_before_it_listens(listens: bool) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listens:
            held.listen()
        assert held.getsockname() in bound()
        assert (held.getsockname() in {each.name for each in listeners()}) is listens
