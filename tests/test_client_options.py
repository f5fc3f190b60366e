"""What a client asks for in `session.update`, and what it is told then; the servers are fakes."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
import trio
from fake_servers import USAGE, FakeScriptedServer, fake_server, send
from trio_websocket import WebSocketConnection

from realtimed.client import Guidance, OptionRefused, connect
from realtimed.wire.events import (
    ErrorOccurred,
    ServerVad,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Usage,
    UtteranceDone,
    Warned,
    Word,
)

pytestmark = pytest.mark.trio
CHUNK = np.zeros(1_280, np.float32)


@pytest.fixture(autouse=True)
async def _deadline() -> AsyncIterator[None]:
    # A client that waits for ever must fail a test, not hang the run.
    with trio.fail_after(30):
        yield


async def test_connect_without_options_sends_none() -> None:
    server = FakeScriptedServer()
    async with fake_server(server) as url, connect(url):
        await server.heard("session.update")
    assert server.received == [{"type": "session.update", "model": ""}]


async def test_connect_asks_for_what_it_was_told_to() -> None:
    server = FakeScriptedServer()
    async with fake_server(server) as url:
        async with connect(url, turn_detection=ServerVad(0.6), include={"words", "warnings"}):
            await server.heard("session.update")
    [update] = server.received
    assert update["include"] == ["warnings", "words"]
    assert update["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.6,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
    }


async def test_connect_tells_what_it_knows_of_the_speech() -> None:
    server = FakeScriptedServer()
    guidance = Guidance("fr", prompt="Ada", hotwords=("Grace",), temperature=0.2)
    async with fake_server(server) as url, connect(url, guidance=guidance):
        await server.heard("session.update")
    [update] = server.received
    assert update == {
        "type": "session.update",
        "model": "",
        "language": "fr",
        "prompt": "Ada",
        "hotwords": ["Grace"],
        "temperature": 0.2,
    }


async def turns(ws: WebSocketConnection) -> None:
    """Two turns of speaking; the second begins before the text of the first is there."""
    await send(ws, type="warning", warning="All engine slots are busy.", code="queued")
    await send(ws, type="input_audio_buffer.speech_started", audio_start_ms=1_024)
    await send(ws, type="transcription.delta", delta=" one", start=1.04, end=1.28)
    await send(ws, type="input_audio_buffer.speech_stopped", audio_end_ms=1_504)
    await send(ws, type="input_audio_buffer.speech_started", audio_start_ms=2_048)
    word = {"word": "one", "start": 1.04, "end": 1.28}
    await send(ws, type="transcription.done", text=" one", usage=USAGE, words=[word])
    await send(ws, type="transcription.delta", delta=" two")
    await ws.aclose(1000)


async def test_events_gives_speech_times_words_and_warnings() -> None:
    async with fake_server(FakeScriptedServer(turns)) as url:
        async with connect(url, turn_detection=ServerVad()) as session:
            events = [event async for event in session.events()]
    assert events == [
        Warned("queued", "All engine slots are busy."),
        SpeechStarted(0, 1.024),
        TextDelta(0, " one", 1.04, 1.28),
        SpeechStopped(0, 1.504),
        SpeechStarted(1, 2.048),
        UtteranceDone(0, " one", Usage(2, 3, 0.0), (Word("one", 1.04, 1.28),)),
        TextDelta(1, " two"),
    ]


async def test_transcribe_gives_text_and_keeps_the_warnings() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await server.heard("input_audio_buffer.commit", final=True)
        await send(ws, type="warning", warning="All engine slots are busy.", code="queued")
        await send(ws, type="transcription.done", text="", usage=USAGE)

    server = FakeScriptedServer(script)
    async with fake_server(server) as url, connect(url, include={"warnings"}) as session:
        async with session.transcribe([CHUNK]) as utterance:
            events = [event async for event in utterance]
    assert [type(event) for event in events] == [UtteranceDone]
    assert utterance.warnings == [Warned("queued", "All engine slots are busy.")]


async def test_transcribe_is_not_for_sessions_with_turn_detection() -> None:
    async with fake_server(FakeScriptedServer()) as url:
        async with connect(url, turn_detection=ServerVad()) as session:
            with pytest.raises(ValueError, match=r"read `events\(\)`"):
                async with session.transcribe([CHUNK]):
                    pass


async def test_an_option_that_is_not_served_is_told_by_the_first_utterance() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="error", error="Unsupported option.", code="unsupported_option")

    async with fake_server(FakeScriptedServer(script)) as url:
        async with connect(url, include={"logprobs"}) as session:
            with pytest.raises(OptionRefused) as caught:
                async with session.transcribe([CHUNK]) as utterance:
                    await anext(utterance)
    assert caught.value.code == "unsupported_option"


@pytest.mark.parametrize("code", ["engine_error", "engine_busy"])
async def test_an_utterance_that_fails_has_a_number_as_well(code: str) -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="input_audio_buffer.speech_started", audio_start_ms=0)
        await send(ws, type="error", error="Failed.", code=code)
        await send(ws, type="input_audio_buffer.speech_stopped", audio_end_ms=500)
        await send(ws, type="input_audio_buffer.speech_started", audio_start_ms=1_000)
        await send(ws, type="transcription.delta", delta="a")
        await ws.aclose(1000)

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        events = [event async for event in session.events()]
    assert events == [
        SpeechStarted(0, 0.0),
        ErrorOccurred(code, "Failed."),
        SpeechStopped(0, 0.5),
        SpeechStarted(1, 1.0),
        TextDelta(1, "a"),
    ]
