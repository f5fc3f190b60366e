"""Speech for the tests: the bundled samples, mixtures of them that a seed determines, and scores.

Needs numpy only, so that a reference run in another process makes the very same samples.
"""

import json
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pcm16 = NDArray[np.int16]

SAMPLE_RATE = 16_000
DEMO = Path(__file__).parent.parent / "realtimed" / "demo"
SAMPLES = DEMO / "samples"


@dataclass(frozen=True)
class Word:
    """A spoken word and where it lies in its sample."""

    word: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Sample:
    """What the manifest says about one bundled recording; `name` is its file without `.wav`."""

    name: str
    voice: str
    seconds: float
    text: str
    words: tuple[Word, ...]


@cache
def manifest() -> dict[str, Sample]:
    """The bundled samples by name, in the manifest's order."""
    entries = json.loads((SAMPLES / "manifest.json").read_text())
    return {
        (name := entry["file"].removesuffix(".wav")): Sample(
            name=name,
            voice=entry["voice"],
            seconds=entry["seconds"],
            text=entry["text"],
            words=tuple(Word(**word) for word in entry["words"]),
        )
        for entry in entries
    }


@cache
def load_sample(name: str) -> Pcm16:
    """A bundled sample, 16 kHz mono, as a read-only int16 array of shape (samples,)."""
    with wave.open(str(SAMPLES / f"{name}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (
            SAMPLE_RATE,
            1,
            2,
        ), name
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16, copy=False)


def chunks(samples: Pcm16, size: int) -> Iterator[Pcm16]:
    """Cut `samples` into pieces of `size` samples; only the last is shorter."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def case_audio(seed: int, n_samples: int) -> Pcm16:
    """Speech that `seed` alone determines: joined excerpts, each with its own gain, over noise.

    Returns: int16 array of shape (n_samples,), 16 kHz. A shorter one is the beginning of a
    longer one of the same seed, apart from the noise.
    """
    # The bit generator is named because only it, not `default_rng`, is promised to stay.
    draw = np.random.Generator(np.random.PCG64(seed))
    noise_rms = float(draw.choice([0.0, 2.0, 20.0, 200.0]))
    names = list(manifest())
    mixed = np.empty(0, np.float64)
    while len(mixed) < n_samples:
        source = load_sample(names[int(draw.integers(len(names)))])
        length = int(draw.integers(SAMPLE_RATE // 4, 4 * SAMPLE_RATE))
        start = int(draw.integers(max(1, len(source) - length)))
        gain = float(draw.uniform(0.2, 1.6))
        mixed = np.concatenate((mixed, gain * source[start : start + length]))
    mixed = mixed[:n_samples] + noise_rms * draw.standard_normal(n_samples)
    return np.clip(np.rint(mixed), -32_768, 32_767).astype(np.int16)


def word_errors(reference: str, hypothesis: str) -> int:
    """The fewest words to substitute, insert or delete to turn one text into the other."""
    return edit_distance(reference.split(), hypothesis.split())


def edit_distance(wanted: Sequence[str], found: Sequence[str]) -> int:
    """The same of any units."""
    row = list(range(len(found) + 1))
    for i, unit in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            substituted = diagonal + (unit != other)
            diagonal = row[j]
            row[j] = min(substituted, row[j] + 1, row[j - 1] + 1)
    return row[-1]
