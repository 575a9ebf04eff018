"""What errors say, and what they keep of the control plane's answer."""

import copy
import pickle

from waypost import NotFoundError, Problem, Violation


def test_a_problem_document_is_kept_whole() -> None:
    document = {
        "type": "urn:waypost:error:invalid_argument",
        "title": "invalid argument",
        "status": 400,
        "detail": "instance.address: `x` has no port",
        "code": "invalid_argument",
        "violations": [{"field": "instance.address", "value": "x", "rule": "must be host:port"}],
    }
    problem = Problem.from_json(document, 400)
    assert problem.code == "invalid_argument"
    assert problem.violations == (Violation("instance.address", "x", "must be host:port"),)


def test_a_document_without_words_still_says_what_was_answered() -> None:
    assert "502" in Problem.from_json({}, 502).detail


def test_an_error_comes_whole_out_of_another_process() -> None:
    error = NotFoundError(Problem.from_json({"code": "not_found", "detail": "no such service"}, 404), "GET x")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 (it was made here)
        assert (type(other), str(other), other.problem) == (NotFoundError, str(error), error.problem)
