"""Latency of a segmented model on this machine: first words and finals, at several loads.

    python -m benchmarks.segmented MODEL [--sessions 1 2 4 8] [--rounds 2] [--minutes 0] [--speed 1]
        [--data DIR] [--engine.NAME VALUE ...]

Each session is somebody who reads the LibriVox recordings of Debian's pocketsphinx-testdata one
after another, each an utterance of its own, with a second of rest between them; all sessions read
at once, each begins with another recording. Audio goes out in real time, 80 ms an append.

- First text: from the append in which speech begins (20 ms above -35 dBFS) to the first delta.
- Final: from the commit, which is sent with the last append, to `transcription.done`.
- Early: words that were told before the commit, of all.
- Word errors: substitutions + deletions + insertions, of all words.
- CPU: user and system time of the daemon and its engine, in percent of one core.

With `--minutes`, one session goes on for so long, and memory and final latency are told once a
minute, after the recording that ends it. `--speed` is then how much faster than speech it is sent.
"""

import argparse
import asyncio
import json
import re
import sys
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import (
    CHUNK_S,
    CHUNK_SAMPLES,
    MODEL_NAME,
    Server,
    ServerCommand,
    append_messages,
    cpu_s,
    descendants,
    machine,
    percentile,
    session,
)

_DATA = Path("/usr/share/pocketsphinx/test/data/librivox")
_LOUD = 10 ** (-35 / 20)
_REST_S = 1.0


@dataclass(frozen=True)
class Recording:
    """One recording and what is said in it."""

    audio: NDArray[np.int16]
    text: str

    @property
    def onset(self) -> int:
        """The append in which speech begins."""
        blocks = self.audio[: len(self.audio) // 320 * 320].reshape(-1, 320) / 32_768
        loud = np.sqrt(np.mean(np.square(blocks), axis=1)) > _LOUD
        return int(loud.argmax()) * 320 // CHUNK_SAMPLES


@dataclass
class Measures:
    """Of all utterances of one level, in seconds and words."""

    first: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    words: int = 0
    early: int = 0
    errors: int = 0


def recordings(data: Path) -> list[Recording]:
    """The LibriVox recordings."""
    found = []
    said = (data / "transcription").read_text()
    for text, name in re.findall(r"<s> (.*?) </s> \((.*?)\)", said):
        with wave.open(str(data / f"{name}.wav")) as file:
            audio = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        found.append(Recording(audio, text))
    return found


def words(text: str) -> list[str]:
    """Its words without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def errors(said: Sequence[str], spoken: Sequence[str]) -> int:
    """Edit distance in words."""
    row = list(range(len(said) + 1))
    for number, left in enumerate(spoken, 1):
        last, row[0] = row[0], number
        for column, right in enumerate(said, 1):
            best = min(last + (left != right), row[column] + 1, row[column - 1] + 1)
            last, row[column] = row[column], best
    return row[-1]


async def read_aloud(url: str, texts: Sequence[Recording], measures: Measures) -> None:
    """One session: each recording an utterance."""
    async with session(url) as socket:
        for recording in texts:
            await utterance(socket, recording, measures)
            await asyncio.sleep(_REST_S)


async def utterance(
    socket: Any, recording: Recording, measures: Measures, speed: float = 1.0
) -> None:
    """Speak one recording, `speed` times as fast as it was, and measure what comes back."""
    chunk_s = CHUNK_S / speed
    deltas: list[tuple[float, str]] = []
    done: asyncio.Future[tuple[float, str]] = asyncio.get_running_loop().create_future()

    async def listen() -> None:
        async for message in socket:
            event, now = json.loads(message), time.monotonic()
            if event["type"] == "transcription.delta":
                deltas.append((now, event["delta"]))
            elif event["type"] == "transcription.done":
                done.set_result((now, event["text"]))
                return
            elif event["type"] == "error":
                raise RuntimeError(event["error"])

    listening = asyncio.create_task(listen())
    await socket.send('{"type":"input_audio_buffer.commit"}')
    began = time.monotonic()
    for number, message in enumerate(append_messages(recording.audio)):
        await asyncio.sleep(max(0.0, began + (number + 1) * chunk_s - time.monotonic()))
        await socket.send(message)
    await socket.send('{"type":"input_audio_buffer.commit","final":true}')
    committed = time.monotonic()
    finished, text = await asyncio.wait_for(done, 60)
    await listening
    spoken = words(recording.text)
    measures.final.append(finished - committed)
    if deltas:
        measures.first.append(deltas[0][0] - (began + (recording.onset + 1) * chunk_s))
    measures.words += len(spoken)
    measures.early += len(words("".join(delta for at, delta in deltas if at < committed)))
    measures.errors += errors(words(text), spoken)


async def level(server: Server, texts: list[Recording], sessions: int, rounds: int) -> Measures:
    """So many sessions at once."""
    measures = Measures()
    async with asyncio.TaskGroup() as group:
        for number in range(sessions):
            shift = number % len(texts)
            mine = (texts[shift:] + texts[:shift]) * rounds
            group.create_task(read_aloud(server.url, mine, measures))
    return measures


def row(sessions: int, measures: Measures, cpu_percent: float) -> str:
    """One line of the table."""
    times = [
        f"{percentile(values, 50):.2f} / {percentile(values, 95):.2f}"
        for values in (measures.first, measures.final)
    ]
    early, wrong = measures.early / measures.words, measures.errors / measures.words
    shares = f"{early:.0%} | {wrong:.1%} | {cpu_percent:.0f} %"
    return f"| {sessions} | {times[0]} | {times[1]} | {shares} |"


def resident_mib(pid: int) -> float:
    """Proportional set size of a process and its descendants, in MiB."""
    total = 0
    for one in (pid, *descendants(pid)):
        rollup = Path(f"/proc/{one}/smaps_rollup")
        found = re.search(r"^Pss:\s+(\d+)", rollup.read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total / 1024


async def endure(
    server: Server, pid: int, texts: list[Recording], minutes: float, speed: float
) -> None:
    """One session for a long time."""
    began = time.monotonic()
    until = began + 60 * minutes
    print("| minutes | memory, MiB | final, s (median, 95 %) | word errors |")
    print("| --- | --- | --- | --- |")
    async with session(server.url) as socket:
        while time.monotonic() < until:
            measures, end = Measures(), time.monotonic() + 60
            while time.monotonic() < end:
                for recording in texts:
                    await utterance(socket, recording, measures, speed)
                    await asyncio.sleep(_REST_S / 4)
            passed, memory = (time.monotonic() - began) / 60, resident_mib(pid)
            final = ", ".join(f"{percentile(measures.final, part):.2f}" for part in (50, 95))
            wrong = measures.errors / measures.words
            print(f"| {passed:.1f} | {memory:.0f} | {final} | {wrong:.1%} |", flush=True)


def main() -> None:
    """Run the levels and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--speed", type=float, default=1)
    parser.add_argument("--data", type=Path, default=_DATA)
    options, flags = parser.parse_known_args()
    texts = recordings(options.data)
    argv = (
        *(sys.executable, "-m", "realtimed", "serve", options.model, "--port", "{port}"),
        *("--no-admin", "--served-model-name", MODEL_NAME, *flags),
    )
    print(machine())
    with Server(ServerCommand("realtimed", argv)) as server:
        print("| sessions | first text, s | final, s | early | word errors | CPU |")
        print("| --- | --- | --- | --- | --- | --- |")
        for sessions in options.sessions:
            began, used = time.monotonic(), total_cpu_s(server.serving_pid)
            measures = asyncio.run(level(server, texts, sessions, options.rounds))
            cpu = (total_cpu_s(server.serving_pid) - used) / (time.monotonic() - began)
            print(row(sessions, measures, 100 * cpu), flush=True)
        if options.minutes:
            asyncio.run(endure(server, server.serving_pid, texts, options.minutes, options.speed))


def total_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all below it."""
    return sum(cpu_s(one) for one in (pid, *descendants(pid)) if Path(f"/proc/{one}").exists())


if __name__ == "__main__":
    main()
