"""Which app a handler's decorator means, and what it says when that is not clear."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from waypost import ConfigurationError, Service


@pytest.fixture(autouse=True)
def _no_other_apps() -> Iterator[None]:
    gc.collect()
    yield
    gc.collect()


def is_service(app: FastAPI) -> bool:
    return "ServiceMiddleware" in [getattr(each.cls, "__name__", "") for each in app.user_middleware]


def test_above_the_route_it_is_the_app_that_has_the_route() -> None:
    first, second = FastAPI(), FastAPI()

    @Service(name="users")
    @second.get("/users")
    def users() -> str:
        return ""

    assert (is_service(first), is_service(second)) == (False, True)


def test_below_the_route_it_is_the_app_that_is_in_sight() -> None:
    app = FastAPI()

    @app.get("/users")
    @Service(name="users")
    def users() -> str:
        return ""

    assert is_service(app)


def test_below_the_route_two_apps_are_one_too_many() -> None:
    public, private = FastAPI(), FastAPI()
    says = r"2 apps that it could mean \(public, private\).*Service\(name='users'\)"
    with pytest.raises(ConfigurationError, match=says):

        @public.get("/users")
        @Service(name="users")
        def users() -> str:
            return ""

    assert not is_service(private)


def test_a_mounted_app_is_not_a_second_one() -> None:
    app, inner = FastAPI(), FastAPI()
    app.mount("/inner", inner)

    @app.get("/users")
    @Service(name="users")
    def users() -> str:
        return ""

    assert (is_service(app), is_service(inner)) == (True, False)


def test_without_any_app_it_says_where_to_put_it() -> None:
    # In a process of its own: here, other tests may have left an app behind.
    source = """
import fastapi
from waypost import ConfigurationError, Service

try:
    Service(name="users")(lambda: "")
except ConfigurationError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=True)
    assert "no FastAPI or Starlette app to be seen" in ended.stdout


def test_an_app_is_one_service() -> None:
    app = FastAPI()
    Service(name="users")(app)
    Service(name="users")(app)
    assert len(app.user_middleware) == 1
    with pytest.raises(ConfigurationError, match="is registered as 'users' already"):
        Service(name="orders")(app)
    with pytest.raises(ConfigurationError, match="with another version, heartbeat_interval: one app is one service"):
        Service(name="users", version="2.0.0", heartbeat_interval=1.0)(app)


def test_what_cannot_be_registered_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="neither a FastAPI or Starlette app nor a handler"):
        Service(name="users")(3)
    with pytest.raises(ConfigurationError, match="needs a name"):
        Service(FastAPI())  # type: ignore[arg-type]
