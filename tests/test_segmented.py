"""Whisper base behind a real daemon: real speech, live, and held to vLLM's own transcription.

One daemon for all of it, and one run of vLLM's transcription endpoint to compare with. Both are
left out, visibly, where the model or the recordings are not there.
"""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import own_transcription
import pytest
import trio
import whisper
from daemon_process import DaemonProcess, engine_flags
from raw_client import live_utterance, raw_client
from speech import SAMPLE_RATE, Pcm16, edit_distance

pytestmark = [whisper.needs_whisper, whisper.needs_speech]

NAME = "whisper"
PAUSE = np.zeros(SAMPLE_RATE, np.int16)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What vLLM's transcription endpoint says, by recording."""
    paths = [path for kind in ("librivox", "cards") for path in whisper.clips(kind).values()]
    directory = tmp_path_factory.mktemp("own")
    with own_transcription.running(
        {NAME: whisper.MODEL}, whisper.ENGINE, whisper.ENVIRONMENT, paths, directory
    ) as transcription:
        return transcription.texts(NAME)


@pytest.fixture(scope="module")
def daemon(own: dict[str, str]) -> Iterator[DaemonProcess]:
    """Started when the other engine is gone: two would share the cores."""
    process = DaemonProcess(
        str(whisper.MODEL),
        *("--served-model-name", NAME, *engine_flags(whisper.ENGINE)),
        *("--limits.engine-hang-s", "60", "--limits.stall-s", "20"),
        environment=whisper.ENVIRONMENT,
    )
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0, process.log


async def transcribe(
    daemon: DaemonProcess, audio: Pcm16, *, paced: bool = False, **options: Any
) -> tuple[str, list[str]]:
    """One utterance; its text, and the deltas of it that came before it was committed."""
    done, early = await live_utterance(daemon.url, audio, paced=paced, model=NAME, **options)
    return done["text"], early


def test_the_log_says_how_the_model_is_served_and_why(daemon: DaemonProcess) -> None:
    assert re.search(
        "segmented: WhisperForConditionalGeneration transcribes whole clips", daemon.log
    )


async def test_a_whole_clip_gives_what_vllms_own_endpoint_gives(
    daemon: DaemonProcess, own: dict[str, str]
) -> None:
    for kind in ("librivox", "cards"):
        for name, path in whisper.clips(kind).items():
            text, _ = await transcribe(daemon, whisper.load(path))
            assert text == own[name], name


async def test_live_speech_is_recognised_as_well_as_whole_files(
    daemon: DaemonProcess, own: dict[str, str]
) -> None:
    """Word error rate within 1 % absolute; two read at once."""
    said = whisper.transcripts("librivox")
    recordings = list(whisper.clips("librivox").values())
    wrong = 0

    async def read(paths: list[Path]) -> None:
        nonlocal wrong
        audio = np.concatenate([whisper.load(path) for path in paths])
        text, _ = await transcribe(daemon, audio, paced=True)
        wrong += whisper.errors(text, " ".join(said[path.stem] for path in paths))

    async with trio.open_nursery() as nursery:  # ends when both have been transcribed
        nursery.start_soon(read, recordings[:2])
        nursery.start_soon(read, recordings[2:])
    spoken = len(whisper.words(" ".join(said.values())))
    assert (
        wrong <= sum(whisper.errors(own[name], text) for name, text in said.items()) + spoken / 100
    )


async def test_speech_is_written_in_the_language_that_it_is_spoken_in(
    daemon: DaemonProcess,
) -> None:
    """At most three of ten characters are wrong: in another language nearly all would be."""
    names = {
        "en": "quick_brown_fox",
        "es": "pangrama",
        "fr": "pangrama",
        "it": "pangrama",
        "pt": "pangrama",
        "zh": "nihao_shijie",
    }

    recordings = [whisper.foreign(language, name) for language, name in names.items()]

    async def one(audio: Pcm16, text: str) -> None:
        said, _ = await transcribe(daemon, audio)
        spoken, written = ("".join(whisper.words(one)) for one in (text, said))
        assert edit_distance(spoken, written) <= len(spoken) * 0.3, said

    async with trio.open_nursery() as nursery:  # ends when all are transcribed
        for audio, text in recordings:
            nursery.start_soon(one, audio, text)


async def test_nothing_is_said_of_silence_noise_and_a_hum(daemon: DaemonProcess) -> None:
    random, time = np.random.default_rng(1), np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    noise = (random.standard_normal(4 * SAMPLE_RATE) * 600).astype(np.int16)
    hum = (np.sin(2 * np.pi * 100 * time) * 3_000).astype(np.int16)
    for audio in (np.zeros(4 * SAMPLE_RATE, np.int16), noise, hum):
        assert await transcribe(daemon, audio) == ("", [])


async def test_a_prompt_sets_how_names_are_spelt(daemon: DaemonProcess) -> None:
    audio = whisper.load(whisper.clips("librivox")["sense_and_sensibility_01_austen_64kb-0870"])
    text, _ = await transcribe(daemon, audio, prompt="Mister Jon Dashwoode and", language="en")
    assert "Jon Dashwoode" in text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hotwords": ["Dashwood"]}, "hotwords"),
        ({"include": ["words"]}, "include `words`"),
        ({"language": "tlh"}, "language"),
        ({"diarize": True}, "diarize"),
    ],
)
async def test_what_the_model_does_not_take_is_refused_by_name(
    daemon: DaemonProcess, options: dict[str, Any], named: str
) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.send(type="session.update", model=NAME, **options)
        error = await client.receive()
        assert (error["type"], error["code"]) == ("error", "unsupported_option")
        assert named in error["error"]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"temperature": 3}, "temperature"), ({"prompt": 7}, "prompt"), ({"language": 1}, "language")],
)
async def test_an_option_of_the_wrong_kind_is_refused_by_name(
    daemon: DaemonProcess, options: dict[str, Any], named: str
) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.send(type="session.update", model=NAME, **options)
        error = await client.receive()
        assert (error["type"], error["code"]) == ("error", "invalid_event")
        assert named in error["error"]


async def test_a_client_that_vanishes_leaves_no_request_behind(daemon: DaemonProcess) -> None:
    audio = whisper.load(whisper.clips("librivox")["sense_and_sensibility_01_austen_64kb-0870"])
    async with raw_client(daemon.url, update=False) as client:
        await client.send(type="session.update", model=NAME)
        await client.commit()
        await client.speak(audio[: 2 * SAMPLE_RATE], paced=True)
    with trio.fail_after(20):
        while (counts := await daemon.counts()).requests or counts.sessions:
            await trio.sleep(0.1)


def test_openais_sdk_gets_turns_with_their_language(
    daemon: DaemonProcess, own: dict[str, str]
) -> None:
    openai = pytest.importorskip("openai", reason="the openai SDK is not installed")
    soxr = pytest.importorskip("soxr")
    names = [
        "sense_and_sensibility_01_austen_64kb-0880",
        "sense_and_sensibility_01_austen_64kb-0930",
    ]
    pieces = [
        piece for name in names for piece in (whisper.load(whisper.clips("librivox")[name]), PAUSE)
    ]
    audio = np.asarray(soxr.resample(np.concatenate(pieces), SAMPLE_RATE, 24_000), np.int16)

    async def talk() -> list[Any]:
        client = openai.AsyncOpenAI(
            api_key="none", websocket_base_url=f"{daemon.url}/v1", base_url="http://127.0.0.1:1/v1"
        )
        completed: list[Any] = []
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            for at in range(0, len(audio), 24_000):
                piece = base64.b64encode(audio[at : at + 24_000].tobytes()).decode()
                await connection.input_audio_buffer.append(audio=piece)
            async for event in connection:
                if event.type == "conversation.item.input_audio_transcription.completed":
                    completed.append(event)
                if len(completed) == len(names):
                    return completed
        return completed

    completed = asyncio.run(asyncio.wait_for(talk(), 60))
    assert [
        whisper.errors(event.transcript, own[name])
        for event, name in zip(completed, names, strict=True)
    ] == [0, 0]
    assert all(event.to_dict()["languages"] == [{"code": "en"}] for event in completed)


async def test_mistrals_dialect_tells_the_language_before_the_text(daemon: DaemonProcess) -> None:
    from trio_websocket import open_websocket_url

    audio = whisper.load(whisper.clips("cards")["001"])
    seen: list[dict[str, Any]] = []
    async with open_websocket_url(f"{daemon.url}/v1/audio/transcriptions/realtime") as socket:
        await socket.send_message(
            json.dumps(
                {
                    "type": "input_audio.append",
                    "audio": base64.b64encode(audio.tobytes()).decode(),
                }
            )
        )
        await socket.send_message('{"type": "input_audio.end"}')
        with trio.fail_after(30):
            while not seen or seen[-1]["type"] != "transcription.done":
                seen.append(json.loads(await socket.get_message()))
    [language] = [event for event in seen if event["type"] == "transcription.language"]
    assert language["audio_language"] == seen[-1]["language"] == "en"


async def test_speech_goes_on_when_the_engine_is_lost_in_the_middle_of_it(
    daemon: DaemonProcess, own: dict[str, str]
) -> None:
    import signal

    name = "sense_and_sensibility_01_austen_64kb-0870"
    audio = whisper.load(whisper.clips("librivox")[name])
    async with raw_client(daemon.url, update=False) as client:
        await client.send(type="session.update", model=NAME)
        await client.commit()
        await client.speak(audio[: 4 * SAMPLE_RATE], paced=True)
        for pid in daemon.descendants():
            daemon.signal_process(pid, signal.SIGKILL)
        await client.speak(audio[4 * SAMPLE_RATE :], paced=True)
        await client.commit(final=True)
        with trio.fail_after(120):
            events = await client.until_terminal()
    assert whisper.errors(events[-1]["text"], own[name]) <= 1, events[-1]
