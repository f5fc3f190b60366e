"""A raw WebSocket client for the tests: JSON out, JSON in, every wait with a deadline."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from speech import SAMPLE_RATE, Pcm16, chunks
from trio_websocket import WebSocketConnection, open_websocket_url

DEADLINE_S = 60.0


class RawClient:
    """Speaks the vLLM dialect, or anything else it is told to send."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket

    async def send(self, **event: Any) -> None:
        await self.socket.send_message(json.dumps(event))

    async def send_raw(self, message: str | bytes) -> None:
        await self.socket.send_message(message)

    async def update(self, model: str = "realtimed-demo") -> None:
        await self.send(type="session.update", model=model)

    async def append(self, samples: Pcm16) -> None:
        audio = base64.b64encode(samples.tobytes()).decode()
        await self.send(type="input_audio_buffer.append", audio=audio)

    async def commit(self, *, final: bool = False) -> None:
        await self.send(type="input_audio_buffer.commit", final=final)

    async def speak(self, samples: Pcm16, *, chunk: int = 1_280, paced: bool = False) -> None:
        """Append all of it, as it would be spoken if `paced`."""
        began = trio.current_time()
        for number, piece in enumerate(chunks(samples, chunk)):
            await self.append(piece)
            if paced:
                await trio.sleep_until(began + (number + 1) * chunk / SAMPLE_RATE)

    async def receive(self, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        with trio.fail_after(timeout_s):
            event: dict[str, Any] = json.loads(await self.socket.get_message())
        return event

    async def until_terminal(self) -> list[dict[str, Any]]:
        """Events up to and including the next `done` or `error`."""
        events = []
        while True:
            events.append(await self.receive())
            if events[-1]["type"] in ("transcription.done", "error"):
                return events

    async def utterance(self, samples: Pcm16, *, paced: bool = False) -> dict[str, Any]:
        """One utterance by the book; its terminal event."""
        await self.commit()
        async with trio.open_nursery() as nursery:  # ends when all is spoken and answered
            nursery.start_soon(self._speak_and_end, samples, paced)
            events = await self.until_terminal()
        return events[-1]

    async def _speak_and_end(self, samples: Pcm16, paced: bool) -> None:
        await self.speak(samples, paced=paced)
        await self.commit(final=True)


@asynccontextmanager
async def raw_client(url: str, *, update: bool = True) -> AsyncIterator[RawClient]:
    """A connected client that has read `session.created` and, by default, chosen the model."""
    async with open_websocket_url(f"{url}/v1/realtime", max_message_size=2**26) as socket:
        client = RawClient(socket)
        created = await client.receive()
        assert created["type"] == "session.created", created
        if update:
            await client.update()
        yield client


async def live_utterance(
    url: str, samples: Pcm16, *, paced: bool, **update: Any
) -> tuple[dict[str, Any], list[str]]:
    """One utterance of a session with this `update`, heard while it is spoken.

    Its `transcription.done`, and the deltas that came before its commit. Unless `paced`, all of it
    is there before the utterance begins, so that no partial can come before the final.
    """
    async with raw_client(url, update=False) as client:
        await client.send(type="session.update", **update)
        if paced:
            await client.commit()
        deltas: list[str] = []
        early = 0

        async def speak() -> None:
            nonlocal early
            await client.speak(samples, chunk=1_280 if paced else len(samples), paced=paced)
            early = len(deltas)
            await client.commit(final=True)

        async with trio.open_nursery() as nursery:  # ends when all is spoken
            nursery.start_soon(speak)
            while (event := await client.receive())["type"] != "transcription.done":
                assert event["type"] == "transcription.delta", event
                deltas.append(event["delta"])
        assert "".join(deltas) == event["text"]
        return event, deltas[:early]
