"""The real `mistralai` SDK against the real daemon: one stream from its first byte to its end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import soxr
from daemon_process import DaemonProcess
from speech import SAMPLE_RATE, load_sample, manifest, word_errors

client_module = pytest.importorskip("mistralai.client", reason="the mistralai SDK is not installed")
models = pytest.importorskip("mistralai.client.models", reason="needs mistralai 3")

ANSWER_S = 60.0


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def transcribe(daemon: DaemonProcess, data: bytes, **options: Any) -> list[Any]:
    """All events of one `transcribe_stream`."""

    async def run() -> list[Any]:
        client = client_module.Mistral(api_key="none", server_url=f"http://127.0.0.1:{daemon.port}")
        stream = client.audio.realtime.transcribe_stream(
            pieces(data, 3_200), model="voxtral-mini-transcribe-realtime", **options
        )
        return [event async for event in stream]

    return asyncio.run(asyncio.wait_for(run(), ANSWER_S))


def of_kind(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if type(event).__name__ == kind]


def test_a_stream_ends_with_its_transcript(daemon: DaemonProcess) -> None:
    audio = load_sample("digits")
    events = transcribe(daemon, audio.tobytes())
    (done,) = of_kind(events, "TranscriptionStreamDone")
    assert word_errors(manifest()["digits"].text, done.text) == 0
    deltas = "".join(event.text for event in of_kind(events, "TranscriptionStreamTextDelta"))
    assert deltas == done.text
    assert done.usage.prompt_audio_seconds == round(len(audio) / SAMPLE_RATE)


@pytest.mark.parametrize(
    ("encoding", "rate"),
    [("pcm_s32le", 16_000), ("pcm_f16le", 16_000), ("pcm_f32le", 48_000), ("pcm_s16le", 22_050)],
)
def test_other_encodings_and_rates_are_understood(
    daemon: DaemonProcess, encoding: str, rate: int
) -> None:
    samples = soxr.resample(load_sample("callsign").astype(np.float64) / 32768, SAMPLE_RATE, rate)
    kinds = {"pcm_s32le": "<i4", "pcm_f16le": "<f2", "pcm_f32le": "<f4", "pcm_s16le": "<i2"}
    scale = {"pcm_s32le": 2**31 - 1, "pcm_s16le": 2**15 - 1}.get(encoding, 1)
    data = (samples * scale).astype(kinds[encoding]).tobytes()
    audio_format = models.AudioFormat(encoding=encoding, sample_rate=rate)
    events = transcribe(daemon, data, audio_format=audio_format)
    (done,) = of_kind(events, "TranscriptionStreamDone")
    assert word_errors(manifest()["callsign"].text, done.text) <= 1, done.text
