"""The happy path of each dialect as a raw socket sees it, kept as a readable transcript.

Names and times that differ from run to run are replaced, audio is left out, and the deltas of an
utterance are one line before its end, since when they come is a matter of speed.
`REALTIMED_UPDATE_GOLDEN=1 make test ARGS=tests/test_golden_dialects.py` writes the transcripts
anew; read the difference before it is committed.
"""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import trio
from daemon_process import DaemonProcess
from speech import SAMPLE_RATE, load_sample
from trio_websocket import ConnectionClosed, open_websocket_url

GOLDEN = Path(__file__).parent / "golden"
AUDIO = "input_audio_buffer.append"
SPEECH = load_sample("callsign")


def pcm(rate: int) -> bytes:
    audio = SPEECH if rate == SAMPLE_RATE else soxr.resample(SPEECH, SAMPLE_RATE, rate)
    return np.asarray(audio, np.int16).tobytes()


GA = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
BETA = {"input_audio_format": "pcm16", "turn_detection": None}
# Path, headers, rate, what is said before the audio, what after it, and the event that ends it.
DIALECTS: dict[str, tuple[str, dict[str, str], int, list[Any], list[Any], str]] = {
    "vllm": (
        "/v1/realtime",
        {},
        16_000,
        [{"type": "session.update", "model": ""}, {"type": "input_audio_buffer.commit"}],
        [{"type": "input_audio_buffer.commit", "final": True}],
        "transcription.done",
    ),
    "openai": (
        "/v1/realtime?intent=transcription",
        {},
        24_000,
        [{"type": "session.update", "session": GA}],
        [{"type": "input_audio_buffer.commit"}],
        "conversation.item.done",
    ),
    "openai_beta": (
        "/v1/realtime?intent=transcription",
        {"OpenAI-Beta": "realtime=v1"},
        24_000,
        [{"type": "transcription_session.update", "session": BETA}],
        [{"type": "input_audio_buffer.commit"}],
        "conversation.item.input_audio_transcription.completed",
    ),
    "mistral": (
        "/v1/audio/transcriptions/realtime?model=any",
        {},
        16_000,
        [],
        [{"type": "input_audio.flush"}, {"type": "input_audio.end"}],
        "closed",
    ),
}


async def converse(url: str, name: str) -> list[str]:
    path, headers, rate, before, after, last = DIALECTS[name]
    append = "input_audio.append" if name == "mistral" else AUDIO
    lines: list[str] = []
    async with open_websocket_url(
        url + path, extra_headers=[(k.encode(), v.encode()) for k, v in headers.items()]
    ) as socket:
        lines.append(said("<", json.loads(await socket.get_message())))
        for event in before:
            lines.append(said(">", event))
            await socket.send_message(json.dumps(event))
        data = pcm(rate)
        lines.append(f"> {append}, {len(data) // 2} samples at {rate} Hz in pieces of 80 ms")
        for at in range(0, len(data), rate * 2 * 80 // 1_000):
            audio = base64.b64encode(data[at : at + rate * 2 * 80 // 1_000]).decode()
            await socket.send_message(json.dumps({"type": append, "audio": audio}))
        for event in after:
            lines.append(said(">", event))
            await socket.send_message(json.dumps(event))
        lines += await answers(socket, last)
    return lines


async def answers(socket: Any, last: str) -> list[str]:
    lines: list[str] = []
    deltas: list[str] = []
    while True:
        try:
            event = json.loads(await socket.get_message())
        except ConnectionClosed as closed:
            return [*lines, f"< closed {closed.reason.code}"]
        if "delta" in event["type"]:
            deltas.append(event.get("delta", event.get("text")))
            template = {**event, "delta" if "delta" in event else "text": "…"}
            continue
        if deltas and event["type"].endswith(("done", "completed")):
            lines.append(f"{said('<', template)} joined: {''.join(deltas)!r}")
            deltas = []
        lines.append(said("<", event))
        if event["type"] == last:
            return lines


def said(who: str, event: dict[str, Any]) -> str:
    text = json.dumps(event, ensure_ascii=False)
    text = re.sub(r"(sess|event|item|rt)([-_])[0-9a-f]{8,}(_\d+)*", r"\1\2…", text)
    text = re.sub(r'"(created|expires_at)": \d+', r'"\1": 0', text)
    text = re.sub(r'"request_id": "[^"]*"', '"request_id": "…"', text)
    return f"{who} {text}"


@pytest.mark.parametrize("name", list(DIALECTS))
async def test_the_happy_path_is_the_one_that_was_written_down(
    daemon: DaemonProcess, name: str
) -> None:
    with trio.fail_after(60):
        seen = "\n".join(await converse(daemon.url, name)) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("REALTIMED_UPDATE_GOLDEN"):
        path.write_text(seen)
    assert seen == path.read_text()
