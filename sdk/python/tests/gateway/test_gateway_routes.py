"""Routes and paths are what they are for the proxy: the tables of its documentation are the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from waypost.gateway.path import PathError, normalised, stripped
from waypost.gateway.routes import OtherMethods, Route, Routes, ServiceKey

_TABLE = Path(__file__).parents[4] / "data-plane" / "TABLE.md"
_SERVICE = ServiceKey("default", "any")


def _rows(mark: str) -> list[list[str]]:
    section = _TABLE.read_text().split(f"<!-- {mark} -->")[1].split("\n\n")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def _route(text: str, strip: bool) -> Route:
    if text.startswith("/"):
        return Route(f"* {text}/**", _SERVICE, text, is_prefix=True, strip_prefix=strip)
    method, path = text.split(" ")
    path = re.sub(r"\{[^}:]*(:path)?\}", r"{\1}", path)
    return Route(f"{method} {path}", _SERVICE, path, "" if method == "*" else method)


def _outcome(routes: Routes, method: str, raw: str) -> str:
    try:
        path = normalised(raw.encode())
    except PathError:
        return "400"
    found = routes.find(method, path)
    if found is None:
        return "404"
    if isinstance(found, OtherMethods):
        return f"405 {', '.join(found.allow)}"
    return f"{found.id} {stripped(path, found.path) if found.strip_prefix else path}"


@pytest.mark.skipif(not _TABLE.exists(), reason="the proxy's documentation is not here: this is not the repository")
def test_requests_go_where_the_proxys_documentation_says() -> None:
    routes = Routes(_route(text, strip == "stripped") for text, strip in _rows("routes"))
    requests = _rows("requests")
    assert len(requests) > 15
    for request, expected in requests:
        assert _outcome(routes, *request.split(" ")) == expected, request


def test_the_root_is_a_prefix_and_an_endpoint_like_others() -> None:
    routes = Routes([_route("/", True), _route("GET /", False), _route("* /a/{}", False)])
    assert _outcome(routes, "GET", "/") == "GET / /"
    assert _outcome(routes, "POST", "/") == "* //** /"
    assert _outcome(routes, "GET", "/a/b") == "* /a/{} /a/b"
    assert _outcome(routes, "GET", "/a/b/") == "* //** /a/b/"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/a/b", "/a/b"),
        ("/%61%2Db%5f%7e", "/a-b_~"),
        ("/a%2fb", "/a%2Fb"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a//b/", "/a//b/"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/%2e%2ea", "/..a"),
        ("/a%5Cb", "/a%5Cb"),
        ("/é", "/%C3%A9"),
        ("/a.b/.well-known/a..b/...", "/a.b/.well-known/a..b/..."),
        ("/a;v=.", "/a;v=."),
    ],
)
def test_a_path_is_normalised_as_the_proxy_does_it(raw: str, expected: str) -> None:
    assert normalised(raw.encode()) == expected
    assert normalised(expected.encode()) == expected


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("/a/../b", '".."'),
        ("/.", '"."'),
        ("/a/%2e%2e/b", '".."'),
        ("/a/.%2E", '".."'),
        ("/..%2fb", '".."'),
        ("/a%5c..", '".."'),
        ("/a/..;x=1/b", '".."'),
        ("/a/..%3bx", '".."'),
        ("/a\\b", "backslash"),
        ("/a%00", "control"),
        ("/a%0d%0ab", "control"),
        ("/a\x01", "control"),
        ("/100%", '"%"'),
        ("/%zz", '"%"'),
        ("/%2", '"%"'),
        ("/%%32e%%32e/", '"%"'),
    ],
)
def test_what_an_instance_might_read_otherwise_is_refused(raw: str, why: str) -> None:
    with pytest.raises(PathError, match=re.escape(why)):
        normalised(raw.encode())
