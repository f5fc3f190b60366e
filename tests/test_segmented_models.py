"""Segmented models end to end on random weights: real daemons and engines, on every machine.

What they say is noise, so it is held to what vLLM's own transcription says of the same clip. The
speech is that of the bundled samples, since windows without speech are not decoded.
"""

import base64
import importlib.util
import json
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import miniatures
import own_transcription
import pytest
import trio
import whisper
from daemon_process import DaemonProcess, engine_flags
from raw_client import live_utterance, raw_client
from speech import SAMPLE_RATE, SAMPLES, Pcm16, load_sample
from trio_websocket import open_websocket_url

from realtimed.client import Guidance, OptionRefused, connect

pytest.importorskip("vllm")

ENGINE: dict[str, Any] = {**whisper.ENGINE, "dtype": "float32", "max_num_seqs": 4}
NAME = "mini"
MISTRAL = "/v1/audio/transcriptions/realtime"
STAND_IN = Path(__file__).parent / "torchvision_stand_in"
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
# vLLM's module of Qwen3-ASR imports it.
ENVIRONMENT = {
    **whisper.ENVIRONMENT,
    **({} if HAS_TORCHVISION else {"PYTHONPATH": str(STAND_IN)}),
}
# Where speech goes on to the last sample, the whole clip is one window: sample, from and to in ms.
CLIPS = {
    "callsign": (400, 2_700),
    "unseen-voice": (400, 2_600),
    "espeak": (400, 1_700),
    "minute": (400, 1_900),
}


def clip(name: str) -> Pcm16:
    begin, end = (at * SAMPLE_RATE // 1_000 for at in CLIPS[name])
    return load_sample(name)[begin:end]


def write_clips(directory: Path) -> list[Path]:
    paths = [directory / f"{name}.wav" for name in CLIPS]
    for path in paths:
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(clip(path.stem).tobytes())
    return paths


def start(model: Path) -> DaemonProcess:
    """A daemon on `model`, not ready yet."""
    named = (str(model), "--served-model-name", NAME)
    return DaemonProcess(*named, *engine_flags(ENGINE), environment=ENVIRONMENT)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "whisper": miniatures.make_whisper(root / "whisper", 3),
        "english": miniatures.make_whisper(root / "english", 3, english_only=True),
        "qwen": miniatures.make_qwen3_asr(root / "qwen", 7),
        "realtime": miniatures.make_qwen3_asr(root / "realtime", 7, realtime=True),
    }


@pytest.fixture(scope="module")
def own(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[own_transcription.Transcription]:
    """vLLM's own transcription of the clips, which may still be going on."""
    directory = tmp_path_factory.mktemp("own")
    models = {name: checkpoints[name] for name in ("whisper", "qwen")}
    clips = write_clips(directory)
    with own_transcription.running(models, ENGINE, ENVIRONMENT, clips, directory) as transcription:
        yield transcription


@pytest.fixture(scope="module")
def daemons(
    checkpoints: dict[str, Path], own: own_transcription.Transcription
) -> Iterator[dict[str, DaemonProcess]]:
    """One daemon a checkpoint, all started at once, and stopped at once."""
    running = {name: start(path) for name, path in checkpoints.items()}
    try:
        yield {name: daemon.wait_ready() for name, daemon in running.items()}
    finally:
        for daemon in running.values():
            daemon.send_signal(signal.SIGTERM)
        assert [daemon.wait() for daemon in running.values()] == [0] * len(running)


@pytest.fixture
def daemon(daemons: dict[str, DaemonProcess]) -> DaemonProcess:
    """The one that most tests talk to: a multilingual Whisper."""
    return daemons["whisper"]


async def transcribe(
    daemon: DaemonProcess, audio: Pcm16, *, paced: bool = False, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    """One utterance; its `transcription.done`, and the deltas that came before its commit."""
    return await live_utterance(daemon.url, audio, paced=paced, model=NAME, **options)


async def nothing_left(daemon: DaemonProcess) -> None:
    with trio.fail_after(20):
        while (counts := await daemon.counts()).requests or counts.sessions:
            await trio.sleep(0.1)


# --- Whisper ------------------------------------------------------------------------------


def test_the_log_says_how_each_model_is_served_and_why(daemons: dict[str, DaemonProcess]) -> None:
    for name, architecture in (
        ("whisper", "WhisperForConditionalGeneration"),
        ("english", "WhisperForConditionalGeneration"),
        ("qwen", "Qwen3ASRForConditionalGeneration"),
        ("realtime", "Qwen3ASRRealtimeGeneration"),
    ):
        assert f"segmented: {architecture} transcribes whole clips" in daemons[name].log


async def test_a_whole_clip_gives_what_vllms_own_endpoint_gives(
    daemon: DaemonProcess, own: own_transcription.Transcription
) -> None:
    said = {name: (await transcribe(daemon, clip(name)))[0]["text"].strip() for name in CLIPS}
    assert said == own.texts("whisper")
    assert len(set(said.values())) > 1


async def test_text_comes_while_speech_goes_on_and_all_decodes_are_counted(
    daemon: DaemonProcess,
) -> None:
    seconds = 5
    audio = load_sample("minute")[: seconds * SAMPLE_RATE]
    done, early = await transcribe(daemon, audio, paced=True, language="en")
    assert early
    usage = done["usage"]
    # At least four tokens ask for each transcript, and the clips alone would take two.
    assert usage["prompt_tokens"] > 4 * (seconds / miniatures.CLIP_S + 1)
    assert usage["completion_tokens"] > 0
    assert usage["audio_seconds"] == seconds


async def test_speech_longer_than_the_models_clip_is_cut_and_not_dropped(
    daemon: DaemonProcess,
) -> None:
    begin, end = (at * SAMPLE_RATE // 1_000 for at in (400, 12_400))
    done, _ = await transcribe(daemon, load_sample("minute")[begin:end], language="en")
    assert done["usage"]["prompt_tokens"] // 4 >= 12 / miniatures.CLIP_S
    assert done["text"]


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"hotwords": ["Ada"]}, "unsupported_option", "hotwords"),
        ({"include": ["words"]}, "unsupported_option", "include `words`"),
        ({"language": "tlh"}, "unsupported_option", "Served here: af, ar,"),
        ({"diarize": True}, "unsupported_option", "diarize"),
        ({"temperature": 3}, "invalid_event", "temperature"),
        ({"prompt": 7}, "invalid_event", "prompt"),
    ],
)
async def test_what_the_model_does_not_take_is_refused_by_name(
    daemon: DaemonProcess, options: dict[str, Any], code: str, named: str
) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.send(type="session.update", model=NAME, **options)
        error = await client.receive()
        assert (error["type"], error["code"]) == ("error", code)
        assert named in error["error"]


@pytest.mark.parametrize("name", ["whisper", "qwen"])
async def test_language_prompt_and_temperature_reach_the_model(
    daemons: dict[str, DaemonProcess], name: str
) -> None:
    """Noise that depends on everything changes with each of them."""

    async def said(**options: Any) -> list[str]:
        return [(await transcribe(daemons[name], clip(key), **options))[0]["text"] for key in CLIPS]

    plain = await said()
    assert plain == await said()
    for option in ({"language": "fr"}, {"prompt": "Ada Lovelace"}, {"temperature": 2}):
        assert plain != await said(**option), option


@pytest.mark.parametrize("name", ["whisper", "qwen"])
async def test_mistrals_dialect_tells_the_language(
    daemons: dict[str, DaemonProcess], name: str
) -> None:
    """Whisper's by a request of its own; Qwen3-ASR says it before its text."""
    seen: list[dict[str, Any]] = []
    audio = base64.b64encode(clip("callsign").tobytes()).decode()
    async with open_websocket_url(f"{daemons[name].url}{MISTRAL}") as socket:
        await socket.send_message(json.dumps({"type": "input_audio.append", "audio": audio}))
        await socket.send_message('{"type": "input_audio.end"}')
        with trio.fail_after(30):
            while not seen or seen[-1]["type"] != "transcription.done":
                seen.append(json.loads(await socket.get_message()))
    [language] = [event for event in seen if event["type"] == "transcription.language"]
    assert language["audio_language"] == seen[-1]["language"]
    assert len(seen[-1]["language"]) == 2
    assert name != "qwen" or seen[-1]["language"] == "en"


async def test_a_client_that_vanishes_leaves_no_request_behind(daemon: DaemonProcess) -> None:
    async with raw_client(daemon.url, update=False) as client:
        await client.send(type="session.update", model=NAME)
        await client.commit()
        await client.speak(load_sample("minute")[: round(1.5 * SAMPLE_RATE)], paced=True)
    await nothing_left(daemon)


async def test_a_clear_leaves_no_request_behind_and_the_next_utterance_is_whole(
    daemon: DaemonProcess,
) -> None:
    session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    audio = base64.b64encode(load_sample("minute")[: 3 * SAMPLE_RATE].tobytes()).decode()
    seen: list[str] = []
    async with open_websocket_url(f"{daemon.url}/openai/v1/realtime") as socket:
        for message in (
            {"type": "session.update", "session": session},
            {"type": "input_audio_buffer.append", "audio": audio},
            {"type": "input_audio_buffer.clear"},
            {"type": "input_audio_buffer.append", "audio": audio},
            {"type": "input_audio_buffer.commit"},
        ):
            await socket.send_message(json.dumps(message))
        with trio.fail_after(30):
            while not seen or not seen[-1].endswith("transcription.completed"):
                event = json.loads(await socket.get_message())
                assert event["type"] != "error", event
                seen.append(event["type"])
        assert "input_audio_buffer.cleared" in seen
        assert event["transcript"]
    await nothing_left(daemon)


# --- the client ---------------------------------------------------------------------------


async def test_what_a_client_knows_of_the_speech_changes_its_text(daemon: DaemonProcess) -> None:
    said = {}
    for language in ("en", "fr"):
        async with connect(daemon.url, guidance=Guidance(language, prompt="Ada")) as session:
            async with session.transcribe([clip("callsign").tobytes()]) as events:
                [*_, done] = [event async for event in events]
        raw, _ = await transcribe(daemon, clip("callsign"), language=language, prompt="Ada")
        said[language] = done.text
        assert done.text == raw["text"]
    assert said["en"] != said["fr"]


async def test_a_client_is_told_of_what_the_model_does_not_take(daemon: DaemonProcess) -> None:
    async with connect(daemon.url, guidance=Guidance(hotwords=("Ada",))) as session:
        with pytest.raises(OptionRefused, match="`hotwords`") as caught:
            async with session.transcribe([clip("callsign").tobytes()]) as events:
                async for _ in events:
                    pass
    assert "\n" not in str(caught.value)


def test_the_command_takes_a_language_and_tells_a_refusal_in_one_line(
    daemon: DaemonProcess,
) -> None:
    def command(*options: str) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-m", "realtimed", "transcribe", "--url", daemon.url, "--fast"]
        sample = str(SAMPLES / "callsign.wav")
        return subprocess.run(
            [*start, *options, sample], capture_output=True, text=True, timeout=60, check=False
        )

    taken = command("--language", "fr")
    assert (taken.returncode, taken.stderr) == (0, "")
    assert taken.stdout.strip()
    refused = command("--language", "tlh")
    assert (refused.returncode, refused.stdout) == (6, "")
    [line] = refused.stderr.splitlines()
    assert "`language`" in line


# --- Whisper for English only -------------------------------------------------------------


async def test_whisper_for_english_only_takes_no_other_language(
    daemons: dict[str, DaemonProcess],
) -> None:
    """Its vocabulary, which has one token less, is what tells it."""
    asked, _ = await transcribe(daemons["english"], clip("callsign"), language="en")
    unasked, _ = await transcribe(daemons["english"], clip("callsign"))
    assert asked["text"] == unasked["text"] != ""
    # Two tokens ask for a transcript, and none for a language.
    assert unasked["usage"]["prompt_tokens"] == 2
    async with raw_client(daemons["english"].url, update=False) as client:
        await client.send(type="session.update", model=NAME, language="fr")
        error = await client.receive()
        assert error["code"] == "unsupported_option"
        assert error["error"].endswith("Served here: en.")


# --- Qwen3-ASR ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen", "realtime"])
async def test_qwens_whole_clips_give_what_vllms_own_endpoint_gives(
    daemons: dict[str, DaemonProcess], own: own_transcription.Transcription, name: str
) -> None:
    """The realtime class as well: in fresh requests, and not cut every five seconds."""
    said = {key: (await transcribe(daemons[name], clip(key)))[0]["text"].strip() for key in CLIPS}
    assert said == own.texts("qwen")
    assert len(set(said.values())) > 1
    assert not any("<asr_text>" in text or "language" in text for text in said.values())


async def test_qwens_growing_windows_are_requests_of_their_own(
    daemons: dict[str, DaemonProcess],
) -> None:
    audio = load_sample("minute")[: 4 * SAMPLE_RATE]

    async def speak(daemon: DaemonProcess) -> None:
        done, early = await transcribe(daemon, audio, paced=True)
        assert early
        assert "<asr_text>" not in done["text"]
        alone, _ = await transcribe(daemon, clip("callsign"))
        assert done["usage"]["prompt_tokens"] > 2 * alone["usage"]["prompt_tokens"]

    async with trio.open_nursery() as nursery:  # ends when both have been spoken to
        nursery.start_soon(speak, daemons["qwen"])
        nursery.start_soon(speak, daemons["realtime"])


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_a_library_that_the_model_class_needs_is_named(checkpoints: dict[str, Path]) -> None:
    process = DaemonProcess(str(checkpoints["qwen"]), environment=whisper.ENVIRONMENT)
    assert process.wait(60) == 3
    [line] = [line for line in process.lines if "torchvision" in line]
    assert "Qwen3ASRForConditionalGeneration needs the library torchvision" in line
    assert "https://download.pytorch.org/whl/cpu" in line
    assert "Traceback" not in process.log
