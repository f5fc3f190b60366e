"""A long stream through one session: does a minute cost the same at the end as at the beginning?

    python -m benchmarks.endless [--minutes 30] [--vllm-minutes 10] [--json OUT] [--only PART ...]

The stream is one utterance: words with known times from the bundled samples, pauses from 0.1 to
6 s, noise, chords, and minutes of speech without a pause to cut in (`SCENES`). Three parts, each
with a server of its own, one loaded at a time:

- `realtimed`: all of it through one session of the daemon with its default settings, as fast as
  back-pressure lets it.
- `vllm`: its beginning through vLLM's own server with the same engine arguments, with at most 2 s
  of audio ahead of what is answered.
- `pieces`: all of it through vLLM's own server, but divided in the middle of each pause of a
  second and more, each piece an utterance of a fresh session: what the model gets right when
  nothing is cut and nothing is long.

Figures:

- Minute m ends when the first delta whose audio ends at 60 m s or later is received. The daemon
  tells that time in its deltas; vLLM's server sends one delta a frame, so they can be counted.
- Step: a frame that the engine answered, `engine_steps` of the daemon's state line (SIGUSR1), or
  vLLM's deltas. The daemon has fewer in a minute, since it feeds no long pauses, and a few more
  for the paddings around each cut.
- Engine CPU: user and system time of all processes below the serving one, per step. Serving CPU:
  of the process that holds the listening socket, per step. Memory: resident, likewise.
- A cut is placed by the state lines, ten a second, between the last word received before the
  line that does not count it and the first received after the line that does. Words within 2 s
  of these are "near" it. Lost: right in the pieces, not heard here. Doubled: inserted beside the
  same word.
- Word errors: substitutions + deletions + insertions. Errors of word ends: heard minus truth.

With `--json`, parts that OUT already has (for the same settings) are not run again.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.audio import Scene, Track, scenes_track
from benchmarks.common import (
    CHUNK_S,
    CHUNK_SAMPLES,
    DEMO,
    MODEL_NAME,
    Server,
    ServerCommand,
    append_messages,
    cpu_s,
    descendants,
    machine,
    needed_chunk,
    rss_bytes,
    session,
)
from benchmarks.endless_report import CUTS, PIECES, report
from benchmarks.frontend import OURS, THEIRS, note, versions
from realtimed.engine.args import BUNDLED_ARGS, BUNDLED_ENVIRONMENT, to_argv

PARTS = (OURS, THEIRS, PIECES)
SEED = 4
SCENES = (
    (Scene.TALK, 170),
    (Scene.UNBROKEN, 190),
    (Scene.NOISE, 15),
    (Scene.TALK, 30),
    (Scene.BRISK, 75),
    (Scene.MUSIC, 15),
    (Scene.TALK, 105),
)
"""Ten minutes, repeated with other words. Minutes 2 and 10 are of the same kind."""

THEIR_MODEL_LEN = 16_384
"""vLLM's server stops at this many tokens: 20 minutes."""
SAMPLE_EVERY_S = 0.1
AHEAD_CHUNKS = 25
PIECES_AT_ONCE = 4
LIMIT_S = 3600.0

# --- servers --------------------------------------------------------------------------------


def bundled_commands(flags: Sequence[str] = ()) -> dict[str, ServerCommand]:
    """The daemon as it is without settings, but for taking audio as fast as it comes; and vLLM's
    server with the same engine arguments."""
    name = ["--served-model-name", MODEL_NAME, "--port", "{port}"]
    ours = [sys.executable, "-m", "realtimed", "serve", *name, "--log-format", "json"]
    ours += ["--admin-port", "0", "--limits.rate", "0", *flags]
    theirs = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    theirs += ["--model", str(DEMO), *name]
    for kind in ("tokenizer-mode", "config-format", "load-format"):
        theirs += [f"--{kind}", "mistral"]  # which the daemon finds out for itself
    theirs += to_argv({**BUNDLED_ARGS, "max_model_len": THEIR_MODEL_LEN})
    return {OURS: ServerCommand(OURS, tuple(ours)), THEIRS: ServerCommand(THEIRS, tuple(theirs))}


# --- playing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """What the processes had used at a moment; `time.time()` as in the daemon's log."""

    at: float
    serving_cpu_s: float
    engine_cpu_s: float
    serving_bytes: int
    engine_bytes: int


@dataclass(frozen=True)
class Reply:
    """A delta: when it was received, and where the audio that it answers ends."""

    at: float
    end_s: float


@dataclass
class Log:
    """One stream through one session."""

    began: float
    samples: list[Sample] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    done: dict[str, Any] = field(default_factory=dict)


async def play(server: Server, track: Track, *, ours: bool) -> Log:
    """Send the track as one utterance and measure until it is done."""
    log = Log(time.time())
    ahead = asyncio.Semaphore(sys.maxsize if ours else AHEAD_CHUNKS + needed_chunk(0))
    async with session(server.url) as socket, asyncio.TaskGroup() as group:
        sampling = group.create_task(_sample(server.serving_pid, log, tell_state=ours))
        if ours:
            update = {"model": MODEL_NAME, "include": ["words", "warnings"]}
            await socket.send(json.dumps({"type": "session.update", **update}))
        await socket.send('{"type": "input_audio_buffer.commit"}')
        log.began = time.time()
        sending = group.create_task(_send(socket, track, ahead))
        async with asyncio.timeout(LIMIT_S):
            async for raw in socket:
                _take(log, json.loads(raw), ours=ours)
                ahead.release()
                if log.done:
                    break
        sending.cancel()
        sampling.cancel()
    if not log.done:
        raise RuntimeError(f"the server hung up before it was done:\n{server.log_tail()}")
    return log


async def _send(socket: Any, track: Track, ahead: asyncio.Semaphore) -> None:
    block = 16 * CHUNK_SAMPLES  # encoded as it is needed
    for begin in range(0, len(track.samples), block):
        for message in append_messages(track.samples[begin : begin + block]):
            await ahead.acquire()
            await socket.send(message)
    await socket.send('{"type": "input_audio_buffer.commit", "final": true}')


def _take(log: Log, event: dict[str, Any], *, ours: bool) -> None:
    now = time.time()
    match event["type"]:
        case "transcription.delta":
            frame_s = (needed_chunk(0) + 1 + len(log.replies)) * CHUNK_S
            log.replies.append(Reply(now, event["end"] if ours else frame_s))
        case "transcription.done":
            log.done = event
        case "warning":
            log.warnings.append(event["code"])
        case _:
            raise RuntimeError(f"unexpected from the server: {event}")


async def _sample(pid: int, log: Log, *, tell_state: bool) -> None:
    below = descendants(pid)
    while True:
        log.samples.append(
            Sample(
                at=time.time(),
                serving_cpu_s=cpu_s(pid),
                engine_cpu_s=sum(map(cpu_s, below)),
                serving_bytes=rss_bytes(pid),
                engine_bytes=sum(map(rss_bytes, below)),
            )
        )
        if tell_state:
            os.kill(pid, signal.SIGUSR1)
        await asyncio.sleep(SAMPLE_EVERY_S)


def states(server: Server) -> list[dict[str, Any]]:
    """The daemon's state lines, in order."""
    lines = (line for line in server.log_tail(sys.maxsize).splitlines() if line.startswith("{"))
    return [line for line in map(json.loads, lines) if line["event"] == "state"]


# --- minutes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Minute:
    """What one minute of the stream cost; memory at its end."""

    minute: int
    steps: float
    engine_ms: float
    serving_ms: float
    wall_ms: float
    engine_mib: float
    serving_mib: float


def minutes(log: Log, n: int, steps: Sequence[tuple[float, float]]) -> list[Minute]:
    """The first `n` minutes; `steps`: times and the engine's steps up to then."""
    ends = [_reached(log, 60.0 * minute) for minute in range(1, n)] + [log.replies[-1].at]
    marks = [log.began, *ends]
    times = [sample.at for sample in log.samples]

    def at(name: str) -> Any:
        return np.interp(marks, times, [getattr(sample, name) for sample in log.samples])

    counted = np.interp(marks, *zip(*steps, strict=True))
    engine, serving = at("engine_cpu_s"), at("serving_cpu_s")
    memory = at("engine_bytes") / 2**20, at("serving_bytes") / 2**20
    rows = []
    for i in range(1, n + 1):
        taken = counted[i] - counted[i - 1]
        per_step = [
            float(1000 * (series[i] - series[i - 1]) / taken) if taken else float("nan")
            for series in (engine, serving, marks)
        ]
        rows.append(Minute(i, float(taken), *per_step, float(memory[0][i]), float(memory[1][i])))
    return rows


def _reached(log: Log, position_s: float) -> float:
    return next(
        (reply.at for reply in log.replies if reply.end_s >= position_s), log.replies[-1].at
    )


# --- parts ----------------------------------------------------------------------------------


def run_ours(track: Track, flags: Sequence[str]) -> dict[str, Any]:
    """The daemon's part: minutes, words, and brackets of the cuts."""
    with Server(bundled_commands(flags)[OURS]) as server:
        log = asyncio.run(play(server, track, ours=True))
        told = states(server)
    steps = [(line["time"], line["engine_steps"]) for line in told]
    n = round(track.seconds / 60)
    return {
        "minutes": [asdict(row) for row in minutes(log, n, steps)],
        "wall_s": log.replies[-1].at - log.began,
        "words": log.done["words"],
        "text": log.done["text"],
        "usage": log.done["usage"],
        "warnings": log.warnings,
        "cuts": {name: told[-1][f"cuts_{name}"] for name in CUTS},
        "brackets": brackets(log, told),
    }


def brackets(log: Log, told: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """For each cut its reason, and between which two seconds of the stream it is."""
    times = [reply.at for reply in log.replies]
    found = []
    for before, after in pairwise(told):
        for name in CUTS:
            if after[f"cuts_{name}"] > before[f"cuts_{name}"]:
                first = int(np.searchsorted(times, before["time"])) - 1
                last = min(int(np.searchsorted(times, after["time"])), len(times) - 1)
                low = log.replies[first].end_s if first >= 0 else 0.0
                found.append((name, low, log.replies[last].end_s))
    return found


def run_theirs(track: Track) -> dict[str, Any]:
    """The part of vLLM's own server."""
    with Server(bundled_commands()[THEIRS]) as server:
        log = asyncio.run(play(server, track, ours=False))
    steps = [(log.began, 0.0), *((r.at, number) for number, r in enumerate(log.replies, 1))]
    n = round(track.seconds / 60)
    return {
        "minutes": [asdict(row) for row in minutes(log, n, steps)],
        "wall_s": log.replies[-1].at - log.began,
        "text": log.done["text"],
    }


def run_pieces(track: Track) -> list[str]:
    """What vLLM's own server hears in each piece alone."""
    with Server(bundled_commands()[THEIRS]) as server:
        return asyncio.run(_pieces(server.url, track.pieces()))


async def _pieces(url: str, pieces: Sequence[Track]) -> list[str]:
    slots = asyncio.Semaphore(PIECES_AT_ONCE)

    async def one(piece: Track) -> str:
        async with slots, session(url) as socket:
            await socket.send('{"type": "input_audio_buffer.commit"}')
            for message in append_messages(piece.samples):
                await socket.send(message)
            await socket.send('{"type": "input_audio_buffer.commit", "final": true}')
            async with asyncio.timeout(LIMIT_S):
                async for raw in socket:
                    event = json.loads(raw)
                    if event["type"] == "transcription.done":
                        return str(event["text"])
        raise RuntimeError("the server hung up before it was done")

    return await asyncio.gather(*map(one, pieces))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.endless",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=int, default=30, help="length of the stream")
    add("--vllm-minutes", type=int, default=10, help="what vLLM's own server gets of it")
    add("--json", type=Path, metavar="OUT", help="keep the results there")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run now")
    add("--daemon-flags", nargs=argparse.REMAINDER, default=[], help="for the daemon; at the end")
    return parser.parse_args()


def main() -> None:
    options = parse()
    # As an exception, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.update(BUNDLED_ENVIRONMENT)  # both servers inherit it
    first_s = 60.0 * min(options.vllm_minutes, options.minutes)
    track = scenes_track(SEED, SCENES, 60.0 * options.minutes)
    settings = {
        "minutes": options.minutes,
        "vllm_minutes": options.vllm_minutes,
        "seed": SEED,
        "engine": dict(BUNDLED_ARGS),
        "daemon_flags": options.daemon_flags,
    }
    results: dict[str, Any] = {"settings": settings, "machine": machine(), "versions": versions()}
    if options.json and options.json.exists():
        stored = json.loads(options.json.read_text())
        results = {**stored, **results} if stored["settings"] == settings else results
    work = {
        OURS: lambda: run_ours(track, options.daemon_flags),
        THEIRS: lambda: run_theirs(track.part(0, first_s)),
        PIECES: lambda: run_pieces(track),
    }
    for part in (part for part in PARTS if part in options.only and part not in results):
        note(f"{part}: {track.seconds if part != THEIRS else first_s:.0f} s of audio")
        results[part] = work[part]()
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    print(report(results, track, first_s))


if __name__ == "__main__":
    main()
