"""With Waypost's own programs: the gateway answers as the proxy does, and outlives the control plane."""

from __future__ import annotations

import http.client
from contextlib import closing

import pytest

from cluster import Cluster, Process, eventually, get

_SERVICE = """
from fastapi import FastAPI
from waypost import Service

app = Service(name="{name}", version="{version}", prefix={prefix!r}, heartbeat_interval=1.5)(FastAPI())

@app.get("/{name}/{{item}}")
async def item(item: str):
    return {{"item": item, "version": "{version}"}}

@app.post("/{name}/")
async def create():
    return "created"

@app.get("/only-{version}")
async def only():
    return "{version}"
"""

_GATEWAY = """
from waypost.gateway import WaypostGateway

app = WaypostGateway(discovery_interval=1)
"""

_REQUESTS = [
    ("GET", "/shop/7"),
    ("HEAD", "/shop/7"),
    ("GET", "/shop/a%2Fb%20c?x=%zz"),
    ("POST", "/shop/"),
    ("DELETE", "/shop/7"),
    ("GET", "/pre/shop/7"),
    ("GET", "/pre"),
    ("GET", "/prefix"),
    ("GET", "/only-1"),
    ("GET", "/only-2"),
    ("PUT", "/only-2"),
    ("GET", "/nothing/here"),
    ("GET", "/shop/%2e%2e/x"),
    ("GET", "/shop/100%"),
]


def _gateway(cluster: Cluster) -> tuple[Process, str]:
    process = cluster.serve(_GATEWAY)
    return process, process.said(r"running on http://(\S+)")


def _answer(address: str, method: str, path: str) -> tuple[int, str | None, str | None, bytes]:
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        reason = answer.headers.get("x-waypost-reason")
        body = b"" if reason else answer.read()
        return answer.status, reason, answer.headers.get("allow") if reason else None, body


@pytest.mark.slow
def test_the_gateway_answers_as_the_proxy_does(own_cluster: Cluster) -> None:
    own_cluster.serve(_SERVICE.format(name="shop", version="1", prefix="/pre"))
    own_cluster.instances("shop", 1)
    own_cluster.serve(_SERVICE.format(name="shop", version="2", prefix="/pre"))
    own_cluster.instances("shop", 2)
    own_cluster.applied()
    _, gateway = _gateway(own_cluster)

    def items(address: str) -> set[bytes]:
        return {_answer(address, "GET", "/shop/7")[3] for _ in range(10)}

    eventually("both versions answer", lambda: len(items(gateway)) == 2)
    eventually("both versions answer by the proxy", lambda: len(items(own_cluster.traffic)) == 2)
    for method, path in _REQUESTS:
        ours, theirs = (_answer(address, method, path) for address in (gateway, own_cluster.traffic))
        assert ours[:3] == theirs[:3], (method, path)
        assert ours[3].replace(b'"1"', b'"2"') == theirs[3].replace(b'"1"', b'"2"'), (method, path)


@pytest.mark.slow
def test_the_gateway_outlives_the_control_plane(own_cluster: Cluster) -> None:
    service = own_cluster.serve(_SERVICE.format(name="shop", version="1", prefix=""))
    own_cluster.instance("shop")
    _, gateway = _gateway(own_cluster)
    eventually("the service answers", lambda: get(gateway, "/shop/7")[0] == 200)

    own_cluster.restart_control_plane()
    answers = [get(gateway, "/shop/7")[0] for _ in range(20)]
    own_cluster.instances("shop", 1)
    answers += [get(gateway, "/shop/7")[0] for _ in range(20)]
    assert answers == [200] * 40

    other = own_cluster.serve(_SERVICE.format(name="shop", version="2", prefix=""))
    eventually("the gateway follows again", lambda: get(gateway, "/only-2")[0] == 200)
    service.kill()
    assert [get(gateway, "/shop/7")[0] for _ in range(20)] == [200] * 20, "a killed instance costs no GET an error"
    assert other.popen.poll() is None
