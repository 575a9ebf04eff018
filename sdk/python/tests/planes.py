"""Control planes that do what no real one can be asked for: refuse everything, answer oddly, or never."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator

NOBODY = "http://127.0.0.1:9"
# What it answers to a method and a path: a status and a document.
Answers = Callable[[str, str], tuple[int, object]]

AWAY = {"code": "unavailable", "detail": "this control plane is about to stop; try again at another one"}


@contextlib.contextmanager
def plane(answers: Answers) -> Iterator[str]:
    """A control plane that answers so; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, document = answers(self.command, self.path)
            content = json.dumps(document).encode() + b"\n"
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 (the names are the library's)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def frozen() -> Iterator[str]:
    """A control plane that accepts connections, as far as the kernel does, and never answers; its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def away(_method: str, _path: str) -> tuple[int, object]:
    """It cannot do anything just now."""
    return 503, AWAY


def empty(_method: str, _path: str) -> tuple[int, object]:
    """It is well, and knows of nothing."""
    return 200, {}
