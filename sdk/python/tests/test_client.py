"""The clients against a real control plane: what they promise in fair weather and in foul."""

from __future__ import annotations

import asyncio
import http.server
import inspect
import json
import os
import threading

import pytest

from cluster import PATIENCE, Cluster, eventually
from waypost import (
    AsyncClient,
    AsyncRegistered,
    Client,
    ConfigurationError,
    ControlPlaneUnreachableError,
    LeaseStatus,
    LeaseSupersededError,
    Load,
    NotFoundError,
    RefusedError,
    Registered,
    Registration,
    State,
    WatchStep,
)

NOBODY = "http://127.0.0.1:9"


def test_an_instance_is_registered_found_and_drained(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)
    declared = Registration(
        "plain", "127.0.0.1:9001", version="1.4.2", tags=("canary",), zone="a", weight=3, endpoints=("GET /plain/{id}",)
    )
    with client.register(declared) as registered:
        assert registered.status is LeaseStatus.HELD
        (instance,) = client.instances("plain")
        known = instance.registration
        assert (known.address, known.version, known.tags, known.zone) == ("127.0.0.1:9001", "1.4.2", ("canary",), "a")
        assert (known.weight, known.prefix, known.endpoints) == (3, "/plain", ("GET /plain/{}",))
        assert instance.state is State.UP
        (endpoint,) = client.resolve("plain")
        assert (endpoint.url, endpoint.weight, endpoint.tags) == ("http://127.0.0.1:9001", 3, ("canary",))
        assert [(each.name, each.up) for each in client.services() if each.name == "plain"] == [("plain", 1)]
        assert client.instances("plain", version="9") == []
        assert client.instances("plain", tags=["canary"], state=State.UP) == [*client.instances("plain")]
    assert registered.status.value == "left"
    assert registered.drain().complete
    assert client.instances("plain") == []


def test_a_client_that_goes_on_keeps_nothing_of_instances_that_have_left(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)
    drained, deregistered, released, kept = (
        client.register(Registration("several", f"127.0.0.1:{port}"), ttl=60.0) for port in range(9001, 9005)
    )
    drained.drain()
    deregistered.deregister()
    released.release()
    assert list(client._registered) == [kept]
    client.close()
    assert kept.status is LeaseStatus.LEFT
    assert list(client._registered) == []
    Client(shared_cluster.url).deregister("several", released.key.id)


@pytest.mark.parametrize("leave", ["drained", "deregistered", "by an operator"])
def test_an_id_that_means_something_in_a_url_names_its_own_instance(shared_cluster: Cluster, leave: str) -> None:
    client, service = Client(shared_cluster.url), f"odd-{leave.replace(' ', '-')}"
    ids = ["web", "web#1", "web?epoch=0", "web%23", "web;2"]
    held = [client.register(Registration(service, "127.0.0.1:9001", id=each), ttl=60.0) for each in ids]
    for number, registered in enumerate(held):
        if leave == "drained":
            assert registered.drain().complete
        elif leave == "deregistered":
            registered.deregister()
        else:
            assert client.drain(service, ids[number]).complete
            client.deregister(service, ids[number], epoch=registered.epoch)
        assert sorted(each.key.id for each in client.instances(service)) == sorted(ids[number + 1 :])
    client.close()


def test_what_breaks_a_rule_is_named_at_once(shared_cluster: Cluster) -> None:
    with pytest.raises(RefusedError) as caught:
        Client(shared_cluster.url).register(Registration("bad name", "127.0.0.1:9001"))
    assert caught.value.problem.code == "invalid_argument"
    assert "bad name" in str(caught.value)


def test_a_service_that_is_not_there_is_not_found(shared_cluster: Cluster) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        Client(shared_cluster.url).resolve("nowhere")


def test_a_control_plane_that_is_not_there_is_named() -> None:
    with pytest.raises(ControlPlaneUnreachableError, match=r"127\.0\.0\.1:9 cannot be reached"):
        Client(NOBODY).services()
    with pytest.raises(ControlPlaneUnreachableError):
        Client(NOBODY).register(Registration("users", "127.0.0.1:9001"), wait=0.3)
    with pytest.raises(ConfigurationError, match="no URL"):
        Client("ftp://somewhere")


def test_what_is_granted_too_late_is_given_back() -> None:
    may_grant, removed = threading.Event(), []

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            may_grant.wait(PATIENCE)
            self.answer({"key": {"namespace": "default", "service": "late", "id": "one"}, "epoch": "7"})

        def do_DELETE(self) -> None:
            removed.append(self.path)
            self.answer({})

        def answer(self, document: object) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ControlPlaneUnreachableError, match=r"default/late/one: .* within 0\.1 s"):
            client.register(Registration("late", "127.0.0.1:9001", id="one"), wait=0.1)
        may_grant.set()
        eventually("it is removed", lambda: removed)
        eventually("nothing beats", lambda: client._keeper._thread is None)
        server.shutdown()
    (asked,) = removed
    assert asked.startswith("/v1/instances/default/late/one?epoch=7&")


def test_what_is_no_control_plane_is_told_apart(shared_cluster: Cluster) -> None:
    with pytest.raises((RefusedError, ControlPlaneUnreachableError)):
        Client(f"http://{shared_cluster.traffic}").services()


def test_another_control_plane_is_used_when_one_is_gone(shared_cluster: Cluster) -> None:
    client = Client([NOBODY, shared_cluster.url])
    with client.register(Registration("either", "127.0.0.1:9001")):
        assert [each.id for each in (it.key for it in client.instances("either"))] == ["127.0.0.1:9001"]


def test_health_and_load_are_in_the_beats(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)

    def look() -> tuple[State, int]:
        (instance,) = client.instances("busy")
        return instance.state, instance.share_percent

    with client.register(Registration("busy", "127.0.0.1:9001"), ttl=1.5) as registered:
        registered.set_load(Load(application=1.5))
        eventually("it gets less", lambda: look() == (State.UP, 10))
        registered.set_load(Load(application=0.1))
        eventually("it gets all", lambda: look() == (State.UP, 100))
        registered.set_health(False, "the disk is full")
        eventually("it is out", lambda: look()[0] is State.DOWN)
        assert "the disk is full" in client.instances("busy")[0].reason
        registered.set_health(True)
        eventually("it is in again", lambda: look()[0] is State.UP)


def test_an_update_replaces_without_a_gap(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)
    with client.register(Registration("updated", "127.0.0.1:9001")) as registered:
        before = registered.epoch
        registered.update(Registration("updated", "127.0.0.1:9001", version="2"))
        eventually("it has another version", lambda: client.instances("updated")[0].version == "2")
        eventually("it is a new registration", lambda: registered.epoch > before)
        for other in (Registration("updated", "127.0.0.1:9002"), Registration("other", "127.0.0.1:9001")):
            with pytest.raises(ConfigurationError, match="which is another instance"):
                registered.update(other)
        # Its name is its address still, also where that is said.
        registered.update(Registration("updated", "127.0.0.1:9001", id="127.0.0.1:9001", version="3"))
        eventually("it has the last version", lambda: client.instances("updated")[0].version == "3")


def test_a_registration_can_be_a_key_and_is_what_is_read_back() -> None:
    given = Registration("listed", "127.0.0.1:9001", tags=["a"], endpoints=["GET /a"])  # type: ignore[arg-type]
    back = Registration.from_json(given.to_json())
    assert given == back
    assert {given: 1}[back] == 1


def test_who_was_superseded_is_told_and_stays_out(shared_cluster: Cluster) -> None:
    client, other = Client(shared_cluster.url), Client(shared_cluster.url)
    declared = Registration("twin", "127.0.0.1:9001", id="one")
    first = client.register(declared, ttl=1.5)
    with other.register(declared, ttl=60.0) as second:
        eventually("the first one knows", lambda: first.status is LeaseStatus.SUPERSEDED)
        assert isinstance(first.error, LeaseSupersededError)
        assert "another process" in str(first.error)
        assert not first.drain().complete
        assert client.instances("twin")[0].epoch == second.epoch
        assert second.status is LeaseStatus.HELD


def test_leases_heal_by_themselves_after_the_control_plane_has_forgotten_them(own_cluster: Cluster) -> None:
    client = Client(own_cluster.url)
    leases = [client.register(Registration("healed", f"127.0.0.1:{port}"), ttl=1.5) for port in (9001, 9002)]
    own_cluster.control_plane.kill()
    eventually("they are disconnected", lambda: all(each.status is LeaseStatus.DISCONNECTED for each in leases))
    assert isinstance(leases[0].error, ControlPlaneUnreachableError)
    own_cluster.restart_control_plane()
    eventually("both are back", lambda: len(client.instances("healed")) == 2)
    eventually("they are held", lambda: all(each.status is LeaseStatus.HELD for each in leases))


def test_a_watch_goes_on_after_an_outage_and_knows_what_it_missed(own_cluster: Cluster) -> None:
    client = Client(own_cluster.url)
    with client.watch("watched") as watch:
        assert dict(next(watch).instances) == {}
        first = client.register(Registration("watched", "127.0.0.1:9001"), ttl=1.5)
        step = next(watch)
        assert (step.changed, [each.address for each in step.instances.values()]) == ((first.key,), ["127.0.0.1:9001"])
        own_cluster.control_plane.kill()
        step = next(watch)
        assert not step.connected
        assert isinstance(step.error, ControlPlaneUnreachableError)
        assert list(step.instances) == [first.key], "what was known last stays"
        first.release()
        own_cluster.restart_control_plane()
        second = client.register(Registration("watched", "127.0.0.1:9002"), ttl=1.5)
        while list(step.instances) != [second.key]:
            step = next(watch)
        assert step.connected


def test_a_watch_that_is_closed_ends_for_its_reader(shared_cluster: Cluster) -> None:
    watch = Client(shared_cluster.url).watch("closed")
    next(watch)
    steps: list[WatchStep] = []
    reader = threading.Thread(target=lambda: steps.extend(watch))
    reader.start()
    watch.close()
    reader.join(10)
    assert not reader.is_alive()
    assert steps == []


def test_an_instance_is_drained_and_put_back_by_an_operator(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)
    with client.register(Registration("steered", "127.0.0.1:9001")):
        assert client.drain("steered", "127.0.0.1:9001", reason="a look at it").complete
        assert client.instances("steered")[0].state is State.DRAINING
        client.drain("steered", "127.0.0.1:9001", cancel=True)
        assert client.instances("steered")[0].state is State.UP
        client.deregister("steered", "127.0.0.1:9001", reason="not wanted")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_lease_stays_its_parents_after_a_fork(shared_cluster: Cluster) -> None:
    client = Client(shared_cluster.url)
    with client.register(Registration("forked", "127.0.0.1:9001"), ttl=6.0) as registered:
        epoch = registered.epoch
        child = os.fork()
        if child == 0:
            left = registered.status is LeaseStatus.LEFT and not registered.wait(0.01)
            client.close()
            os._exit(0 if left and not registered.drain().complete else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        renewed = client.instances("forked")[0].renewed_at
        eventually("it is renewed still", lambda: client.instances("forked")[0].renewed_at > renewed)
        assert client.instances("forked")[0].epoch == epoch


def test_the_asynchronous_client_does_the_same(shared_cluster: Cluster) -> None:
    async def scene() -> None:
        async with AsyncClient(shared_cluster.url) as client:
            async with client.watch("async") as watch:
                assert not (await anext(watch)).instances
                async with await client.register(Registration("async", "127.0.0.1:9001")) as registered:
                    assert list((await anext(watch)).instances) == [registered.key]
                    assert [each.address for each in await client.resolve("async")] == ["127.0.0.1:9001"]
                    assert [each.key for each in await client.instances("async")] == [registered.key]
                    assert "async" in [each.name for each in await client.services()]
                while (await anext(watch)).instances:
                    pass
            waiting = asyncio.ensure_future(anext(client.watch("async-other")))
            await waiting
            with pytest.raises(NotFoundError):
                await client.resolve("async-nowhere")

    asyncio.run(scene())


def test_the_asynchronous_client_drains_puts_back_and_removes(shared_cluster: Cluster) -> None:
    async def scene() -> None:
        async with AsyncClient(shared_cluster.url) as client:

            async def states(service: str) -> list[State]:
                return [each.state for each in await client.instances(service)]

            registered = await client.register(Registration("async-steered", "127.0.0.1:9001"))
            steered = registered.key.id
            assert (await client.drain("async-steered", steered, reason="a look at it")).complete
            assert await states("async-steered") == [State.DRAINING]
            await client.drain("async-steered", steered, cancel=True)
            assert await states("async-steered") == [State.UP]
            assert (await registered.deregister("not wanted")).complete
            assert registered.status is LeaseStatus.LEFT
            assert await states("async-steered") == []
            with pytest.raises(NotFoundError):
                await client.deregister("async-steered", steered)

            other = await client.register(Registration("async-removed", "127.0.0.1:9001"), ttl=60.0)
            assert (await client.deregister("async-removed", other.key.id, drain=True)).complete
            assert await states("async-removed") == []

    asyncio.run(scene())


def test_the_asynchronous_client_waits_for_a_lease_and_says_why_it_is_gone(shared_cluster: Cluster) -> None:
    async def scene() -> None:
        async with AsyncClient(shared_cluster.url) as client:
            assert client.url == shared_cluster.url
            declared = Registration("async-twin", "127.0.0.1:9001", id="one")
            first = await client.register(declared, ttl=1.5, wait=0)
            assert await first.wait(60)
            assert (first.registration, first.error) == (declared, None)
            second = await client.register(declared, ttl=60.0)
            assert second.epoch > first.epoch
            eventually("the first one knows", lambda: first.status is LeaseStatus.SUPERSEDED)
            assert isinstance(first.error, LeaseSupersededError)
            await second.release()
            assert second.status is LeaseStatus.LEFT
            assert [each.epoch for each in await client.instances("async-twin")] == [second.epoch]
            await client.deregister("async-twin", "one")

    asyncio.run(scene())


@pytest.mark.parametrize("when", ["at once", "granted", "away"])
def test_a_cancelled_registration_leaves_nothing_behind(shared_cluster: Cluster, when: str) -> None:
    other, service = Client(shared_cluster.url), f"cancelled-{when.replace(' ', '-')}"

    async def scene() -> Client:
        client = AsyncClient(NOBODY if when == "away" else shared_cluster.url)
        # Neither runs out while the test looks.
        call = client.register(Registration(service, "127.0.0.1:9001"), ttl=600.0, wait=600.0)
        registering = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        # The loop waits with the test, so that the caller has not got it yet.
        if when == "granted":
            eventually("it is there", lambda: other.instances(service))
        elif when == "away":
            eventually("it has been tried", lambda: client._sync._keeper.away)
        registering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await registering
        return client._sync

    client = asyncio.run(scene())
    eventually("nothing beats, and nothing is tried any more", lambda: client._keeper._thread is None)
    eventually("nothing is left to drain", lambda: not client._registered)
    assert other.instances(service) == []


@pytest.mark.parametrize(("blocking", "asynchronous"), [(Client, AsyncClient), (Registered, AsyncRegistered)])
def test_both_clients_take_the_same_arguments(blocking: type, asynchronous: type) -> None:
    taken = [
        {
            name: list(inspect.signature(member).parameters.values()) if callable(member) else type(member)
            for name, member in inspect.getmembers(of)
            if not name.startswith("_")
        }
        for of in (blocking, asynchronous)
    ]
    assert taken[0] == taken[1]
    assert len(taken[0]) > 8


def test_a_cancelled_wait_for_a_step_ends_the_watch(shared_cluster: Cluster) -> None:
    async def scene() -> None:
        watch = AsyncClient(shared_cluster.url).watch("cancelled")
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    asyncio.run(scene())
