"""The documentation's examples, run as they stand; and Tapper's quick start with nothing but its import changed."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from cluster import Cluster, Process, get

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", README.read_text(), re.M | re.S)

# From the quick start of tyler-ag-tapper's README.
TAPPER = """
from fastapi import FastAPI
from waypost import Service

app = FastAPI()

@Service(name="user-service", version="1.0.0", description="User management service")
@app.get("/users/{user_id}")
async def get_user(user_id: int):
    return {"user_id": user_id, "name": "Jane Doe"}

@app.post("/users/")
async def create_user(user: dict):
    return {"message": "User created", "user": user}
"""


def test_each_example_is_run_by_one_of_these_tests() -> None:
    assert [(kind, name) for kind, name, _ in BLOCKS] == [
        ("python", "main.py"),
        ("sh", ""),
        ("python", "flask_service.py"),
        ("python", ""),
        ("python", ""),
    ]


def test_the_quick_start_serves_through_the_proxy(own_cluster: Cluster) -> None:
    commands = BLOCKS[1][2].splitlines()
    assert commands[0].startswith("pip install ./sdk/python"), "test_package.py installs it"
    server = commands[1].split()
    assert server[:2] == ["uvicorn", "main:app"]
    (own_cluster.folder / "main.py").write_text(BLOCKS[0][2])
    # The port aside, which may be taken here.
    command = [sys.executable, "-m", *server[:-1], "0"]
    process = Process(command, own_cluster.folder / "main.log", WAYPOST_REGISTRY_URL=own_cluster.url)
    try:
        own_cluster.instance("user-service")
        shown = (200, b'{"user_id":7,"name":"Jane Doe"}')
        assert own_cluster.get("/users/7") == shown
        assert own_cluster.get("/user-service/users/7") == shown
        process.signal(signal.SIGTERM)
        process.wait()
        assert own_cluster.client.instances("user-service") == []
    finally:
        process.kill()


def test_tappers_quick_start_works_with_its_import_changed(own_cluster: Cluster) -> None:
    own_cluster.serve(TAPPER)
    own_cluster.instance("user-service")
    assert own_cluster.get("/users/7") == (200, b'{"user_id":7,"name":"Jane Doe"}')
    created = get(own_cluster.traffic, "/users/", "POST", b'{"name":"Joe"}')
    assert created == (200, b'{"message":"User created","user":{"name":"Joe"}}')


def test_the_flask_example_serves(shared_cluster: Cluster) -> None:
    shared_cluster.serve(BLOCKS[2][2], ("gunicorn", "--no-control-socket"))
    shared_cluster.instance("hello")
    assert shared_cluster.get("/hello/hello") == (200, b"hello")


@pytest.mark.parametrize(("number", "says"), [(3, "http://127.0.0.1:9001\nState.UP\n"), (4, " True\n")])
def test_the_examples_by_hand_run(shared_cluster: Cluster, number: int, says: str) -> None:
    source = BLOCKS[number][2].replace("http://127.0.0.1:7401", shared_cluster.url)
    log = shared_cluster.folder / f"example-{number}.log"
    process = Process([sys.executable, "-c", source], log, WAYPOST_REGISTRY_URL=shared_cluster.url)
    try:
        assert process.wait() == 0, process.output()
        assert says in process.output()
    finally:
        process.kill()
