"""A gRPC server and client of grpcio's, without generated code: messages are bytes.

`serve` prints its port and serves until it is killed; `check PROXY AUTHORITY` calls it through a proxy.
"""

import queue
import sys
import threading
from concurrent import futures

import grpc


# What calls for b"slow" have seen: how much time they had left, and whether they were told that nobody waits any more.
begun, ended = queue.Queue(), queue.Queue()


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("x-trailer", "told"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is not – ready")
    if request == b"slow":
        # Until the client has given up.
        gone = threading.Event()
        if not context.add_callback(gone.set):
            gone.set()
        begun.put(context.time_remaining())
        ended.put(gone.wait(timeout=30))
        return b""
    if request == b"begun":
        return repr(begun.get(timeout=15)).encode()
    if request == b"ended":
        return repr(ended.get(timeout=15)).encode()
    context.send_initial_metadata((("x-initial", "head"),))
    context.set_trailing_metadata((("x-trailer", "tail"), ("x-bytes-bin", b"\x00\xff")))
    return b"got " + request


def many(request, _context):
    for number in range(int(request)):
        yield b"%d" % number


def collect(requests, _context):
    return b",".join(requests)


def both(requests, _context):
    for request in requests:
        yield request.upper()


def serve():
    raw = {"request_deserializer": None, "response_serializer": None}
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary, **raw),
        "Many": grpc.unary_stream_rpc_method_handler(many, **raw),
        "Collect": grpc.stream_unary_rpc_method_handler(collect, **raw),
        "Both": grpc.stream_stream_rpc_method_handler(both, **raw),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def fails(code, call):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError("it does not fail")


def check(proxy, authority):
    channel = grpc.insecure_channel(proxy, options=(("grpc.default_authority", authority),))
    call = channel.unary_unary("/test.Calls/Unary")
    answer, state = call.with_call(b"one", timeout=20)
    assert answer == b"got one", answer
    assert ("x-initial", "head") in state.initial_metadata(), state.initial_metadata()
    trailing = state.trailing_metadata()
    assert ("x-trailer", "tail") in trailing and ("x-bytes-bin", b"\x00\xff") in trailing, trailing

    large = b"x" * 3_000_000
    assert call(large, timeout=20) == b"got " + large

    got = list(channel.unary_stream("/test.Calls/Many")(b"500", timeout=20))
    assert got == [b"%d" % number for number in range(500)], got

    parts = [b"a", b"b", b"c" * 100_000]
    assert channel.stream_unary("/test.Calls/Collect")(iter(parts), timeout=20) == b",".join(parts)

    # Each answer is awaited before the next question is asked.
    questions = queue.Queue()
    answers = channel.stream_stream("/test.Calls/Both")(iter(questions.get, None), timeout=20)
    for word in (b"a", b"b", b"c"):
        questions.put(word)
        assert next(answers) == word.upper()
    questions.put(None)
    assert list(answers) == []

    error = fails(grpc.StatusCode.FAILED_PRECONDITION, lambda: call(b"fail", timeout=20))
    assert error.details() == "it is not – ready", error.details()
    assert ("x-trailer", "told") in error.trailing_metadata(), error.trailing_metadata()

    # The server is told of the deadline, which grpcio rounds up.
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: call(b"slow", timeout=2))
    left = float(call(b"begun", timeout=20))
    assert 0 < left < 4, left
    assert call(b"ended", timeout=20) == b"True"

    # And of a client that goes away long before it.
    pending = call.future(b"slow", timeout=60)
    left = float(call(b"begun", timeout=20))
    assert 4 < left < 64, left
    pending.cancel()
    assert call(b"ended", timeout=20) == b"True"

    # Nobody takes this one: the proxy's own answer.
    fails(grpc.StatusCode.UNIMPLEMENTED, lambda: channel.unary_unary("/test.Other/Unary")(b"", timeout=20))


if sys.argv[1] == "serve":
    serve()
else:
    check(*sys.argv[2:])
    print("ok")
