"""`@Service` under real servers: when it registers, as what, and how it leaves."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster, Process, eventually, get
from load import Load
from ports import free_port
from waypost import State

GUNICORN = ("gunicorn", "-k", "uvicorn.workers.UvicornWorker", "-w", "2", "--no-control-socket")

ABOVE = """
from fastapi import FastAPI
from waypost import Service

app = FastAPI()

@Service(name="{name}", version="2.1.0", description="Users", tags=["a", "b"], {options})
@app.get("/{name}/{{user_id:int}}")
async def get_user(user_id: int):
    return {{"user_id": user_id}}

@app.post("/{name}/")
def create_user(user: dict):
    return user
"""

BELOW = """
from fastapi import FastAPI
from waypost import Service

app = FastAPI()

@app.get("/{name}/{{user_id}}")
@Service(name="{name}", version="2.1.0", description="Users", tags=["a", "b"], {options})
async def get_user(user_id: int):
    return {{"user_id": user_id}}

@app.post("/{name}/")
def create_user(user: dict):
    return user
"""

ON_APP = """
from fastapi import FastAPI
from waypost import Service

app = Service(name="{name}", version="2.1.0", description="Users", tags=["a", "b"], {options})(FastAPI())

@app.get("/{name}/{{user_id}}")
async def get_user(user_id: int):
    return {{"user_id": user_id}}

@app.post("/{name}/")
def create_user(user: dict):
    return user
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from waypost import Service

async def get_user(request):
    return JSONResponse({{"user_id": int(request.path_params["user_id"])}})

async def create_user(request):
    return JSONResponse(await request.json())

routes = [Route("/{name}/{{user_id}}", get_user), Route("/{name}/", create_user, methods=["POST"])]
app = Starlette(routes=routes)
Service(name="{name}", version="2.1.0", description="Users", tags=["a", "b"], {options})(app)
"""

PIDS = """
import asyncio, os, time
from fastapi import FastAPI
from waypost import Service

app = FastAPI()
Service(name="{name}", {options})(app)

@app.get("/pid")
async def pid():
    return os.getpid()

@app.get("/until/{{file}}")
async def until(file: str):
    open(file + "-asked", "w").close()
    while not os.path.exists(file):
        await asyncio.sleep(0.01)
    return file

@app.get("/block/{{seconds}}/{{file}}")
async def block(seconds: float, file: str):
    time.sleep(seconds)
    while not os.path.exists(file):
        time.sleep(0.01)

@app.get("/spin/{{seconds}}/{{file}}")
async def spin(seconds: float, file: str):
    until = time.monotonic() + seconds
    while time.monotonic() < until or not os.path.exists(file):
        pass
"""


@contextlib.contextmanager
def under_way(cluster: Cluster, path: str) -> Iterator[list[tuple[int, bytes]]]:
    """A request through the proxy that has arrived when this begins, and whose answer is there when it has ended."""
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(cluster.get(path)))
    asking.start()
    eventually("the request is there", (cluster.folder / f"{path.rpartition('/')[2]}-asked").exists)
    yield answers
    asking.join()


ORDERS = [("above", ABOVE), ("below", BELOW), ("on-the-app", ON_APP), ("on-starlette", STARLETTE)]


@pytest.mark.parametrize(("order", "source"), ORDERS)
def test_it_registers_from_a_handler_in_either_order_and_from_the_app(
    shared_cluster: Cluster, order: str, source: str
) -> None:
    name = f"order-{order}"
    server = shared_cluster.serve(source.format(name=name, options=""))
    instance = shared_cluster.instance(name)
    known = instance.registration
    assert (known.version, known.description, known.tags) == ("2.1.0", "Users", ("a", "b"))
    assert set(known.endpoints) == {f"GET /{name}/{{}}", f"POST /{name}/"}
    assert shared_cluster.get(f"/{name}/7") == (200, b'{"user_id":7}'), "by its endpoint"
    assert shared_cluster.get(f"/{name}/{name}/7") == (200, b'{"user_id":7}'), "by its prefix"
    assert get(shared_cluster.traffic, f"/{name}/", "POST", b'{"id":7}') == (200, b'{"id":7}')
    server.signal(signal.SIGTERM)
    server.wait()
    assert shared_cluster.client.instances(name) == [], "it has left when it has ended"


def test_it_registers_when_the_server_listens_and_not_before(shared_cluster: Cluster) -> None:
    source = """
import asyncio, contextlib, os
from fastapi import FastAPI
from waypost import Service

@contextlib.asynccontextmanager
async def lifespan(app):
    open("starting", "w").close()
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    yield

app = Service(name="ready")(FastAPI(lifespan=lifespan))
"""
    with shared_cluster.client.watch("ready") as watch:
        assert not next(watch).instances
        shared_cluster.serve(source)
        eventually("its lifespan has begun", (shared_cluster.folder / "starting").exists)
        assert shared_cluster.client.instances("ready") == []
        (shared_cluster.folder / "go").touch()
        step = next(watch)
    (instance,) = step.instances.values()
    assert get(instance.address, "/nothing")[0] == 404, "the first connection after that is answered"


METRICS = """
import asyncio, contextlib, os, socket
from fastapi import FastAPI
from waypost import Service

def listen():
    global listener
    listener = socket.create_server(("127.0.0.1", 0))

@contextlib.asynccontextmanager
async def lifespan(app):
    if "{when}" == "while it starts":
        listen()
    else:
        asyncio.get_running_loop().call_soon(listen)
    yield

app = Service(name="{name}")(FastAPI(lifespan=lifespan))

@app.get("/pid")
async def pid():
    return os.getpid()
"""


@pytest.mark.parametrize("server", ["uvicorn", "uvicorn --port", "gunicorn"])
def test_its_port_is_registered_though_the_app_listens_elsewhere_before_the_server_does(
    shared_cluster: Cluster, server: str
) -> None:
    name = f"metrics-{server.replace(' --', '-')}"
    # Where uvicorn says which port it binds, not even one that comes after the start is in its way.
    when = "after it has started" if "--port" in server else "while it starts"
    port = ("uvicorn", "--port", str(free_port()))
    command = {"uvicorn": ("uvicorn",), "uvicorn --port": port, "gunicorn": (*GUNICORN, "-w", "1")}[server]
    process = shared_cluster.serve(METRICS.format(name=name, when=when), command)
    instance = shared_cluster.instance(name)
    assert get(instance.address, "/pid")[0] == 200
    process.signal(signal.SIGTERM)
    process.wait()
    assert shared_cluster.client.instances(name) == []


def test_a_wsgi_app_that_is_imported_where_something_listens_waits_for_a_request(shared_cluster: Cluster) -> None:
    code = """
import socket, time
import waypost.service.lifecycle as lifecycle
from waypost import Service
from waypost.service.listener import listeners

listener = socket.create_server(("127.0.0.1", 0))
looks = []
lifecycle.listeners = lambda: looks.append(1) or listeners()
app = Service(name="waiting").wsgi(lambda environ, start_response: [b""])
while len(looks) < 22 and not app._lifecycle.registered:
    time.sleep(0.01)
assert not app._lifecycle.registered, "something else listens there"
list(app({"SERVER_PORT": str(listener.getsockname()[1])}, None))
while not app._lifecycle.registered or not app._lifecycle.registered.wait(0.1):
    time.sleep(0.01)
print(app._lifecycle.registered.registration.address.rpartition(":")[2] == str(listener.getsockname()[1]))
"""
    environment = {"WAYPOST_REGISTRY_URL": shared_cluster.url}
    process = Process([sys.executable, "-c", code], shared_cluster.folder / "waiting.log", **environment)
    assert process.wait() == 0, process.output()
    assert "True" in process.output()
    assert shared_cluster.client.instances("waiting") == []


def test_requests_in_flight_are_answered_and_new_ones_accepted_until_the_drain_is_over(
    shared_cluster: Cluster,
) -> None:
    server = shared_cluster.serve(PIDS.format(name="draining", options=""))
    instance = shared_cluster.instance("draining")
    with under_way(shared_cluster, "/draining/until/drained") as answers:
        server.signal(signal.SIGTERM)
        eventually("it drains", lambda: shared_cluster.state("draining") is State.DRAINING)
        server.signal(signal.SIGTERM)
        assert get(instance.address, "/pid")[0] == 200, "it serves as ever, and a second SIGTERM changes nothing"
        assert server.popen.poll() is None
        (shared_cluster.folder / "drained").touch()
    assert answers == [(200, b'"drained"')]
    server.wait()
    assert shared_cluster.client.instances("draining") == []


def test_a_second_interrupt_ends_the_waiting(shared_cluster: Cluster) -> None:
    server = shared_cluster.serve(PIDS.format(name="interrupted", options=""))
    shared_cluster.instance("interrupted")
    slow = threading.Thread(target=lambda: shared_cluster.get("/interrupted/until/never"))
    slow.start()
    eventually("the request is there", (shared_cluster.folder / "never-asked").exists)
    server.signal(signal.SIGINT)
    eventually("it drains", lambda: shared_cluster.state("interrupted") is State.DRAINING)
    server.signal(signal.SIGINT)
    eventually("the server is told", lambda: "Shutting down" in server.output())
    server.kill()
    slow.join()


@pytest.mark.parametrize("server", [("uvicorn", "--workers", "2"), GUNICORN])
def test_workers_that_share_a_port_are_one_instance_until_the_last_is_gone(
    shared_cluster: Cluster, server: tuple[str, ...]
) -> None:
    name = f"workers-{server[0]}"
    process = shared_cluster.serve(PIDS.format(name=name, options=""), server)
    before = shared_cluster.instance(name)
    eventually("both workers answer", lambda: len({get(before.address, "/pid")[1] for _ in range(10)}) == 2)
    assert len(shared_cluster.client.instances(name)) == 1
    with shared_cluster.client.watch(name) as watch:
        next(watch)
        os.kill(int(before.client.rpartition("-")[2]), signal.SIGKILL)
        seen = next(watch)
        while next(iter(seen.instances.values())).epoch == before.epoch:
            assert not seen.removed
            seen = next(watch)
        after = next(iter(seen.instances.values()))
    assert after.address == before.address
    assert after.client != before.client, "another worker keeps the lease"
    process.signal(signal.SIGTERM)
    process.wait()
    assert shared_cluster.client.instances(name) == []


def test_workers_that_are_replaced_leave_the_instance_registered(shared_cluster: Cluster) -> None:
    process = shared_cluster.serve(PIDS.format(name="reloaded", options=""), GUNICORN)
    shared_cluster.instance("reloaded")
    with shared_cluster.client.watch("reloaded") as watch, Load(shared_cluster.traffic, "/reloaded/pid") as load:
        first = set(load.answers)
        epoch = next(iter(next(watch).instances.values())).epoch
        process.signal(signal.SIGHUP)
        step = next(watch)
        while (now := next(iter(step.instances.values()))).epoch == epoch:
            assert now.state.takes_traffic
            step = next(watch)
            assert not step.removed
        eventually("new workers answer", lambda: set(load.answers) - first)
        load.stop()
        assert load.failures == []


def has_joined(pid: int) -> bool:
    """Whether a worker has said how it is where workers find each other; its file alone is there before it looks."""
    files = Path(tempfile.gettempdir()).glob(f"waypost-{os.getuid()}/*/{pid}-*")
    return any(json.loads(file.read_bytes())["utilization"] is not None for file in files)


def test_a_worker_that_ends_while_others_go_on_breaks_no_connection_off(shared_cluster: Cluster) -> None:
    process = shared_cluster.serve(PIDS.format(name="ending", options=""), ("uvicorn", "--workers", "2"))
    instance = shared_cluster.instance("ending")

    def know_of_each_other() -> bool:
        workers = {get(instance.address, "/pid")[1] for _ in range(10)}
        return len(workers) == 2 and all(has_joined(int(pid)) for pid in workers)

    eventually("both workers answer, and know of each other", know_of_each_other)
    with contextlib.closing(http.client.HTTPConnection(instance.address, timeout=60)) as connection:
        connection.request("GET", "/pid")
        worker = connection.getresponse().read()
        connection.request("GET", "/until/ended")
        eventually("the request is there", (shared_cluster.folder / "ended-asked").exists)
        os.kill(int(worker), signal.SIGTERM)
        eventually("the worker is told", lambda: "Shutting down" in process.output())
        assert worker not in {get(instance.address, "/pid")[1] for _ in range(10)}, "others take new connections"
        (shared_cluster.folder / "ended").touch()
        answer = connection.getresponse()
        assert answer.read() == b'"ended"'
        assert answer.will_close, "it says that this was the last one"


def test_flask_under_gunicorn_registers_and_drains(shared_cluster: Cluster) -> None:
    source = """
import os, time
import waypost.service.lifecycle
from flask import Flask
from waypost import Service

flask = Flask(__name__)

@flask.get("/users/<int:user_id>")
def get_user(user_id):
    return {"user_id": user_id}

@flask.get("/pid")
def pid():
    return str(os.getpid())

@flask.get("/until/<file>")
def until(file):
    open(file + "-asked", "w").close()
    while not os.path.exists(file):
        time.sleep(0.01)
    return file

# A busy machine may need long to tell the other worker, too.
waypost.service.lifecycle._OTHERS_ARE_TOLD = 60.0
app = Service(name="flask").wsgi(flask)
"""
    process = shared_cluster.serve(source, ("gunicorn", "-w", "2", "--no-control-socket"))
    instance = shared_cluster.instance("flask")
    eventually("both workers answer", lambda: len({get(instance.address, "/pid")[1] for _ in range(10)}) == 2)
    assert shared_cluster.get("/flask/users/7") == (200, b'{"user_id":7}\n')
    with under_way(shared_cluster, "/flask/until/flask-drained") as answers:
        process.signal(signal.SIGTERM)
        eventually("it drains", lambda: shared_cluster.state("flask") is State.DRAINING)
        assert get(instance.address, "/pid")[0] == 200, "the other worker serves as ever"
        assert process.popen.poll() is None
        (shared_cluster.folder / "flask-drained").touch()
    assert answers == [(200, b"flask-drained")]
    process.wait()
    assert shared_cluster.client.instances("flask") == []


def test_any_asgi_app_can_be_wrapped_even_one_without_a_lifespan(shared_cluster: Cluster) -> None:
    source = """
from waypost import Service

async def bare(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"bare"})

app = Service(name="bare").asgi(bare)
"""
    process = shared_cluster.serve(source)
    shared_cluster.instance("bare")
    assert shared_cluster.get("/bare/x") == (200, b"bare")
    process.signal(signal.SIGTERM)
    process.wait()
    assert shared_cluster.client.instances("bare") == []


def test_routes_that_are_added_later_are_registered_too(shared_cluster: Cluster) -> None:
    source = """
from fastapi import FastAPI
from waypost import Service

app = Service(name="later", prefix="")(FastAPI())

@app.post("/later/add/{name}")
async def add(name: str):
    app.add_api_route(f"/later/{name}", lambda: name, methods=["GET"])
"""
    shared_cluster.serve(source)
    shared_cluster.instance("later")
    assert get(shared_cluster.traffic, "/later/more")[0] == 404
    assert get(shared_cluster.traffic, "/later/add/more", "POST")[0] == 200
    eventually("the new route is served", lambda: shared_cluster.get("/later/more") == (200, b'"more"'))


def test_endpoints_beyond_what_an_instance_may_have_are_left_out_with_a_word(shared_cluster: Cluster) -> None:
    source = """
from fastapi import FastAPI
from waypost import Service

app = Service(name="many")(FastAPI())
for number in range(1030):
    app.add_api_route(f"/many-{number}", lambda: "", methods=["GET"])
"""
    server = shared_cluster.serve(source)
    assert len(shared_cluster.instance("many").registration.endpoints) == 1024
    assert "reachable below its prefix only" in server.said("many has 1030 endpoints(.*)")
    assert shared_cluster.get("/many-7") == (200, b'""')
    assert shared_cluster.get("/many/many-1029") == (200, b'""')


def has_ipv6() -> bool:
    """Whether this machine has addresses of IPv6, and not Python alone."""
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


NEEDS_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
ANYWHERE = [
    ("0.0.0.0", "127.0.0.1"),  # noqa: S104 (read here)
    pytest.param("::", "127.0.0.1", marks=NEEDS_IPV6),
    ("127.0.0.2", "127.0.0.2"),
]


@pytest.mark.parametrize(("option", "host"), ANYWHERE)
def test_the_address_is_the_one_towards_the_control_plane(shared_cluster: Cluster, option: str, host: str) -> None:
    name = f"host-{option.replace('.', '-').replace(':', 'x')}"
    shared_cluster.serve(PIDS.format(name=name, options=""), ("uvicorn", "--host", option))
    assert shared_cluster.instance(name).address.rpartition(":")[0] == host


def test_without_a_folder_for_its_workers_it_registers_alone(shared_cluster: Cluster) -> None:
    source = """
import tempfile
from pathlib import Path

# As where nothing can be written; root may write everywhere.
Path("no-folder").touch()
tempfile.tempdir = "no-folder"
"""
    server = shared_cluster.serve(source + PIDS.format(name="alone", options=""))
    instance = shared_cluster.instance("alone")
    server.said("no folder can be written (.*)")
    assert get(instance.address, "/pid")[0] == 200
    server.signal(signal.SIGTERM)
    server.wait()
    assert shared_cluster.client.instances("alone") == []


def test_it_waits_until_the_control_planes_name_is_resolved(shared_cluster: Cluster) -> None:
    source = """
import os, socket
from fastapi import FastAPI
from waypost import Service

resolve = socket.getaddrinfo

def getaddrinfo(host, *arguments, **options):
    if host == "control-plane.internal":
        if not os.path.exists("resolved"):
            raise socket.gaierror("not yet")
        host = "127.0.0.1"
    return resolve(host, *arguments, **options)

socket.getaddrinfo = getaddrinfo
app = Service(name="unresolved", registry_url="http://control-plane.internal:{port}")(FastAPI())
"""
    source = source.format(port=shared_cluster.http.rpartition(":")[2])
    server = shared_cluster.serve(source, ("uvicorn", "--host", "0.0.0.0"))  # noqa: S104 (what it is about)
    assert "control-plane.internal" in server.said("unresolved is not registered yet: (.*)")
    (shared_cluster.folder / "resolved").touch()
    assert get(shared_cluster.instance("unresolved").address, "/nothing")[0] == 404


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_address_can_be_said(shared_cluster: Cluster, by: str) -> None:
    name = f"said-{by}"
    options, environment = ("", {"WAYPOST_ADDRESS": "users.internal:80"})
    if by == "option":
        options, environment = 'url="http://users.internal:80"', {"WAYPOST_ADDRESS": "other:1"}
    shared_cluster.serve(PIDS.format(name=name, options=options), **environment)
    assert shared_cluster.instances(name, 1)[0].address == "users.internal:80"


@pytest.mark.parametrize("variable", ["WAYPOST_REGISTRY_URL", "TAPPER_REGISTRY_URL", "TAPER_REGISTRY_URL"])
def test_the_control_plane_is_named_by_any_of_three_variables(shared_cluster: Cluster, variable: str) -> None:
    name = variable.lower().replace("_", "-")
    environment: dict[str, Any] = {"WAYPOST_REGISTRY_URL": "", variable: shared_cluster.url}
    (shared_cluster.folder / f"{variable}.py").write_text(PIDS.format(name=name, options=""))
    command = ["python", "-m", "uvicorn", f"{variable}:app", "--port", "0"]
    process = Process([sys.executable, *command[1:]], shared_cluster.folder / f"{variable}.log", **environment)
    try:
        shared_cluster.instances(name, 1)
    finally:
        process.kill()


def test_a_health_endpoint_takes_the_instance_out_and_puts_it_back(shared_cluster: Cluster) -> None:
    source = """
import os
from fastapi import FastAPI, Response
from waypost import Service

app = Service(name="healthy", heartbeat_interval=0.5, health_endpoint="/ok")(FastAPI())

@app.get("/ok")
async def ok(response: Response):
    response.status_code = 503 if os.path.exists("ill") else 200
"""
    shared_cluster.serve(source)
    shared_cluster.instance("healthy")
    (shared_cluster.folder / "ill").touch()
    eventually("it is out", lambda: shared_cluster.state("healthy") is State.DOWN)
    assert "GET /ok answered 503" in shared_cluster.client.instances("healthy")[0].reason
    (shared_cluster.folder / "ill").unlink()
    eventually("it is in", lambda: shared_cluster.state("healthy") is State.UP)


MOUNTED = """
from fastapi import FastAPI
from waypost import Service

app, inner = FastAPI(), Service(name="{name}")(FastAPI())

@inner.get("/pid")
async def pid():
    return 1

app.mount("/inner", inner)
"""


@pytest.mark.parametrize(
    ("name", "source", "options", "path"),
    [("mounted", MOUNTED, (), "/inner/pid"), ("no-lifespan", PIDS, ("--lifespan", "off"), "/pid")],
)
def test_a_service_whose_lifespan_does_not_begin_says_so_with_its_first_request(
    shared_cluster: Cluster, name: str, source: str, options: tuple[str, ...], path: str
) -> None:
    server = shared_cluster.serve(source.format(name=name, options=""), ("uvicorn", *options))
    address = server.said(r"running on http://(\S+)")
    for _ in range(2):
        assert get(address, path)[0] == 200
    assert "outermost app" in server.said(f"{name} is not registered, though it is served: (.*)")
    assert server.output().count("though it is served") == 1, "once"


def test_an_app_that_is_only_imported_registers_nothing(shared_cluster: Cluster) -> None:
    (shared_cluster.folder / "imported.py").write_text(ABOVE.format(name="imported", options=""))
    code = """
import imported, httpx
from fastapi.testclient import TestClient
with TestClient(imported.app) as client:
    assert client.get("/imported/7").json() == {"user_id": 7}
"""
    environment = {"WAYPOST_REGISTRY_URL": shared_cluster.url}
    process = Process([sys.executable, "-c", code], shared_cluster.folder / "imported.log", **environment)
    assert process.wait() == 0, process.output()
    assert shared_cluster.client.instances("imported") == []
