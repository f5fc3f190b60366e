"""Clients that do on the wire what LiveKit Agents 1.8.9 and pipecat 1.14 do.

Each connects with the same library and headers, sends the same messages in the same order, and
reacts to the server's events as the framework does: above all, an `error` is its end. They differ
from the frameworks in two things only: they do not wait between chunks, and where a framework's
own speech detection would say that somebody stopped, they know it from where the sample ends. Both
of Mistral's go through its SDK, as they do in the frameworks (which have its version 2; the part
for real-time audio is the same). `make test-agents` runs the frameworks themselves.
"""

import asyncio
import base64
import json
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import aiohttp
import numpy as np
import pytest
import soxr
import websockets
from daemon_process import DaemonProcess
from speech import SAMPLE_RATE, Pcm16, load_sample, manifest

mistralai = pytest.importorskip("mistralai.client", reason="the mistralai SDK is not installed")

ANSWER_S = 60.0
COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"
NAMES = ("digits", "callsign")


def quiet(seconds: float) -> Pcm16:
    draw = np.random.Generator(np.random.PCG64(1))
    return (20 * draw.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.int16)


def spoken(name: str) -> Pcm16:
    """A sample in the quiet that the frameworks' own detection needs around it."""
    return np.concatenate((quiet(0.3), load_sample(name), quiet(0.5)))


def text(*names: str) -> str:
    return " ".join(manifest()[name].text for name in names)


def pieces(audio: Pcm16, rate: int, ms: int) -> list[bytes]:
    if rate != SAMPLE_RATE:
        audio = np.asarray(soxr.resample(audio, SAMPLE_RATE, rate), np.int16)
    size = rate * ms // 1_000
    return [audio[at : at + size].tobytes() for at in range(0, len(audio), size)]


def append(audio: bytes) -> dict[str, str]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}


def run(talk: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(talk, ANSWER_S))


# --- LiveKit on OpenAI's dialect ----------------------------------------------------------


class LiveKit:
    """One pooled socket of `livekit-plugins-openai`; a speech stream after another may use it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, model: str) -> None:
        self.socket = socket
        self.server_vad = not model.startswith(("gpt-realtime-whisper", "gpt-live-transcribe"))
        self._model = model
        self.kinds: list[str] = []
        self.finals: list[str] = []
        self.interim = ""

    async def configure(self) -> None:
        heard: dict[str, Any] = {
            "format": {"rate": 24_000, "type": "audio/pcm"},
            "transcription": {"model": self._model, "language": "en"},
        }
        if self.server_vad:
            heard["turn_detection"] = {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 600,
                "silence_duration_ms": 350,
            }
        session = {"type": "transcription", "audio": {"input": heard}}
        await self.socket.send_json({"type": "session.update", "session": session})

    async def speak(self, audio: Pcm16) -> None:
        for piece in pieces(audio, 24_000, 50):
            await self.socket.send_json(append(piece))

    async def commit(self) -> None:
        await self.socket.send_json({"type": "input_audio_buffer.commit"})

    async def until(self, kind: str, count: int = 1) -> None:
        """Read on until this many more events of a kind have come."""
        while count:
            message = await self.socket.receive()
            assert message.type is aiohttp.WSMsgType.TEXT, message
            event = json.loads(message.data)
            assert event["type"] != "error", event
            self.kinds.append(event["type"])
            if event["type"] == DELTA:
                self.interim += event["delta"]
            if event["type"] == COMPLETED:
                assert event["transcript"] == self.interim
                self.interim = ""
                assert event["usage"]["output_tokens"] >= 0
                self.finals += [event["transcript"]] if event["transcript"] else []
            count -= event["type"] == kind


async def livekit(daemon: DaemonProcess, model: str, talk: Any) -> None:
    url = f"{daemon.url}/v1/realtime?intent=transcription&model={model}"
    headers = {"User-Agent": "LiveKit Agents", "Authorization": "Bearer none"}
    async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers) as socket:
        await talk(LiveKit(socket, model))


def test_livekit_leaves_turns_to_the_server_and_uses_a_socket_again(
    daemon: DaemonProcess,
) -> None:
    async def talk(client: LiveKit) -> None:
        for number, name in enumerate(NAMES, 1):
            await client.configure()
            await client.speak(np.concatenate((spoken(name), quiet(1))))
            while len(" ".join(client.finals).split()) < len(text(*NAMES[:number]).split()):
                await client.until(COMPLETED)
        assert " ".join(client.finals) == text(*NAMES)
        turns = client.kinds.count("input_audio_buffer.speech_started")
        assert turns == client.kinds.count("input_audio_buffer.speech_stopped")
        assert turns == client.kinds.count(COMPLETED)
        assert client.kinds.count("session.updated") == 2

    run(livekit(daemon, "gpt-4o-mini-transcribe", talk))


def test_livekit_commits_by_its_own_detection_for_models_without(daemon: DaemonProcess) -> None:
    async def talk(client: LiveKit) -> None:
        await client.configure()
        for name in NAMES:
            await client.speak(spoken(name))
            await client.commit()
        # What its detection takes for a word that was none: as good as nothing, then nothing.
        await client.speak(quiet(0.05))
        await client.commit()
        await client.commit()
        await client.until(COMPLETED, 4)
        assert client.finals == [text(name) for name in NAMES]
        assert "input_audio_buffer.speech_started" not in client.kinds
        assert client.kinds.count("input_audio_buffer.committed") == 4

    run(livekit(daemon, "gpt-realtime-whisper", talk))


# --- pipecat on OpenAI's dialect ----------------------------------------------------------


def test_pipecat_sends_audio_before_it_has_said_how_to_read_it(daemon: DaemonProcess) -> None:
    async def talk() -> None:
        async with websockets.connect(
            f"{daemon.url}/v1/realtime?intent=transcription",
            additional_headers={"Authorization": "Bearer none"},
        ) as socket:
            # Its pipeline is sending while its receiver waits for the greeting.
            early, late = pieces(spoken(NAMES[0]), 24_000, 20), pieces(spoken(NAMES[1]), 24_000, 20)
            for piece in early[:20]:
                await socket.send(json.dumps(append(piece)))
            assert json.loads(await socket.recv())["type"] == "session.created"
            heard = {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "gpt-realtime-whisper", "language": "en"},
                "turn_detection": None,
            }
            session = {"type": "transcription", "audio": {"input": heard}}
            await socket.send(json.dumps({"type": "session.update", "session": session}))
            for audio in (early[20:], late):
                for piece in audio:
                    await socket.send(json.dumps(append(piece)))
                await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
            finals: list[str] = []
            deltas = ""
            while len(finals) < 2:
                event = json.loads(await socket.recv())
                assert event["type"] != "error", event
                deltas += event["delta"] if event["type"] == DELTA else ""
                finals += [event["transcript"]] if event["type"] == COMPLETED else []
            assert finals == [text(name) for name in NAMES]
            assert deltas == "".join(finals)

    run(talk())


# --- both on Mistral's --------------------------------------------------------------------


async def mistral(daemon: DaemonProcess, **options: Any) -> Any:
    """A connection with the headers that LiveKit takes over from httpx."""
    from mistralai.extra.realtime import RealtimeTranscription

    client = mistralai.Mistral(api_key="none", server_url=f"http://127.0.0.1:{daemon.port}")
    headers = dict(client.sdk_configuration.async_client.headers)
    connection = await RealtimeTranscription(client.sdk_configuration).connect(
        model="voxtral-mini-transcribe-realtime-2602", http_headers=headers, **options
    )
    sent = connection._websocket.request.headers.get_all("Connection")
    assert sent == ["Upgrade", "keep-alive"]
    return connection


def test_livekit_flushes_per_utterance_and_reads_until_the_server_closes(
    daemon: DaemonProcess,
) -> None:
    async def talk() -> None:
        connection = await mistral(daemon)
        finals: list[str] = []
        interim = ""

        async def speak() -> None:
            for name in NAMES:
                for piece in pieces(spoken(name), SAMPLE_RATE, 50):
                    await connection.send_audio(piece)
                await connection.flush_audio()
            # The end of the input: a flush of its own, then the end.
            await connection.flush_audio()
            await connection.end_audio()

        speaking = asyncio.create_task(speak())
        async for event in connection.events():
            kind = type(event).__name__
            assert kind not in ("RealtimeTranscriptionError", "UnknownRealtimeEvent"), event
            interim += event.text if kind == "TranscriptionStreamTextDelta" else ""
            if kind == "TranscriptionStreamDone":
                assert event.text == interim
                assert isinstance(event.usage.prompt_audio_seconds, int)
                assert not event.segments
                finals.append(event.text)
                interim = ""
        await speaking
        assert [final for final in finals if final] == [text(name) for name in NAMES]
        assert connection._websocket.close_code == 1_000

    run(talk())


def test_pipecat_flushes_when_somebody_stops_and_then_just_leaves(daemon: DaemonProcess) -> None:
    async def talk() -> None:
        audio_format = mistralai.models.AudioFormat(encoding="pcm_s16le", sample_rate=SAMPLE_RATE)
        connection = await mistral(daemon, audio_format=audio_format)
        for name in NAMES:
            for piece in pieces(spoken(name), SAMPLE_RATE, 20):
                await connection.send_audio(piece)
            await connection.flush_audio()
            async for event in connection.events():
                kind = type(event).__name__
                assert kind not in ("RealtimeTranscriptionError", "UnknownRealtimeEvent"), event
                if kind == "TranscriptionStreamDone":
                    assert event.text == text(name)
                    break
        with suppress(websockets.ConnectionClosed):
            await connection.close()

    run(talk())
