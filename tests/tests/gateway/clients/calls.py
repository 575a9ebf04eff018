"""A gRPC server and client of grpcio's, without generated code: messages are bytes.

`serve` prints its port and serves until it is killed; `check PROXY AUTHORITY` calls it through a proxy.
"""

import queue
import sys
from concurrent import futures

import grpc


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("x-trailer", "told"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is not – ready")
    if request == b"slow":
        # Until the client has given up.
        gone = futures.Future()
        context.add_callback(lambda: gone.set_result(None))
        gone.result(timeout=30)
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

    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: call(b"slow", timeout=0.3))

    # Nobody takes this one: the proxy's own answer.
    fails(grpc.StatusCode.UNIMPLEMENTED, lambda: channel.unary_unary("/test.Other/Unary")(b"", timeout=20))


if sys.argv[1] == "serve":
    serve()
else:
    check(*sys.argv[2:])
    print("ok")
