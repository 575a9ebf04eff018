#!/usr/bin/env python3
"""A store of Waypost's registry in Python, over SQLite: an example of waypost.v1.StorePlugin.

It is durable (every commit is synced before it is acknowledged) and passes the whole conformance suite. What a store
must promise is said in proto/waypost/v1/store.proto and control-plane/src/store/PLUGIN.md; the Python code of the
contract is made from there when this starts.

One lock orders everything: simple, and fast enough for thousands of instances. Deliberately absent: replicas of this
server, which a database that many servers can write would allow.
"""

import argparse
import collections
import pathlib
import signal
import sqlite3
import sys
import threading
import time
import uuid
from concurrent import futures

import grpc

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
# How many events are kept.
EVENTS = 10_000
# A load is sent in parts of this many entries, which are far smaller than 4 MB together.
PART = 500
# Resources may have 128 KiB each.
RESOURCES_PART = 16
# Each watch occupies a thread, and each control plane has a watch or two.
THREADS = 64
HEARTBEAT = 1.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS about (history TEXT NOT NULL, revision INTEGER NOT NULL, complete INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
    namespace TEXT, service TEXT, id TEXT, revision INTEGER NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (namespace, service, id));
CREATE TABLE IF NOT EXISTS leases (
    namespace TEXT, service TEXT, id TEXT, epoch INTEGER NOT NULL, ttl REAL NOT NULL,
    PRIMARY KEY (namespace, service, id));
CREATE TABLE IF NOT EXISTS empty_services (
    namespace TEXT, service TEXT, revision INTEGER NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (namespace, service));
CREATE TABLE IF NOT EXISTS resources (
    kind TEXT, namespace TEXT, name TEXT, revision INTEGER NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (kind, namespace, name));
CREATE TABLE IF NOT EXISTS commits (revision INTEGER PRIMARY KEY, message BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (revision INTEGER PRIMARY KEY, message BLOB NOT NULL);
"""

Lease = collections.namedtuple("Lease", "epoch ttl deadline")


class Conflict(Exception):
    """The entry is not the expected one."""


def key_of(wire):
    return (wire.namespace, wire.service, wire.id)


class Registry:
    """What is kept. Every method is called under the lock."""

    def __init__(self, path, remember):
        self.remember = remember
        self.lock = threading.Condition()
        self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + SCHEMA)
        if self.one("SELECT 1 FROM about") is None:
            self.database.execute("INSERT INTO about VALUES (?, 0, 0)", (str(uuid.uuid4()),))
        self.history, self.revision = self.one("SELECT history, revision FROM about")
        # After a start every lease has its full length.
        now = time.monotonic()
        rows = self.database.execute("SELECT namespace, service, id, epoch, ttl FROM leases")
        self.leases = {(ns, service, id): Lease(epoch, ttl, now + ttl) for ns, service, id, epoch, ttl in rows}

    def one(self, sql, values=()):
        return self.database.execute(sql, values).fetchone()

    def oldest(self):
        """The oldest revision that a watch can begin after."""
        (first,) = self.one("SELECT MIN(revision) FROM commits")
        return self.revision if first is None else first - 1

    def lapsed(self, key):
        """Whether a lease is there and has lapsed."""
        lease = self.leases.get(key)
        return lease is not None and lease.deadline <= time.monotonic()

    def commit(self, mutation):
        """Makes a mutation in one transaction; answers its revision."""
        revision = self.revision + 1
        written = protos.StoredCommit(revision=revision)
        written.at.GetCurrentTime()
        change = getattr(mutation, mutation.WhichOneof("change"))
        make = {"put": self.put, "remove": self.remove, "forget": self.forget, "complete": self.complete,
                "declare": self.declare}
        self.database.execute("BEGIN IMMEDIATE")
        try:
            # Leases are memory: they change once the transaction is on disk.
            then = make[mutation.WhichOneof("change")](change, written, revision)
            if written.HasField("event"):
                written.event.revision = revision
                written.event.time.CopyFrom(written.at)
                event = written.event.SerializeToString()
                self.database.execute("INSERT INTO events VALUES (?, ?)", (revision, event))
                self.database.execute(
                    "DELETE FROM events WHERE revision <= "
                    "(SELECT revision FROM events ORDER BY revision DESC LIMIT 1 OFFSET ?)", (EVENTS,))
            self.database.execute("INSERT INTO commits VALUES (?, ?)", (revision, written.SerializeToString()))
            self.database.execute("DELETE FROM commits WHERE revision <= ?", (revision - self.remember,))
            self.database.execute("UPDATE about SET revision = ?", (revision,))
            self.database.execute("COMMIT")
        except BaseException:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
            raise
        self.revision = revision
        then()
        self.lock.notify_all()
        return revision

    def expect(self, key, revision):
        row = self.one("SELECT revision FROM instances WHERE (namespace, service, id) = (?, ?, ?)", key)
        if (None if row is None else row[0]) != revision:
            raise Conflict("/".join(key))

    def put(self, change, written, revision):
        key = (change.instance.spec.namespace, change.instance.spec.service, change.instance.spec.id)
        self.expect(key, change.expected if change.HasField("expected") else None)
        lease = change.WhichOneof("lease")
        if lease == "hold" and not self.lapsed(key):
            raise Conflict("/".join(key))
        written.put.CopyFrom(change.instance)
        written.put.revision = revision
        if change.HasField("event"):
            written.event.CopyFrom(change.event)
        message = written.put.SerializeToString()
        self.database.execute("REPLACE INTO instances VALUES (?, ?, ?, ?, ?)", (*key, revision, message))
        self.database.execute("DELETE FROM empty_services WHERE (namespace, service) = (?, ?)", key[:2])
        epoch, ttl = change.instance.epoch, change.instance.ttl.ToTimedelta().total_seconds()
        if lease == "grant":
            self.database.execute("REPLACE INTO leases VALUES (?, ?, ?, ?, ?)", (*key, epoch, ttl))
            return lambda: self.leases.update({key: Lease(epoch, ttl, time.monotonic() + ttl)})
        if lease == "hold":
            deadline = time.monotonic() + change.hold.ToTimedelta().total_seconds()
            return lambda: self.leases.update({key: self.leases[key]._replace(deadline=deadline)})
        return lambda: None

    def remove(self, change, written, revision):
        key = key_of(change.key)
        self.expect(key, change.expected)
        if change.lapsed and key in self.leases and not self.lapsed(key):
            raise Conflict("/".join(key))
        for table in ("instances", "leases"):
            self.database.execute(f"DELETE FROM {table} WHERE (namespace, service, id) = (?, ?, ?)", key)
        written.removed.key.CopyFrom(change.key)
        written.event.CopyFrom(change.event)
        if self.one("SELECT 1 FROM instances WHERE (namespace, service) = (?, ?)", key[:2]) is None:
            written.removed.emptied.CopyFrom(change.emptied)
            written.removed.emptied.revision = revision
            message = written.removed.emptied.SerializeToString()
            self.database.execute("REPLACE INTO empty_services VALUES (?, ?, ?, ?)", (*key[:2], revision, message))
        return lambda: self.leases.pop(key, None)

    def forget(self, change, written, _):
        key = (change.service.namespace, change.service.name)
        row = self.one("SELECT revision FROM empty_services WHERE (namespace, service) = (?, ?)", key)
        if row != (change.expected,):
            raise Conflict("/".join(key))
        self.database.execute("DELETE FROM empty_services WHERE (namespace, service) = (?, ?)", key)
        written.forgotten.CopyFrom(change.service)
        return lambda: None

    def complete(self, change, written, _):
        self.database.execute("UPDATE about SET complete = 1")
        written.completed.CopyFrom(change)
        return lambda: None

    def declare(self, change, written, revision):
        for declared in change.resources:
            key = (declared.resource.key.kind, declared.resource.key.namespace, declared.resource.key.name)
            row = self.one("SELECT revision FROM resources WHERE (kind, namespace, name) = (?, ?, ?)", key)
            expected = declared.expected if declared.HasField("expected") else None
            if (None if row is None else row[0]) != expected:
                raise Conflict("/".join(key))
            resource = written.declared.resources.add()
            resource.CopyFrom(declared.resource)
            resource.revision = revision
            self.database.execute(
                "REPLACE INTO resources VALUES (?, ?, ?, ?, ?)", (*key, revision, resource.SerializeToString()))
        return lambda: None


class Plugin:
    """The calls of the contract."""

    def __init__(self, registry, stopping):
        self.registry = registry
        self.stopping = stopping

    def Describe(self, request, context):
        with self.registry.lock:
            (mode,) = self.registry.one("PRAGMA journal_mode")
        described = protos.DescribeStoreResponse(name="the SQLite example", version=sqlite3.sqlite_version)
        described.findings.add(
            subject="journal", good=mode == "wal", detail=f"its mode is {mode}",
            remedy="" if mode == "wal" else "put the file on a local disk: SQLite cannot share memory there")
        return described

    def Load(self, request, context):
        registry = self.registry
        with registry.lock:
            (complete,) = registry.one("SELECT complete FROM about")
            header = protos.LoadStoreResponse(
                history=registry.history, revision=registry.revision, complete=bool(complete))
            rows = {table: registry.database.execute(f"SELECT message FROM {table} ORDER BY revision").fetchall()
                    for table in ("instances", "empty_services", "resources", "events")}
        yield header
        for table, messages in rows.items():
            size = RESOURCES_PART if table == "resources" else PART
            for begin in range(0, len(messages), size):
                part = protos.LoadStoreResponse()
                for (message,) in messages[begin:begin + size]:
                    getattr(part, table).add().ParseFromString(message)
                yield part

    def Watch(self, request, context):
        after = request.after
        self.commits(after, context)
        yield protos.StoredCommit()
        while context.is_active() and not self.stopping.is_set():
            with self.registry.lock:
                if self.registry.revision == after:
                    self.registry.lock.wait(HEARTBEAT)
            rows = self.commits(after, context)
            if not rows:
                yield protos.StoredCommit()
            for after, message in rows:
                yield protos.StoredCommit.FromString(message)

    def commits(self, after, context):
        """The next commits after a revision."""
        with self.registry.lock:
            oldest = self.registry.oldest()
            if not oldest <= after <= self.registry.revision:
                context.set_trailing_metadata((("waypost-revision", str(oldest)),))
                context.abort(grpc.StatusCode.OUT_OF_RANGE, f"revision {after} is not remembered")
            return self.registry.database.execute(
                "SELECT revision, message FROM commits WHERE revision > ? ORDER BY revision LIMIT ?",
                (after, PART)).fetchall()

    def Commit(self, request, context):
        if request.mutation.WhichOneof("change") is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the mutation says nothing")
        with self.registry.lock:
            # Whoever asked has given up: it must not be made behind their back.
            if not context.is_active():
                context.abort(grpc.StatusCode.CANCELLED, "it came too late")
            try:
                return protos.CommitStoreResponse(revision=self.registry.commit(request.mutation))
            except Conflict as entry:
                context.set_trailing_metadata((("waypost-revision", str(self.registry.revision)),))
                context.abort(grpc.StatusCode.ABORTED, str(entry))
            except sqlite3.Error as error:
                context.abort(grpc.StatusCode.UNAVAILABLE, f"SQLite: {error}; look at the disk of the plugin")

    def Renew(self, request, context):
        answer = protos.RenewStoreResponse()
        with self.registry.lock:
            for beat in request.leases:
                lease = self.registry.leases.get(key_of(beat.key))
                # Epochs only grow: a newer one than the lease's was lost, and its instance registers again.
                if lease is None or lease.epoch < beat.epoch:
                    answer.outcomes.append(registry_protos.BEAT_OUTCOME_UNKNOWN)
                elif lease.epoch != beat.epoch:
                    answer.outcomes.append(registry_protos.BEAT_OUTCOME_STALE)
                else:
                    deadline = time.monotonic() + lease.ttl
                    self.registry.leases[key_of(beat.key)] = lease._replace(deadline=deadline)
                    answer.outcomes.append(registry_protos.BEAT_OUTCOME_RENEWED)
        return answer

    def Lapsed(self, request, context):
        answer, waits = protos.LapsedStoreResponse(), []
        with self.registry.lock:
            now = time.monotonic()
            for key, lease in self.registry.leases.items():
                if lease.deadline <= now:
                    answer.leases.add(key=instance_key(key), epoch=lease.epoch)
                else:
                    waits.append(lease.deadline - now)
        if waits:
            answer.next.FromNanoseconds(int(min(waits) * 1e9))
        return answer

    def Leases(self, request, context):
        answer, service = protos.LeasesStoreResponse(), (request.service.namespace, request.service.name)
        with self.registry.lock:
            now = time.monotonic()
            for key, lease in self.registry.leases.items():
                if key[:2] == service:
                    status = answer.leases.add(key=instance_key(key), epoch=lease.epoch)
                    status.ttl.FromNanoseconds(int(lease.ttl * 1e9))
                    status.remaining.FromNanoseconds(int(max(lease.deadline - now, 0) * 1e9))
        return answer


class Guard(grpc.ServerInterceptor):
    """Lets only those in who have the token."""

    def __init__(self, token):
        self.expected = ("authorization", f"Bearer {token}")

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None or self.expected in details.invocation_metadata:
            return handler

        def refuse(request, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or another one")

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(refuse, handler.request_deserializer)
        return grpc.unary_unary_rpc_method_handler(refuse, handler.request_deserializer)


def instance_key(key):
    namespace, service, id = key
    return types_protos.InstanceKey(namespace=namespace, service=service, id=id)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", default="127.0.0.1:7430", metavar="IP:PORT", help="where to listen")
    parser.add_argument("--data", default="registry.sqlite", metavar="FILE", help="where the registry is kept")
    parser.add_argument("--remember", default=4096, type=int, metavar="COUNT", help="commits that a watch can go back")
    parser.add_argument("--token-file", metavar="FILE", type=pathlib.Path, help="what clients must know")
    parser.add_argument("--tls-cert", metavar="FILE", type=pathlib.Path, help="this server's certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", type=pathlib.Path, help="the key of that certificate (PEM)")
    parser.add_argument("--proto", metavar="DIR", default=str(REPOSITORY / "proto"), help="the contract's folder")
    return parser.parse_args()


def main(args):
    guards = [Guard(args.token_file.read_text().strip())] if args.token_file else []
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), interceptors=guards)
    stopping = threading.Event()
    services.add_StorePluginServicer_to_server(Plugin(Registry(args.data, args.remember), stopping), server)
    if args.tls_cert:
        pair = (args.tls_key.read_bytes(), args.tls_cert.read_bytes())
        server.add_secure_port(args.listen, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(args.listen)
    server.start()
    print(f"listening on {args.listen}, keeping the registry in {args.data}", flush=True)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    stopping.wait()
    server.stop(grace=1).wait()


if __name__ == "__main__":
    ARGS = arguments()
    sys.path.insert(0, ARGS.proto)
    protos, services = grpc.protos_and_services("waypost/v1/store.proto")
    types_protos = grpc.protos("waypost/v1/types.proto")
    registry_protos = grpc.protos("waypost/v1/registry.proto")
    main(ARGS)
