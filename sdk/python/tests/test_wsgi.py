"""A WSGI app in a process that was forked off with it, as prefork servers do, and whose requests come in threads."""

from __future__ import annotations

import sys

from cluster import Cluster, Process

# The children of such a server begin with their first requests, each of which is in a thread of its own.
PREFORK = """
import os, socket, sys, threading, time
import waypost.service.lifecycle as lifecycle
from waypost import Service
from waypost.service.listener import listeners

listener = socket.create_server(("127.0.0.1", 0))
port = str(listener.getsockname()[1])
app = Service(name="prefork").wsgi(lambda environ, start_response: [b""])
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

# Whoever may begin does so now.
lifecycle.listeners = lambda: time.sleep(0.2) or listeners()
together = threading.Barrier(8)

def ask():
    together.wait()
    app({"SERVER_PORT": port}, None).close()

asking = [threading.Thread(target=ask) for _ in range(8)]
for each in asking:
    each.start()
for each in asking:
    each.join()
names = [each.name for each in threading.enumerate()]
assert names.count("waypost-service") == 1, names
while not app._lifecycle.registered or not app._lifecycle.registered.wait(0.1):
    time.sleep(0.01)
print("registered", app._lifecycle.registered.registration.address)
"""


def test_first_requests_that_come_at_once_begin_one_service_which_drains(shared_cluster: Cluster) -> None:
    environment = {"WAYPOST_REGISTRY_URL": shared_cluster.url}
    process = Process([sys.executable, "-c", PREFORK], shared_cluster.folder / "prefork.log", **environment)
    assert process.wait() == 0, process.output()
    assert "registered 127.0.0.1:" in process.output()
    assert shared_cluster.client.instances("prefork") == []
