"""A day of operation compressed: thousands of sessions, and what they leave behind.

    python -m benchmarks.day [--sessions 2000] [--at-once 8] [--seed 1]

Starts the daemon on the bundled model and plays sessions of 1 to 20 s of speech to it, as fast as
it takes them. Not all clients are good: some vanish in the middle of a word, some send nonsense,
some say nothing, some are never read. When all have left, everything that the daemon holds must
be back where it was after the first few: memory, Trio tasks, threads, file descriptors, sessions,
and requests in the engine.
"""

import argparse
import json
import random
import re
import sys
import time
import urllib.request
import wave
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from benchmarks.audio import CLEAN
from benchmarks.common import DEMO, SAMPLE_RATE, Server, ServerCommand, rss_bytes

CHUNK_SAMPLES = 3_200
SHORTEST_S, LONGEST_S = 1.0, 20.0
SESSION_S = 120.0
"""Longer than this and the session counts as stuck."""
SETTLE_S = 30.0
KINDS = {"speaks": 12, "vanishes": 3, "sends_nonsense": 2, "is_silent": 2, "leaves_at_once": 1}
"""How often each kind of client comes."""


@dataclass(frozen=True)
class Held:
    """What a daemon holds."""

    rss_mib: float
    tasks: int
    threads: int
    descriptors: int
    sessions: int
    connections: int
    frames_in_flight: int
    slots: int


@dataclass
class Day:
    """What happened, and what was left of it."""

    before: Held
    after: Held
    seconds: float = 0.0
    audio_s: float = 0.0
    clients: Counter[str] = field(default_factory=Counter)
    finals: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def grown_mib(self) -> float:
        """Resident memory at the end, less that at the beginning."""
        return self.after.rss_mib - self.before.rss_mib


def held(admin: str, pid: int) -> Held:
    """Ask the daemon itself, and the kernel."""
    with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as answer:
        text = answer.read().decode()

    def metric(name: str) -> int:
        values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return round(sum(map(float, values)))

    return Held(
        rss_mib=rss_bytes(pid) / 2**20,
        tasks=metric("realtimed_tasks"),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        sessions=metric("realtimed_sessions_active"),
        connections=metric("realtimed_connections_open"),
        frames_in_flight=metric("realtimed_engine_frames_in_flight"),
        slots=metric("realtimed_engine_slots"),
    )


async def settled(admin: str, pid: int) -> Held:
    """What is held once nobody is connected; what it is then, if that never comes."""
    now = await trio.to_thread.run_sync(held, admin, pid)
    with trio.move_on_after(SETTLE_S):
        while now.connections or now.slots or now.frames_in_flight:
            await trio.sleep(0.1)
            now = await trio.to_thread.run_sync(held, admin, pid)
    return now


async def live(
    url: str, admin: str, pid: int, *, sessions: int, at_once: int, seed: int, warm_up: int = 16
) -> Day:
    """Play a day to the daemon at `url` (`ws://…/v1/realtime`)."""
    speech = _speech()
    random_ = random.Random(seed)
    first = Day(*[await settled(admin, pid)] * 2)
    await _play(first, url, speech, random_, warm_up, at_once)
    before = await settled(admin, pid)
    day = Day(before, before)
    began = time.monotonic()
    await _play(day, url, speech, random_, sessions, at_once)
    day.seconds = time.monotonic() - began
    day.after = await settled(admin, pid)
    day.failures += first.failures
    return day


async def _play(
    day: Day, url: str, speech: NDArray[np.int16], random_: random.Random, count: int, at_once: int
) -> None:
    left = iter(range(count))

    async def clients() -> None:
        for _ in left:
            [kind] = random_.choices(list(KINDS), list(KINDS.values()))
            seconds = random_.uniform(SHORTEST_S, LONGEST_S)
            begin = random_.randrange(len(speech) - round(LONGEST_S * SAMPLE_RATE))
            samples = speech[begin : begin + round(seconds * SAMPLE_RATE)]
            day.clients[kind] += 1
            day.audio_s += seconds
            try:
                with trio.fail_after(SESSION_S):
                    await _Client(day, url, samples).be(kind)
            except (OSError, ConnectionClosed, trio.TooSlowError) as error:
                day.failures.append(f"{kind}, {seconds:.1f} s: {error!r}")

    # Ends when all clients have come and gone.
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(clients)


@dataclass
class _Client:
    day: Day
    url: str
    samples: NDArray[np.int16]

    async def be(self, kind: str) -> None:
        async with open_websocket_url(self.url) as socket:
            if kind == "leaves_at_once":
                return
            await socket.get_message()
            await _send(socket, type="session.update", model="")
            await _send(socket, type="input_audio_buffer.commit")
            if kind == "sends_nonsense":
                await self._send_nonsense(socket)
            if kind == "is_silent":
                self.samples = np.zeros_like(self.samples)
            if kind == "vanishes":
                await self._speak(socket, self.samples[: len(self.samples) // 2])
                await socket._stream.aclose()  # without a closing handshake, as it happens
                return
            await self._utterance(socket)

    async def _utterance(self, socket: WebSocketConnection) -> None:
        # Ends with the final.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak_and_end, socket)
            while True:
                event = json.loads(await socket.get_message())
                if event["type"] == "transcription.done":
                    break
                if event["type"] == "error":
                    self.day.failures.append(event["code"])
                    break
        self.day.finals += 1

    async def _speak_and_end(self, socket: WebSocketConnection) -> None:
        await self._speak(socket, self.samples)
        await _send(socket, type="input_audio_buffer.commit", final=True)

    async def _speak(self, socket: WebSocketConnection, samples: NDArray[np.int16]) -> None:
        for start in range(0, len(samples), CHUNK_SAMPLES):
            audio = b64encode(samples[start : start + CHUNK_SAMPLES].tobytes()).decode()
            await _send(socket, type="input_audio_buffer.append", audio=audio)

    async def _send_nonsense(self, socket: WebSocketConnection) -> None:
        """Each is answered by an error, and the session goes on."""
        messages = ("{", "[]", '{"type": "nothing"}', b"odd", '{"type": 7}')
        for message in messages:
            await socket.send_message(message)
            await socket.get_message()


async def _send(socket: WebSocketConnection, **event: Any) -> None:
    await socket.send_message(json.dumps(event))


def _speech() -> NDArray[np.int16]:
    """All clean samples in a row."""
    parts = []
    for name in CLEAN:
        with wave.open(str(DEMO / "samples" / f"{name}.wav")) as file:
            parts.append(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    return np.concatenate(parts)


def report(day: Day) -> str:
    """A table of what is held, and what happened."""
    rows = [f"| {'held':<16} | {'before':>8} | {'after':>8} |", "|---|---:|---:|"]
    for name, before in asdict(day.before).items():
        rows.append(f"| {name:<16} | {before:>8.6g} | {getattr(day.after, name):>8.6g} |")
    clients = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in day.clients.items())
    rows.append(
        f"\n{day.clients.total()} clients in {day.seconds:.0f} s ({clients}), "
        f"{day.audio_s / 3600:.1f} h of audio, {day.finals} finals, "
        f"{len(day.failures)} failures"
    )
    return "\n".join([*rows, *day.failures[:20]])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.day",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    command = [sys.executable, "-m", "realtimed", "serve", "--port", "{port}"]
    command += ["--admin-port", "0"]
    with Server(ServerCommand("realtimed", tuple(command))) as server:
        found = re.search(r"admin listener on (\S+)", server.log_tail(sys.maxsize))
        assert found is not None
        pid = server.serving_pid
        play = partial(
            live,
            server.url,
            found[1],
            pid,
            sessions=options.sessions,
            at_once=options.at_once,
            seed=options.seed,
        )
        day = trio.run(play)
    with suppress(BrokenPipeError):
        print(report(day))
    return 1 if day.failures else 0


if __name__ == "__main__":
    sys.exit(main())
