"""What speech detection costs: `SpeechModel.probabilities`, all in.

    python -m benchmarks.vad [--sessions 1 8 32 128] [--repeat 5] [--windows 2560]

Every session plays the bundled minute from a place of its own, whose pauses carry noise above
the gate, so that the model judges each window: the worst case. Then all sessions are silent.

- CPU: user and system time of this process, per window of 32 ms; wall time likewise.
- Load: the share of one core that one session takes, from the CPU time of speech.

The table gives medians over the runs.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import CHUNK_SAMPLES, machine, median, stream_audio
from realtimed.audio.vad import SAMPLE_RATE, WINDOW_SAMPLES, SpeechModel, VoiceState

WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Cost:
    """Microseconds a window of one session."""

    cpu_us: float
    wall_us: float


def speech(sessions: int, steps: int) -> NDArray[np.float32]:
    """Float32 of shape (steps, sessions, 512)."""
    samples = steps * WINDOW_SAMPLES
    chunks = -(-samples // CHUNK_SAMPLES)
    streams = [stream_audio(index, chunks)[:samples] for index in range(sessions)]
    windows = np.stack(streams).astype(np.float32) / 32_768
    return np.ascontiguousarray(windows.reshape(sessions, steps, WINDOW_SAMPLES).swapaxes(0, 1))


def silence(sessions: int, steps: int) -> NDArray[np.float32]:
    """The same of zeros."""
    return np.zeros((steps, sessions, WINDOW_SAMPLES), np.float32)


def measure(model: SpeechModel, windows: NDArray[np.float32]) -> Cost:
    """The mean cost of a window over all steps but the first `WARM_UP_STEPS`."""
    steps, sessions, _ = windows.shape
    states = [VoiceState() for _ in range(sessions)]
    for step in windows[:WARM_UP_STEPS]:
        model.probabilities(step, states)
    cpu, wall = time.process_time(), time.perf_counter()
    for step in windows[WARM_UP_STEPS:]:
        model.probabilities(step, states)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    judged = (steps - WARM_UP_STEPS) * sessions
    return Cost(cpu * 1e6 / judged, wall * 1e6 / judged)


def medians(
    model: SpeechModel,
    make: Callable[[int, int], NDArray[np.float32]],
    sessions: int,
    options: argparse.Namespace,
) -> Cost:
    windows = make(sessions, WARM_UP_STEPS + -(-options.windows // sessions))
    runs = [measure(model, windows) for _ in range(options.repeat)]
    return Cost(median([run.cpu_us for run in runs]), median([run.wall_us for run in runs]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the cost of speech detection.")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which medians are given")
    parser.add_argument("--windows", type=int, default=2_560, help="windows a run, all sessions")
    options = parser.parse_args()
    model = SpeechModel()
    print(f"Speech detection, {machine()['cpu']}, one thread, microseconds a 32 ms window.\n")
    print("| sessions | speech, CPU | speech, wall | silence, CPU | silence, wall | load |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for sessions in options.sessions:
        loud = medians(model, speech, sessions, options)
        quiet = medians(model, silence, sessions, options)
        load = loud.cpu_us * 1e-6 * SAMPLE_RATE / WINDOW_SAMPLES
        print(
            f"| {sessions} | {loud.cpu_us:.1f} | {loud.wall_us:.1f} | {quiet.cpu_us:.2f} "
            f"| {quiet.wall_us:.2f} | {load:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
