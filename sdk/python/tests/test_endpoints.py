"""Which endpoints an app is registered with."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from waypost.service.endpoints import endpoints, template


def handler() -> str:
    return ""


async def socket(websocket: WebSocket) -> None:
    await websocket.close()


def test_routers_mounts_and_prefixes_are_followed() -> None:
    app, router, inner, mounted = FastAPI(), APIRouter(prefix="/users"), APIRouter(), FastAPI()
    app.add_api_route("/", handler)
    router.add_api_route("/{user_id:int}", handler, methods=["GET", "DELETE"])
    inner.add_api_route("/{post}/text", handler, methods=["PUT"])
    router.include_router(inner, prefix="/posts")
    app.include_router(router, prefix="/v1")
    mounted.add_api_route("/reports/{name:path}", handler)
    app.mount("/admin", mounted)
    app.add_api_websocket_route("/events", socket)
    assert set(endpoints(app)) == {
        "GET /",
        "GET /v1/users/{user_id}",
        "DELETE /v1/users/{user_id}",
        "PUT /v1/users/posts/{post}/text",
        "GET /admin/reports/{name:path}",
        "GET /events",
    }


def test_what_no_service_should_claim_is_left_out() -> None:
    app = FastAPI()
    app.add_api_route("/health", handler)
    app.add_api_route("/users", handler)
    app.add_api_route("/internal", handler, include_in_schema=False)
    assert endpoints(app, "/health") == ("GET /users",), "neither /docs nor /openapi.json nor the health endpoint"
    assert endpoints(app, hidden=True) == ("GET /health", "GET /users", "GET /internal"), "nor what FastAPI adds"


def test_routes_of_starlette_count_too() -> None:
    def answer(_: object) -> PlainTextResponse:
        return PlainTextResponse("")

    routes = [Mount("/a", routes=[Route("/{b}", answer, methods=["GET", "POST"])])]
    assert endpoints(Starlette(routes=routes)) == ("GET /a/{b}", "POST /a/{b}")


def test_a_route_that_is_added_is_there_at_once() -> None:
    app = FastAPI()
    assert endpoints(app) == ()
    app.add_api_route("/late", handler)
    assert endpoints(app) == ("GET /late",)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/users/{user_id:int}", "/users/{user_id}"),
        ("/files/{rest:path}", "/files/{rest:path}"),
        ("/users/", "/users/"),
        ("/", "/"),
        ("/a/{rest:path}/b", None),
        ("/{name}.json", "/{any}"),
        ("/f/v{n:int}/{id}", "/f/{any}/{id}"),
        ("/{a}-{b}", "/{any}"),
        ("/f{rest:path}", None),
        ("/a//b", None),
        ("/a/../b", None),
        ("/a b", None),
        ("", None),
    ],
)
def test_what_the_contract_can_say_is_said(path: str, said: str | None) -> None:
    assert template(path) == said
