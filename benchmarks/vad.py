"""What speech detection costs: `SpeechModel.probabilities`, all in, beside onnxruntime.

    python -m benchmarks.vad [--sessions 1 8 32 128] [--repeat 5] [--windows 2560]

Every session plays the bundled minute from a place of its own, whose pauses carry noise above
the gate, so that the network judges each window: the worst case. Then all sessions are silent.

- CPU: user and system time of this process, per window of 32 ms.
- onnxruntime: the same with its inference, on one thread, in place of the network.
- Load: the share of one core that one session takes, from the CPU time of speech.

The table gives medians over the runs, which alternate between the two.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.common import CHUNK_SAMPLES, machine, median, stream_audio
from realtimed.audio.silero import model_path
from realtimed.audio.vad import SAMPLE_RATE, WINDOW_SAMPLES, SpeechModel, VoiceState

WARM_UP_STEPS = 20

Array = NDArray[np.float32]


@dataclass
class Onnxruntime:
    """The same network in another engine."""

    session: onnxruntime.InferenceSession

    @classmethod
    def load(cls) -> "Onnxruntime":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        return cls(onnxruntime.InferenceSession(str(model_path()), options, providers=providers))

    def probabilities(self, samples: Array, state: Array) -> Array:
        feed = {"input": samples, "state": state, "sr": np.array(SAMPLE_RATE, np.int64)}
        output, state[:] = self.session.run(None, feed)
        return output[:, 0]


def speech(sessions: int, steps: int) -> Array:
    """Float32 of shape (steps, sessions, 512)."""
    samples = steps * WINDOW_SAMPLES
    chunks = -(-samples // CHUNK_SAMPLES)
    streams = [stream_audio(index, chunks)[:samples] for index in range(sessions)]
    windows = np.stack(streams).astype(np.float32) / 32_768
    return np.ascontiguousarray(windows.reshape(sessions, steps, WINDOW_SAMPLES).swapaxes(0, 1))


def silence(sessions: int, steps: int) -> Array:
    """The same of zeros."""
    return np.zeros((steps, sessions, WINDOW_SAMPLES), np.float32)


def cpu_us(model: SpeechModel, windows: Array) -> float:
    """The mean cost of a window over all steps but the first `WARM_UP_STEPS`."""
    steps, sessions, _ = windows.shape
    states = [VoiceState() for _ in range(sessions)]
    for step in windows[:WARM_UP_STEPS]:
        model.probabilities(step, states)
    begin = time.process_time()
    for step in windows[WARM_UP_STEPS:]:
        model.probabilities(step, states)
    return (time.process_time() - begin) * 1e6 / ((steps - WARM_UP_STEPS) * sessions)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the cost of speech detection.")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which medians are given")
    parser.add_argument("--windows", type=int, default=2_560, help="windows a run, all sessions")
    options = parser.parse_args()
    ours, theirs = SpeechModel(), SpeechModel()
    theirs._network = Onnxruntime.load()  # type: ignore[assignment]
    print(f"Speech detection, {machine()['cpu']}, one thread, µs of CPU a 32 ms window.\n")
    print("| sessions | speech | onnxruntime | ratio | silence | load |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for sessions in options.sessions:
        steps = WARM_UP_STEPS + -(-options.windows // sessions)
        loud, quiet = speech(sessions, steps), silence(sessions, steps)
        runs = [
            (cpu_us(ours, loud), cpu_us(theirs, loud), cpu_us(ours, quiet))
            for _ in range(options.repeat)
        ]
        mine, other, silent = (median(list(of)) for of in zip(*runs, strict=True))
        load = mine * 1e-6 * SAMPLE_RATE / WINDOW_SAMPLES
        print(
            f"| {sessions} | {mine:.1f} | {other:.1f} | {mine / other:.2f} | {silent:.2f} "
            f"| {load:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
