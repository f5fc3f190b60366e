"""What the silence gate is worth: real-time sessions served on this machine, with it and without.

    python -m benchmarks.gating [--speech 2 6] [--pause 3 9] [--measure 15] [--json OUT]

Each session is somebody who speaks and is silent in turn: lengths are uniform in the bounds
given, so the defaults are silent 60 % of the time. Every session has words, lengths and a moment
of entry of its own, the same in both runs. The daemon is started twice on the bundled model,
without and with `--no-silence-gate`, with the same engine slots; each time levels of sessions are
played in real time, 80 ms an append, more and more until one fails, then halfway between.

- Lag: from sending the append in which a word ends (`end` of its delta, by `include: ["words"]`)
  to receiving the delta; of all words that were spoken within the window after the warm-up.
  Recognition itself is about 350 ms behind (MODEL_CARD.md).
- A level is served if 95 % of the lags are below a second, no session met an error, and every
  session's text was complete within 10 s of its end.
- Frames: answers of the engine per second of audio (`usage`); 12.5 without the gate, and the
  paddings of each segment.
- CPU: user and system time within the window, of the engine's processes, of the serving one, and
  of the load generator, in percent of one core. They share the machine.
- Word errors: substitutions + deletions + insertions, of all that the sessions said.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.audio import Track, turns_track
from benchmarks.common import (
    CHUNK_S,
    MODEL_NAME,
    Server,
    ServerCommand,
    append_messages,
    cpu_s,
    descendants,
    in_own_process,
    machine,
    percentile,
    session,
)
from benchmarks.endless import bundled_commands
from benchmarks.endless_report import table
from benchmarks.frontend import OURS, note, versions
from benchmarks.words import align, count
from realtimed.engine.args import BUNDLED_ENVIRONMENT

SEED = 5
WITHOUT, WITH = "without gate", "with gate"
LAG_S = 1.0
COMPLETE_S = 10.0
# A word's answer must not depend on the end of the audio, which is flushed faster than speech.
TAIL_S = 1.6
SLOTS = 192

# --- load -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One level: so many sessions against a running server."""

    url: str
    serving_pid: int
    sessions: int
    speech_s: tuple[float, float]
    pause_s: tuple[float, float]
    warm_up_s: float
    measure_s: float

    def track(self, index: int) -> Track:
        """What session `index` says."""
        seconds = self.warm_up_s + self.measure_s + TAIL_S
        return turns_track((SEED, index), self.speech_s, self.pause_s, seconds)


@dataclass(frozen=True)
class Heard:
    """What came back from one session: (received, end on the session's clock) of each delta."""

    sent_at: list[float]
    deltas: list[tuple[float, float]]
    text: str | None
    """`None` if it was not complete in time."""
    frames: int
    problem: str | None


@dataclass(frozen=True)
class Measured:
    """A level as the load generator saw it; CPU in percent of a core, within the window."""

    heard: list[Heard]
    engine_cpu: float
    serving_cpu: float
    load_cpu: float


def run_level(plan: Plan) -> Measured:
    """Play all sessions of a level in real time."""
    return asyncio.run(_run_level(plan))


async def _run_level(plan: Plan) -> Measured:
    messages = [append_messages(plan.track(i).samples) for i in range(plan.sessions)]
    begin = time.monotonic() + 1.0
    async with asyncio.TaskGroup() as group:
        cpu = group.create_task(_cpu(plan, begin + plan.warm_up_s))
        heard = [
            # Spread over one append's length, as independent speakers would be.
            group.create_task(_play(plan.url, of, begin + CHUNK_S * i / plan.sessions))
            for i, of in enumerate(messages)
        ]
    return Measured([task.result() for task in heard], *cpu.result())


async def _cpu(plan: Plan, start: float) -> tuple[float, float, float]:
    below = descendants(plan.serving_pid)

    def used() -> tuple[float, float, float]:
        return sum(map(cpu_s, below)), cpu_s(plan.serving_pid), time.process_time()

    await asyncio.sleep(start - time.monotonic())
    before = used()
    await asyncio.sleep(plan.measure_s)
    after = used()
    engine, serving, load = (
        100 * (b - a) / plan.measure_s for a, b in zip(before, after, strict=True)
    )
    return engine, serving, load


async def _play(url: str, messages: Sequence[str], begin: float) -> Heard:
    sent_at: list[float] = []
    raws: list[tuple[float, str | bytes]] = []
    async with session(url) as socket:
        update = {"type": "session.update", "model": MODEL_NAME, "include": ["words"]}
        await socket.send(json.dumps(update))
        await socket.send('{"type": "input_audio_buffer.commit"}')
        listening = asyncio.create_task(_listen(socket, raws))
        for number, message in enumerate(messages):
            # An append can be sent when its audio has been spoken, not before.
            await asyncio.sleep(begin + (number + 1) * CHUNK_S - time.monotonic())
            sent_at.append(time.monotonic())
            await socket.send(message)
        await socket.send('{"type": "input_audio_buffer.commit", "final": true}')
        await asyncio.wait([listening], timeout=COMPLETE_S)
        listening.cancel()
    return _heard(sent_at, raws)


async def _listen(socket: Any, raws: list[tuple[float, str | bytes]]) -> None:
    async for raw in socket:
        raws.append((time.monotonic(), raw))
        if b'"transcription.delta"' not in (raw if isinstance(raw, bytes) else raw.encode())[:40]:
            return


def _heard(sent_at: list[float], raws: Sequence[tuple[float, str | bytes]]) -> Heard:
    # Parsed when all is over: what the generator does meanwhile, the server cannot use.
    events = [(at, json.loads(raw)) for at, raw in raws]
    deltas = [(at, event["end"]) for at, event in events if "delta" in event]
    last = events[-1][1] if events else {}
    if last.get("type") == "transcription.done":
        return Heard(sent_at, deltas, last["text"], last["usage"]["completion_tokens"], None)
    problem = None if not last or "delta" in last else str(last)
    return Heard(sent_at, deltas, None, 0, problem)


# --- figures --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """One level, boiled down."""

    gate: str
    sessions: int
    lag_p50_s: float
    lag_p95_s: float
    words: int
    """Whose lags these are."""
    complete: int
    problems: int
    frames_per_audio_s: float
    errors: str
    error_rate: float
    engine_cpu: float
    serving_cpu: float
    load_cpu: float

    @property
    def served(self) -> bool:
        complete = self.complete == self.sessions and not self.problems
        return complete and self.lag_p95_s < LAG_S


def to_level(gate: str, plan: Plan, measured: Measured) -> Level:
    lags = [lag for heard in measured.heard for lag in lags_s(heard, plan)]
    tracks = [plan.track(index) for index in range(plan.sessions)]
    complete = [
        (track, heard)
        for track, heard in zip(tracks, measured.heard, strict=True)
        if heard.text is not None
    ]
    pairs = [
        pair
        for track, heard in complete
        for pair in align([word.word for word in track.words], (heard.text or "").split())
    ]
    errors = count(pairs)
    audio_s = sum(track.seconds for track, _ in complete)
    return Level(
        gate=gate,
        sessions=plan.sessions,
        lag_p50_s=percentile(lags, 50),
        lag_p95_s=percentile(lags, 95),
        words=len(lags),
        complete=len(complete),
        problems=sum(heard.problem is not None for heard in measured.heard),
        frames_per_audio_s=sum(h.frames for _, h in complete) / audio_s if audio_s else 0.0,
        errors=str(errors),
        error_rate=errors.rate,
        engine_cpu=measured.engine_cpu,
        serving_cpu=measured.serving_cpu,
        load_cpu=measured.load_cpu,
    )


def lags_s(heard: Heard, plan: Plan) -> list[float]:
    """Of the words that ended within the window."""
    upto_s = plan.warm_up_s + plan.measure_s
    ends = [(at, end_s) for at, end_s in heard.deltas if plan.warm_up_s <= end_s < upto_s]
    return [at - heard.sent_at[math.ceil(round(end_s / CHUNK_S, 3)) - 1] for at, end_s in ends]


def most(play: Callable[[int], Level], first: int, step: int, finest: int) -> list[Level]:
    """Levels from `first` on, until one is not served, then halfway down to `finest`."""
    levels = [play(first)]
    while levels[-1].served:
        levels.append(play(levels[-1].sessions + step))
    high = levels[-1].sessions
    low = high - step
    while high - low > finest:
        middle = (low + high) // 2
        levels.append(play(middle))
        low, high = (middle, high) if levels[-1].served else (low, middle)
    return levels


def measure(gate: str, options: argparse.Namespace) -> list[Level]:
    """All levels of one daemon."""
    command = bundled_commands(
        [
            *("--max-sessions", "1000", "--engine.max-num-seqs", str(SLOTS)),
            *(["--no-silence-gate"] if gate == WITHOUT else []),
            *options.daemon_flags,
        ]
    )[OURS]
    with Server(ServerCommand(gate, command.argv)) as server:

        def play(sessions: int) -> Level:
            plan = Plan(
                server.url,
                server.serving_pid,
                sessions,
                tuple(options.speech),
                tuple(options.pause),
                options.warm_up,
                options.measure,
            )
            level = to_level(gate, plan, in_own_process(run_level, plan))
            note(f"{gate}, {sessions} sessions: {level}")
            return level

        return most(play, options.first, options.step, options.finest)


# --- report ---------------------------------------------------------------------------------


def best(levels: Sequence[Level], gate: str) -> Level | None:
    """The highest level below which none failed."""
    of = sorted((level for level in levels if level.gate == gate), key=lambda one: one.sessions)
    served = None
    for level in of:
        if not level.served:
            return served
        served = level
    return served


def report(levels: Sequence[Level]) -> str:
    """All levels, then the most sessions served, and errors at a level that both served."""
    head = ["", "sessions", "served", "lag p50, ms", "lag p95, ms", "frames an audio second"]
    head += ["word errors", "engine CPU, %", "serving CPU, %", "load CPU, %"]
    rows = [
        [
            level.gate,
            str(level.sessions),
            "yes" if level.served else "no",
            f"{1000 * level.lag_p50_s:.0f}",
            f"{1000 * level.lag_p95_s:.0f}",
            f"{level.frames_per_audio_s:.1f}",
            level.errors,
            *(f"{cpu:.0f}" for cpu in (level.engine_cpu, level.serving_cpu, level.load_cpu)),
        ]
        for level in sorted(levels, key=lambda level: (level.gate != WITHOUT, level.sessions))
    ]
    lines = [table(head, rows), ""]
    without, with_gate = best(levels, WITHOUT), best(levels, WITH)
    if without and with_gate:
        lines.append(
            f"{with_gate.sessions} sessions with the gate, {without.sessions} without: "
            f"{with_gate.sessions / without.sessions:.2f} times as many"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gating",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--speech", type=float, nargs=2, default=[2.0, 6.0], metavar="SECONDS", help="bounds")
    add("--pause", type=float, nargs=2, default=[3.0, 9.0], metavar="SECONDS", help="bounds")
    add("--warm-up", type=float, default=5.0, metavar="SECONDS")
    add("--measure", type=float, default=15.0, metavar="SECONDS")
    add("--first", type=int, default=16, help="sessions, must be served")
    add("--step", type=int, default=8, help="between levels, on the way up")
    add("--finest", type=int, default=2, help="between the highest served and the lowest not")
    add("--json", type=Path, metavar="OUT", help="write every level and the machine there")
    add("--daemon-flags", nargs=argparse.REMAINDER, default=[], help="for both; at the end")
    return parser.parse_args()


def main() -> None:
    options = parse()
    # As an exception, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.update(BUNDLED_ENVIRONMENT)  # as without settings
    levels = [level for gate in (WITHOUT, WITH) for level in measure(gate, options)]
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores; {versions()}")
    print(f"speech {options.speech} s, pauses {options.pause} s, {SLOTS} engine slots\n")
    print(report(levels))
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        result = {"machine": about, "versions": versions(), "settings": settings}
        rows = [asdict(level) for level in levels]
        options.json.write_text(json.dumps({**result, "levels": rows}, indent=1))


if __name__ == "__main__":
    main()
