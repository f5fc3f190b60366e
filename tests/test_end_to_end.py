"""The commands a new user types, against the real daemon."""

import json
import subprocess
import sys

import numpy as np
from daemon_process import DaemonProcess
from speech import SAMPLES, load_sample, manifest

from realtimed.client import connect
from realtimed.wire.events import TextDelta, UtteranceDone


def realtimed(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "realtimed", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


def test_transcribe_prints_the_text_of_each_file(daemon: DaemonProcess) -> None:
    names = ("digits", "callsign")
    files = [str(SAMPLES / f"{name}.wav") for name in names]
    run = realtimed("transcribe", "--fast", "--url", daemon.url, *files)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.decode().splitlines()
    assert [line.partition(": ")[2] for line in lines] == [manifest()[n].text for n in names]


def test_transcribe_takes_raw_audio_and_answers_in_json(daemon: DaemonProcess) -> None:
    speech = load_sample("digits")
    run = realtimed(
        "transcribe", "--fast", "--format", "json", "--url", daemon.url, "-", stdin=speech.tobytes()
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["text"] == manifest()["digits"].text
    assert answer["usage"]["audio_seconds"] == round(len(speech) / 16_000, 4)


def test_transcribe_names_a_model_that_is_not_served(daemon: DaemonProcess) -> None:
    sample = str(SAMPLES / "digits.wav")
    run = realtimed("transcribe", "--fast", "--model", "other", "--url", daemon.url, sample)
    assert run.returncode == 6
    assert b"other" in run.stderr
    assert b"Traceback" not in run.stderr


async def test_the_client_library_streams_words_and_a_final(daemon: DaemonProcess) -> None:
    speech = load_sample("callsign").astype(np.float32) / 32_768
    chunks = [speech[start : start + 1_280] for start in range(0, len(speech), 1_280)]
    async with connect(daemon.url) as session, session.transcribe(chunks, pace=None) as events:
        seen = [event async for event in events]
    assert isinstance(seen[-1], UtteranceDone)
    assert seen[-1].text.strip() == manifest()["callsign"].text
    assert len([event for event in seen if isinstance(event, TextDelta)]) >= 3


def test_the_demo_shows_words_and_stops_everything() -> None:
    run = realtimed("demo", "callsign")
    assert run.returncode == 0, run.stderr
    assert f"final:       {manifest()['callsign'].text} " in run.stdout.decode()
