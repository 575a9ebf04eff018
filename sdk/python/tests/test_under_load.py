"""What clients behind the proxy see while services come and go, are killed or stuck, and the control plane restarts."""

from __future__ import annotations

import signal
import threading
from functools import partial

import pytest

from cluster import Cluster, eventually, get
from load import Load
from test_service import PIDS
from waypost import Instance, State, Watch

REPLACEMENTS = 20
# Requests that may not be sent twice, and some that take longer than a server that is told to end leaves them.
POSTS = (
    PIDS
    + """
@app.post("/pid")
async def post():
    return os.getpid()

@app.api_route("/slow", methods=["GET", "POST"])
async def slow():
    await asyncio.sleep(0.5)
    return os.getpid()
"""
)


@pytest.mark.slow
def test_replacing_a_service_with_two_workers_twenty_times_loses_no_request(own_cluster: Cluster) -> None:
    # A busy machine may need long to tell the second worker, too; the first one would take that for one that stays.
    patience = "import waypost.service.lifecycle\nwaypost.service.lifecycle._OTHERS_ARE_TOLD = 60.0\n"
    source = patience + POSTS.format(name="rolling", options="")
    requests = ("/rolling/pid", "POST /rolling/pid", "/rolling/slow", "POST /rolling/slow")
    # Told to end, these servers cut off what they are at: only the drain before that saves it.
    workers = ("uvicorn", "--workers", "2", "--no-access-log", "--timeout-graceful-shutdown", "0")
    serving = own_cluster.serve(source, workers)
    address = own_cluster.instance("rolling").address
    with Load(own_cluster.traffic, *requests, threads=8) as load:
        # The next one starts while the one before it is replaced: starting is what takes the time.
        coming = own_cluster.serve(source, workers)
        for number in range(REPLACEMENTS):
            # At an address where no one was that still serves; earlier ones may come back.
            (address,) = eventually("the next one is there", partial(addresses_beside, own_cluster, address))
            old, serving = serving, coming
            if number + 1 < REPLACEMENTS:
                coming = own_cluster.serve(source, workers)
            old.signal(signal.SIGTERM)
            old.wait()
        load.more(50)
        load.stop()
        assert load.failures == []
    assert [each.address for each in own_cluster.client.instances("rolling")] == [address]


def addresses_beside(cluster: Cluster, address: str) -> set[str]:
    up = {each.address for each in cluster.client.instances("rolling") if each.state is State.UP}
    return up - {address}


def test_killing_one_of_two_instances_fails_no_get(own_cluster: Cluster) -> None:
    source = PIDS.format(name="killed", options="heartbeat_interval=0.5")
    servers = [own_cluster.serve(source) for _ in range(2)]
    own_cluster.instances("killed", 2)
    own_cluster.applied()
    with Load(own_cluster.traffic, "/killed/pid") as load:
        eventually("both answer", lambda: len(load.answers) == 2)
        servers[0].kill()
        own_cluster.instances("killed", 1)
        load.more(200)
        load.stop()
        assert load.failures == []


# A sleep lets go of the GIL, Python that counts only lends it; both for longer than the lease of 10 s, and until all is
# seen.
@pytest.mark.slow
@pytest.mark.parametrize("by", ["block/30/unblocked", "spin/20/unspun"])
def test_a_loop_that_is_blocked_costs_share_and_not_the_registration(own_cluster: Cluster, by: str) -> None:
    source = PIDS.format(name="blocked", options="")
    for _ in range(2):
        own_cluster.serve(source)
    stuck, other = own_cluster.instances("blocked", 2)
    own_cluster.applied()
    pid = get(stuck.address, "/pid")[1].decode()
    with own_cluster.client.watch("blocked") as watch, Load(own_cluster.traffic, "/blocked/pid", threads=12) as load:
        seen = Steps(watch)
        eventually("it has all of its share", lambda: seen.last(stuck).share_percent == 100)
        eventually("both answer", lambda: load.part(pid) > 0.3)
        ended: list[int] = []
        blocking = threading.Thread(target=lambda: ended.append(get(stuck.address, f"/{by}")[0]))
        blocking.start()
        eventually("it gets less", lambda: seen.last(stuck).share_percent == 10)
        own_cluster.applied()
        # Whoever asks it waits for it: if it were sent half of this, all clients would.
        assert load.part(pid, 300) == 0.0
        assert ended == [], "it was blocked meanwhile"
        (own_cluster.folder / by.rpartition("/")[2]).touch()
        blocking.join()
        assert ended == [200]
        eventually("it has all of its share again", lambda: seen.last(stuck).share_percent == 100)
        own_cluster.applied()
        eventually("both answer again", lambda: load.part(pid) > 0.3)
        load.stop()
        assert load.failures == []
    for step in seen.steps:
        for each in (stuck, other):
            assert step.instances[each.key].state is State.UP
            assert step.instances[each.key].epoch == each.epoch, "it was registered all the time"


class Steps:
    """All that a watch has shown."""

    def __init__(self, watch: Watch) -> None:
        self.steps = [next(watch)]
        threading.Thread(target=self._follow, args=(watch,), daemon=True).start()

    def _follow(self, watch: Watch) -> None:
        for step in watch:
            self.steps.append(step)

    def last(self, instance: Instance) -> Instance:
        """What is known of an instance now."""
        return self.steps[-1].instances[instance.key]


def test_a_restart_of_the_control_plane_loses_no_request_and_no_service(own_cluster: Cluster) -> None:
    own_cluster.serve(PIDS.format(name="outlived", options="heartbeat_interval=1.5"))
    before = own_cluster.instance("outlived")
    with Load(own_cluster.traffic, "/outlived/pid") as load:
        own_cluster.restart_control_plane()
        after = own_cluster.instance("outlived")
        assert after.address == before.address
        load.more(200)
        load.stop()
        assert load.failures == []
    assert get(own_cluster.traffic, "/outlived/pid")[0] == 200


def test_a_service_that_ends_when_the_control_plane_has_forgotten_it_serves_on_for_a_while(
    own_cluster: Cluster,
) -> None:
    # It is not registered again before it ends, as it does not hear of the loss: nor by the load that it reports.
    source = """
import waypost.service.lifecycle

waypost.service.lifecycle.together = lambda _: None
"""
    options = "heartbeat_interval=1000, drain_timeout=20"
    server = own_cluster.serve(source + PIDS.format(name="forgotten", options=options))
    instance = own_cluster.instance("forgotten")
    own_cluster.restart_control_plane()
    eventually("it has forgotten the service", lambda: own_cluster.client.instances("forgotten") == [])
    server.signal(signal.SIGTERM)
    server.said("(does not know forgotten any more: serving on)")
    assert get(instance.address, "/pid")[0] == 200, "proxies may go by what they knew"
    assert "Shutting down" not in server.output()
    server.wait()
