"""Servers on real sockets that are fakes, for tests of the client library."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

Script = Callable[[WebSocketConnection], Awaitable[None]]
USAGE = {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3}


@asynccontextmanager
async def fake_server(
    handler: Callable[[WebSocketRequest], Awaitable[None]],
) -> AsyncGenerator[str, None]:
    """Serve `handler` on a free port and give the URL."""
    # Ends with the body, which cancels the server.
    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, handler, "127.0.0.1", 0, ssl_context=None)
        server = await nursery.start(serve)
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


class FakeRefusingServer:
    """Refuses every upgrade with one HTTP answer."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]

    async def __call__(self, request: WebSocketRequest) -> None:
        await request.reject(self.status, extra_headers=list(self.headers), body=self.body)


class FakeScriptedServer:
    """Greets as the daemon does, then plays a script; keeps what it was sent."""

    def __init__(self, script: Script | None = None, greeting: str | None = None) -> None:
        self.script = script
        self.greeting = greeting or '{"type":"session.created","id":"sess-1","created":1}'
        self.received: list[dict[str, Any]] = []
        self.requests: list[WebSocketRequest] = []

    async def __call__(self, request: WebSocketRequest) -> None:
        self.requests.append(request)
        ws = await request.accept()
        await ws.send_message(self.greeting)
        # Ends when the client has closed, which is what ends `_keep`.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, ws)
            if self.script is not None:
                await self.script(ws)

    async def _keep(self, ws: WebSocketConnection) -> None:
        try:
            while True:
                self.received.append(json.loads(await ws.get_message()))
        except ConnectionClosed:
            pass

    async def heard(self, kind: str, **fields: Any) -> None:
        """Wait until the client has sent such an event."""
        while not any({"type": kind, **fields}.items() <= e.items() for e in self.received):
            await trio.sleep(0.005)


class FakeRecogniser(FakeScriptedServer):
    """Answers each final with a delta and a done that tell how many samples it was sent."""

    async def __call__(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message(self.greeting)
        size = 0
        try:
            while True:
                event = json.loads(await ws.get_message())
                self.received.append(event)
                if event["type"] == "input_audio_buffer.append":
                    size += len(event["audio"]) * 3 // 4 - event["audio"].count("=")
                elif event.get("final"):
                    text = f" {size // 2}"
                    await send(ws, type="transcription.delta", delta="")
                    await send(ws, type="transcription.delta", delta=text)
                    await send(ws, type="transcription.done", text=text, usage=USAGE)
                    size = 0
        except ConnectionClosed:
            pass


async def send(ws: WebSocketConnection, **event: Any) -> None:
    await ws.send_message(json.dumps(event))
