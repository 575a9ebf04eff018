"""A WebSocket server and client of the `websockets` library.

`serve` prints its port and echoes until it is killed; `check HOST PORT URL` talks through a proxy.
"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        if message == "bye":
            await socket.close(4001, "as you wish")
            return
        await socket.send(message)


async def run():
    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def check(host, port, url):
    async with connect(url, host=host, port=int(port), max_size=None) as socket:
        # Text, bytes, what is empty, and what takes many frames of TCP; compressed, as the library offers it.
        for message in ("hello", "grüße", b"\x00\xff", "", b"z" * 1_000_000):
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), 20) == message
        # A message in fragments.
        await socket.send(part for part in ("one ", "two"))
        assert await asyncio.wait_for(socket.recv(), 20) == "one two"
        pong = await socket.ping()
        await asyncio.wait_for(pong, 20)
        await socket.send("bye")
        await asyncio.wait_for(socket.wait_closed(), 20)
        assert (socket.close_code, socket.close_reason) == (4001, "as you wish"), socket.close_code


if sys.argv[1] == "serve":
    asyncio.run(run())
else:
    asyncio.run(check(*sys.argv[2:]))
    print("ok")
