"""The Autobahn protocol cases, through the daemon's own listener, against an echo."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import kosoku
import trio

from realtimed.config import Limits
from realtimed.server.listener import Server, State
from realtimed.server.websocket import SocketClosed, WebSocket
from realtimed.wire.codec import Codec, Opening

CASES = 247


class EchoServer(Server):
    """The real listener and handshake with an echo where a session would be."""

    async def converse(self, socket: WebSocket, codec: Codec, opening: Opening) -> None:
        with suppress(SocketClosed):
            while True:
                await socket.send(await socket.receive())


def run_cases(url: str) -> list[Any]:
    """Every case but those on compression, which is never negotiated here."""

    async def run() -> list[Any]:
        results = kosoku.run_fuzzingclient(url, exclude_cases=["12.*", "13.*"])
        if asyncio.iscoroutine(results):
            results = await results
        return list(cast("list[Any]", results))

    return asyncio.run(run())


async def test_every_protocol_case_passes() -> None:
    server = EchoServer(Limits(), max_sessions=4, state=State.READY)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:  # ends by the cancel below
        await nursery.start(server.serve, listeners)
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        # Raises with the failed cases, if there are any.
        results = await trio.to_thread.run_sync(run_cases, url)
        nursery.cancel_scope.cancel()
    assert len(results) >= CASES
