"""Clients that behave like vLLM's two examples, and one made after them, on the same library."""

import asyncio
import base64
import json
from typing import Any

import numpy as np
import websockets
from daemon_process import DaemonProcess
from speech import load_sample, manifest

SPEECH = load_sample("digits")
QUIET = np.zeros(8_000, np.int16)


def file_client(url: str, *, model: str) -> dict[str, Any]:
    """Sends a whole file without reading, then reads until `done` or `error`."""

    async def run() -> dict[str, Any]:
        async with websockets.connect(f"{url}/v1/realtime") as socket:
            created = json.loads(await socket.recv())
            assert created["type"] == "session.created"
            assert created["id"].startswith("sess-")
            await socket.send(json.dumps({"type": "session.update", "model": model}))
            await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
            data = SPEECH.tobytes()
            for start in range(0, len(data), 4_096):
                audio = base64.b64encode(data[start : start + 4_096]).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await socket.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
            while True:
                event: dict[str, Any] = json.loads(await socket.recv())
                if event["type"] != "transcription.delta":
                    return event

    return asyncio.run(asyncio.wait_for(run(), 60))


def microphone_client(url: str) -> str:
    """Drops the first message unread, never ends the utterance, reads only deltas."""
    words = len(manifest()["digits"].words)

    async def run() -> str:
        text = ""
        async with websockets.connect(f"{url}/v1/realtime") as socket:
            await socket.recv()
            await socket.send(json.dumps({"type": "session.update", "model": "realtimed-demo"}))
            await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
            silence = np.zeros(32_000, np.int16)
            data = np.concatenate([SPEECH, silence]).tobytes()
            for start in range(0, len(data), 16_000):
                audio = base64.b64encode(data[start : start + 16_000]).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            async for message in socket:
                event = json.loads(message)
                if event.get("type") == "transcription.delta":
                    text += event["delta"]
                if len(text.split()) == words:
                    return text
        return text

    return asyncio.run(asyncio.wait_for(run(), 60))


def agents_client(url: str, names: tuple[str, ...]) -> list[str]:
    """An agent's: names the model in the URL, too, and goes on sending audio whatever happens.

    It ends an utterance when its own detection of speech says so, and begins the next one only when
    it has been told that the last is done.
    """

    async def run() -> list[str]:
        texts: list[str] = []
        async with websockets.connect(f"{url}/v1/realtime?model=realtimed-demo") as socket:

            async def say(kind: str, **fields: Any) -> None:
                await socket.send(json.dumps({"type": kind, **fields}))

            async def speak() -> None:
                for name in names:
                    told = len(texts)
                    data = np.concatenate([load_sample(name), QUIET]).tobytes()
                    for start in range(0, len(data), 640):
                        audio = base64.b64encode(data[start : start + 640]).decode()
                        await say("input_audio_buffer.append", audio=audio)
                    await say("input_audio_buffer.commit", final=True)
                    while len(texts) == told:
                        audio = base64.b64encode(bytes(640)).decode()
                        await say("input_audio_buffer.append", audio=audio)
                        await asyncio.sleep(0.02)

            assert json.loads(await socket.recv())["type"] == "session.created"
            await say("session.update", model="realtimed-demo")
            await say("input_audio_buffer.commit")
            speaking = asyncio.create_task(speak())
            async for message in socket:
                event = json.loads(message)
                assert event["type"] in ("transcription.delta", "transcription.done"), event
                if event["type"] == "transcription.done":
                    texts.append(event["text"].strip())
                    await say("input_audio_buffer.commit")
                if len(texts) == len(names):
                    break
            await speaking
        return texts

    return asyncio.run(asyncio.wait_for(run(), 60))


def test_an_agent_that_never_stops_sending_gets_each_utterance(daemon: DaemonProcess) -> None:
    names = ("digits", "callsign", "digits")
    assert agents_client(daemon.url, names) == [manifest()[name].text for name in names]


def test_the_file_client_gets_its_transcription(daemon: DaemonProcess) -> None:
    done = file_client(daemon.url, model="realtimed-demo")
    assert done["type"] == "transcription.done"
    assert done["text"].strip() == manifest()["digits"].text
    assert done["usage"]["audio_seconds"] > 6


def test_the_file_client_is_told_of_a_wrong_model(daemon: DaemonProcess) -> None:
    event = file_client(daemon.url, model="mistralai/Voxtral-Mini-4B-Realtime-2602")
    assert event["type"] == "error"
    assert event["code"] == "model_not_found"


def test_the_microphone_client_gets_its_words_without_ever_ending(daemon: DaemonProcess) -> None:
    assert microphone_client(daemon.url).strip() == manifest()["digits"].text
