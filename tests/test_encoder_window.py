"""Whisper with an encoder window of ten seconds: what it costs less, and that it hears no worse."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import trio
import whisper
from raw_client import raw_client
from speech import DEMO, Pcm16

from realtimed.config import Settings
from realtimed.daemon import Daemon
from realtimed.engine import args
from realtimed.engine.segmented import ClipModel
from realtimed.engine.spec import Clip
from realtimed.errors import EngineStartError
from realtimed.transcription.agreement import units

WINDOW_S = 10


@pytest.fixture
def environment() -> Iterator[None]:
    """vLLM's configuration leaves traces in it."""
    pytest.importorskip("vllm")
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def configure(model: str, window_s: int) -> Any:
    return args.create_config(args.engine_args(model, (), whisper.ENGINE), whisper.ENGINE, window_s)


@pytest.mark.usefixtures("environment")
def test_a_model_that_is_no_whisper_has_no_window() -> None:
    with pytest.raises(EngineStartError, match=r"encoder_window_s is for Whisper.*leave it out"):
        args.create_config(args.engine_args(str(DEMO), (), {}), (), WINDOW_S)


@whisper.needs_whisper
@pytest.mark.usefixtures("environment")
def test_the_features_of_a_clip_are_as_long_as_the_window() -> None:
    from realtimed.engine.whisper import WhisperWithShortWindow

    config = configure(str(whisper.MODEL), WINDOW_S)
    model = ClipModel.load(config, WhisperWithShortWindow)
    assert model.info.max_clip_s == WINDOW_S
    request = model.encode("r", Clip(np.zeros(16_000, np.float32), language="en"))
    [feature] = request.mm_features
    assert feature.data["input_features"].data.shape == (80, WINDOW_S * 100)
    assert feature.mm_position.length == WINDOW_S * 50


@whisper.needs_whisper
@pytest.mark.usefixtures("environment")
def test_a_window_longer_than_the_checkpoints_is_refused() -> None:
    with pytest.raises(EngineStartError, match="has room for 30 seconds: expected at most that"):
        configure(str(whisper.MODEL), 31)


@whisper.needs_whisper
@whisper.needs_speech
async def test_it_hears_as_well_and_goes_on_from_any_beginning_of_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One daemon for both: a text is the same, however much of it was settled before the decode."""
    for name, value in whisper.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    daemon = Daemon(
        Settings(
            port=0,
            admin=False,
            model=str(whisper.MODEL),
            engine={**whisper.ENGINE, "dtype": "float32"},
            encoder_window_s=WINDOW_S,
        )
    )
    wrong = spoken = 0
    async with trio.open_nursery() as nursery:  # ends when the daemon has stopped
        nursery.start_soon(run, daemon)
        with trio.fail_after(120):
            await daemon.ready.wait()
        for name, text in whisper.transcripts("librivox").items():
            audio = whisper.load(whisper.clips("librivox")[name])
            said = await transcribe(f"ws://127.0.0.1:{daemon.port}", audio)
            wrong += whisper.errors(said, text)
            spoken += len(whisper.words(text))
            samples = audio.astype("float32") / 32_768
            whole = (await daemon.engine.decode(Clip(samples, language="en"), nobody)).text
            for count in range(1, len(units(whole)), 3):
                beginning = whole[: units(whole)[count - 1].end]
                clip = Clip(samples, language="en", said=beginning)
                assert (await daemon.engine.decode(clip, nobody)).text == whole
        daemon.stop()
    assert wrong <= spoken * 0.06


async def transcribe(url: str, audio: Pcm16) -> str:
    async with raw_client(url, update=False) as client:
        await client.update("")
        text: str = (await client.utterance(audio))["text"]
        return text


def nobody() -> None:
    """Watches no decode token by token."""


async def run(daemon: Daemon) -> None:
    assert await daemon.run(on_signal=False) == 0
