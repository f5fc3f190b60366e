"""Audio that is no sound: what the real engine makes of it, and that nobody else notices."""

import base64
import json

import numpy as np
import pytest
import trio
from daemon_process import DaemonProcess
from numpy.typing import NDArray
from raw_client import DEADLINE_S, raw_client
from speech import load_sample, manifest
from trio_websocket import open_websocket_url

CHUNK = 16_000
TINY = np.finfo(np.float32).smallest_subnormal
HUGE = np.finfo(np.float32).max
POISON: dict[str, NDArray[np.float32]] = {
    "not a number": np.full(CHUNK, np.nan, np.float32),
    "infinite": np.full(CHUNK, np.inf, np.float32),
    "huge": np.full(CHUNK, HUGE, np.float32),
    "denormal": np.full(CHUNK, TINY, np.float32),
    "full swing": np.tile(np.array([1, -1], np.float32), CHUNK // 2),
    "all of them": np.tile(
        np.array([np.nan, np.inf, -np.inf, HUGE, -HUGE, TINY, -0.0, 1], np.float32), CHUNK // 8
    ),
}


async def poisoned(daemon: DaemonProcess, audio: NDArray[np.float32], rate: int) -> str:
    """Three seconds of it in Mistral's dialect, which takes floats; the kind of the last event."""
    update = {"audio_format": {"encoding": "pcm_f32le", "sample_rate": rate}}
    append = base64.b64encode(audio.tobytes()).decode()
    url = f"{daemon.url}/v1/audio/transcriptions/realtime"
    with trio.fail_after(DEADLINE_S):
        async with open_websocket_url(url) as socket:
            await socket.send_message(json.dumps({"type": "session.update", "session": update}))
            for _ in range(3):
                event = {"type": "input_audio.append", "audio": append}
                await socket.send_message(json.dumps(event))
            await socket.send_message(json.dumps({"type": "input_audio.end"}))
            while True:
                kind: str = json.loads(await socket.get_message())["type"]
                if kind in ("transcription.done", "error"):
                    return kind


@pytest.mark.parametrize("rate", [16_000, 24_000])
async def test_poisoned_audio_is_answered_and_others_are_understood_meanwhile_and_after(
    daemon: DaemonProcess, rate: int
) -> None:
    speech, text = load_sample("callsign"), manifest()["callsign"].text
    ends: dict[str, str] = {}

    async def poison(name: str) -> None:
        ends[name] = await poisoned(daemon, POISON[name], rate)

    async with raw_client(daemon.url) as honest:
        async with trio.open_nursery() as nursery:  # ends when all have their final
            for name in POISON:
                nursery.start_soon(poison, name)
            meanwhile = await honest.utterance(speech)
        after = await honest.utterance(speech)
    assert ends == dict.fromkeys(POISON, "transcription.done")
    assert (meanwhile["text"].strip(), after["text"].strip()) == (text, text)
    assert "Traceback" not in daemon.log
