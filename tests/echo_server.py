"""The daemon's own listener, access policy and TLS, with an echo where a session would be."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from realtimed.config import Limits, Settings
from realtimed.server.access import AccessPolicy, Identity
from realtimed.server.listener import Server, State
from realtimed.server.tls import server_tls
from realtimed.server.websocket import SocketClosed, WebSocket
from realtimed.wire.codec import Codec, Opening

UPGRADE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@dataclass(slots=True)
class EchoServer(Server):
    """Sends back what it gets; the identities of those it talked to are in `served`."""

    served: list[Identity] = field(default_factory=list)

    async def converse(
        self, socket: WebSocket, codec: Codec, opening: Opening, identity: Identity
    ) -> None:
        self.served.append(identity)
        with suppress(SocketClosed):
            while True:
                await socket.send(await socket.receive())


@dataclass(frozen=True)
class Served:
    """A server that listens, and where."""

    server: EchoServer
    port: int

    @property
    def url(self) -> str:
        return f"{'ws' if self.server.tls is None else 'wss'}://localhost:{self.port}/v1/realtime"


@asynccontextmanager
async def echo_server(
    limits: Limits | None = None, *, state: State = State.READY, **settings: Any
) -> AsyncGenerator[Served, None]:
    """Serve on a free port of 127.0.0.1 with these settings."""
    all_settings = Settings(limits=limits or Limits(), **settings)
    server = EchoServer(
        all_settings.limits,
        max_sessions=8,
        access=AccessPolicy(all_settings),
        tls=server_tls(all_settings),
        state=state,
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    # Ends with the body, which cancels the server.
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        yield Served(server, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def ask(
    stream: trio.abc.Stream, *headers: str, target: str = "/v1/realtime"
) -> tuple[int, bytes]:
    """Send an upgrade with these headers; the status and all of the answer's head and body."""
    lines = "".join(f"{header}\r\n" for header in headers).encode()
    await stream.send_all(UPGRADE.replace(b"/v1/realtime", target.encode()) + lines + b"\r\n")
    answer = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in answer or not (
            answer.startswith(b"HTTP/1.1 101") or answer.endswith(b"\n")
        ):
            more = await stream.receive_some()
            if not more:
                break
            answer += more
    return int(answer.split(b" ", 2)[1]), answer
