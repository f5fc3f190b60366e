"""The attacker's end of a connection: TCP, TLS and WebSocket frames, and nothing polite."""

import json
import os
import re
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

HOST = "127.0.0.1"
MASK = bytes(4)
"""A masking key of zeros is a valid one, and masks for free."""
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_LAST_WORDS_S = 0.5
"""For what the daemon still says when an attack is over."""
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass
class Target:
    """The daemon, and what its peers have seen of it."""

    port: int
    ca: Path
    key: str
    until: float
    """Trio's time at which the attack ends."""
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def going_on(self) -> bool:
        return trio.current_time() < self.until

    async def tcp(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(HOST, self.port)

    async def tls(self) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context(cafile=self.ca)
        stream = trio.SSLStream(
            await self.tcp(), context, server_hostname="localhost", https_compatible=True
        )
        await stream.do_handshake()
        return stream

    def head(self, *lines: str, key: str | None = None) -> bytes:
        """An upgrade request with more header lines, without the empty line that ends it."""
        bearer = [f"Authorization: Bearer {self.key if key is None else key}"]
        upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        upgrade += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        request = ["GET /v1/realtime HTTP/1.1", "Host: localhost", *bearer, *upgrade, *lines]
        return "".join(f"{line}\r\n" for line in request).encode("latin-1")

    async def answered(self, request: bytes) -> str:
        """The status that a request gets on a connection of its own, or `closed`."""
        stream, answer = await self.tls(), b""
        with trio.move_on_after(5), suppress(*GONE):
            with suppress(*GONE):
                await stream.send_all(request)
            while b"\r\n\r\n" not in answer and (more := await stream.receive_some()):
                answer += more
        await trio.aclose_forcefully(stream)
        found = re.match(rb"HTTP/1.1 (\d+)", answer)
        return found[1].decode() if found else "closed"

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[trio.SSLStream[trio.SocketStream], None]:
        """A connection whose upgrade has been accepted."""
        stream = await self.tls()
        try:
            await stream.send_all(self.head() + b"\r\n")
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 101"), answer[:200]
            yield stream
        finally:
            await trio.aclose_forcefully(stream)

    async def flood(
        self, stream: trio.abc.Stream, frames: bytes, count: int, *, reading: bool = True
    ) -> None:
        """Send `frames`, which are `count`, again and again until the end or the close.

        `reading`: take what the daemon says meanwhile.
        """
        # Ends when all has been sent, or the daemon has closed.
        async with trio.open_nursery() as nursery:
            if reading:
                nursery.start_soon(self._listen, stream, nursery.cancel_scope)
            with trio.move_on_at(self.until), suppress(*GONE):
                while True:
                    await stream.send_all(frames)
                    self.seen["sent"] += count
            if not reading:
                return
            with trio.move_on_after(_LAST_WORDS_S):
                await trio.sleep_forever()
            self.seen["open"] += 1
            nursery.cancel_scope.cancel()

    async def _listen(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        self.note(await received(stream, on_more=self.note_events))
        scope.cancel()

    def note(self, data: bytes) -> None:
        """Count the close code at the end of what was received.

        To stop sending in the middle of a frame breaks the connection, which is no close.
        """
        code = close_code(data)
        without = "closed" if self.going_on else "open"
        self.seen[without if code is None else str(code)] += 1

    def note_events(self, data: bytes) -> None:
        """Count the errors told; those cut in two by a read are not."""
        for code in re.findall(rb'"code":"([a-z0-9_]+)"', data):
            self.seen[code.decode()] += 1

    async def many(self, count: int, one: Callable[[], Awaitable[None]]) -> None:
        """Run `count` of them at once, to the end of the attack at most."""
        with trio.move_on_at(self.until + 1):
            async with trio.open_nursery() as nursery:  # ends when each of them has
                for _ in range(count):
                    nursery.start_soon(one)

    async def watch(self, stream: trio.abc.Stream) -> None:
        """Wait for the close of a connection, and count it; `open` at the end of the attack."""
        with trio.move_on_at(self.until):
            data = await received(stream)
            found = re.match(rb"HTTP/1.1 (\d+)", data)
            self.seen[found[1].decode() if found else "closed"] += 1
            return
        self.seen["open"] += 1


async def received(
    stream: trio.abc.ReceiveStream, on_more: Callable[[bytes], None] = lambda data: None
) -> bytes:
    """What comes until the connection is closed or lost; the last 4 KiB of it."""
    data = b""
    with suppress(*GONE):
        while more := await stream.receive_some():
            on_more(bytes(more))
            data = (data + more)[-4096:]
    return data


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, length: int | None = None
) -> bytes:
    """A masked frame; `length` is what it claims, if that is not true."""
    size = len(payload) if length is None else length
    if size < 126:
        header = bytes([0x80 | size])
    elif size < 65_536:
        header = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return bytes([opcode | 0x80 * fin]) + header + MASK + payload


def event(**fields: Any) -> bytes:
    """A text frame with a JSON object."""
    return frame(TEXT, json.dumps(fields).encode())


def close_code(data: bytes) -> int | None:
    """The code of the close frame that ends `data`, if one does."""
    for at in range(max(0, len(data) - 127), len(data) - 3):
        if data[at] == 0x88 and data[at + 1] == len(data) - at - 2:
            return int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def be_modest() -> None:
    """An attacker's processor is not the daemon's: on this machine it takes what is left."""
    os.nice(15)
