"""Long audio whose words and their times are known, made from the bundled samples by a seed.

A *run* is a stretch of words of one sample between two silences, and is never cut within. A
`Track` is runs, pauses, noise and chords laid on one time line, over the faint noise floor that
the samples themselves have. The samples that the model gets wrong even alone are left out, and
the voice that it has never heard.
"""

import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import DEMO, SAMPLE_RATE

CLEAN = ("callsign", "digits", "espeak", "pauses", "minute")
"""Voices of the training set, every word right but 2 of 56 in `minute` (MODEL_CARD.md)."""
MISHEARD = "one golf no kilo end"
"""The run of `minute` with those two."""

RUN_GAP_S = 0.2
"""Silence between words from which on a sample is cut there."""
MARGIN_S = 0.08
"""Of the silence around a run that stays with it: the last sound outlasts the word's end."""
FLOOR_RMS = 6.5
"""The samples' own silence, in steps of 16-bit PCM."""
PIECE_GAP_S = 1.0
"""Pauses from which on a track may be divided into pieces."""


@dataclass(frozen=True)
class Spoken:
    """A word and when it is spoken, in seconds."""

    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Run:
    """Words of one sample between two silences; times from the beginning of `samples`."""

    samples: NDArray[np.int16]
    words: tuple[Spoken, ...]


class Scene(Enum):
    """What a part of a track sounds like."""

    TALK = "talk"
    BRISK = "brisk"
    UNBROKEN = "unbroken"
    NOISE = "noise"
    MUSIC = "music"


PAUSES_S = {Scene.TALK: (0.1, 6.0), Scene.BRISK: (0.25, 1.5), Scene.UNBROKEN: (0.05, 0.14)}
"""Shortest and longest pause from a word's end to the next one's beginning."""


@dataclass(frozen=True)
class Track:
    """A recording with its truth; `samples` are int16 of shape (n,), 16 kHz mono."""

    samples: NDArray[np.int16]
    words: tuple[Spoken, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    def part(self, begin_s: float, end_s: float) -> "Track":
        """What lies in between, with the clock set back; only whole words are its truth."""
        begin, end = (round(at * SAMPLE_RATE) for at in (begin_s, end_s))
        words = tuple(
            Spoken(word.word, word.start_s - begin_s, word.end_s - begin_s)
            for word in self.words
            if begin_s <= word.start_s and word.end_s <= end_s
        )
        return Track(self.samples[begin:end], words)

    def pieces(self) -> list["Track"]:
        """The track divided in the middle of each pause of a second and more."""
        ends = [0.0, *(word.end_s for word in self.words)]
        starts = [*(word.start_s for word in self.words), self.seconds]
        gaps = zip(ends, starts, strict=True)
        cuts = [(end + start) / 2 for end, start in gaps if start - end >= PIECE_GAP_S]
        marks = [0.0, *cuts, self.seconds]
        return [self.part(begin, end) for begin, end in pairwise(marks) if end > begin]


@cache
def runs() -> tuple[Run, ...]:
    """All runs of the clean samples, without the one that the model gets wrong even there."""
    entries = json.loads((DEMO / "samples" / "manifest.json").read_text())
    by_name = {entry["file"].removesuffix(".wav"): entry["words"] for entry in entries}
    found = [run for name in CLEAN for run in _runs_of(name, by_name[name])]
    return tuple(run for run in found if " ".join(w.word for w in run.words) != MISHEARD)


def _runs_of(name: str, entries: Sequence[dict[str, object]]) -> list[Run]:
    with wave.open(str(DEMO / "samples" / f"{name}.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    words = [
        Spoken(str(entry["word"]), _seconds(entry["start_ms"]), _seconds(entry["end_ms"]))
        for entry in entries
    ]
    found: list[list[Spoken]] = []
    for word in words:
        if found and word.start_s - found[-1][-1].end_s < RUN_GAP_S:
            found[-1].append(word)
        else:
            found.append([word])
    return [_run(samples, group) for group in found]


def _seconds(milliseconds: object) -> float:
    return float(str(milliseconds)) / 1000


def _run(samples: NDArray[np.int16], words: Sequence[Spoken]) -> Run:
    begin_s = words[0].start_s - MARGIN_S
    begin, end = round(begin_s * SAMPLE_RATE), round((words[-1].end_s + MARGIN_S) * SAMPLE_RATE)
    moved = (Spoken(word.word, word.start_s - begin_s, word.end_s - begin_s) for word in words)
    return Run(samples[begin:end], tuple(moved))


class Composer:
    """Lays sounds one after another; the same seed and calls give the same track."""

    def __init__(self, seed: Sequence[int]) -> None:
        # The bit generator is named because only it, not `default_rng`, is promised to stay.
        self.draw = np.random.Generator(np.random.PCG64(seed))
        self.words: list[Spoken] = []
        self.now_s = 0.0
        """Where the last word or sound ended, or the pause after it."""
        self._sounds: list[tuple[int, NDArray[np.float32]]] = []
        self._last = -1

    def pause(self, seconds: float) -> None:
        """Nothing but the noise floor."""
        self.now_s += seconds

    def pause_between(self, shortest_s: float, longest_s: float) -> None:
        """A pause of any length in between; short ones are the more frequent."""
        self.pause(float(np.exp(self.draw.uniform(np.log(shortest_s), np.log(longest_s)))))

    def say(self) -> None:
        """One run, not the same as before, at any loudness; its first word begins now."""
        index = int(self.draw.integers(len(runs()) - 1))
        index += index >= self._last >= 0
        self._last = index
        run = runs()[index]
        begin_s = max(0.0, self.now_s - run.words[0].start_s)
        gain = np.float32(self.draw.uniform(0.5, 1.5))
        self._add(begin_s, gain * run.samples)
        self.words += [
            Spoken(word.word, begin_s + word.start_s, begin_s + word.end_s) for word in run.words
        ]
        self.now_s = self.words[-1].end_s

    def speak(self, seconds: float, pauses_s: tuple[float, float]) -> None:
        """Runs and pauses for at least so long, ending with a run."""
        until_s = self.now_s + seconds
        self.say()
        while self.now_s < until_s:
            self.pause_between(*pauses_s)
            self.say()

    def noise(self, seconds: float) -> None:
        """Noise of one colour between white and brown, rising and falling slowly."""
        n = round(seconds * SAMPLE_RATE)
        colour = self.draw.uniform(0.0, 1.0)
        spectrum = np.fft.rfft(self.draw.standard_normal(n))
        spectrum /= np.maximum(np.arange(len(spectrum)), n / SAMPLE_RATE * 50) ** colour
        sound = np.fft.irfft(spectrum, n)
        swell = 1 + 0.5 * np.sin(np.linspace(0, seconds, n))
        rms = self.draw.uniform(100, 800)
        self._sound(rms * swell * sound / sound.std())

    def music(self, seconds: float) -> None:
        """Chords of three plucked tones with overtones, two a second."""
        n, beat = round(seconds * SAMPLE_RATE), SAMPLE_RATE // 2
        time = np.arange(beat) / SAMPLE_RATE
        sound = np.zeros(-(-n // beat) * beat)
        for at in range(0, n, beat):
            root = 110 * 2 ** (self.draw.integers(24) / 12)
            for interval in (0, int(self.draw.choice([3, 4])), 7):
                for overtone in (1, 2, 3, 4):
                    tone = overtone * root * 2 ** (interval / 12)
                    sound[at : at + beat] += np.sin(2 * np.pi * tone * time) / overtone**1.5
            sound[at : at + beat] *= np.minimum(time / 0.01, 1) * np.exp(-3 * time)
        self._sound(1_500 * sound[:n] / sound.std())

    def track(self, seconds: float) -> Track:
        """All of it, cut or filled up to so many seconds; a word on the edge is left out."""
        n = round(seconds * SAMPLE_RATE)
        words = tuple(word for word in self.words if word.end_s + MARGIN_S <= seconds)
        out = np.float32(FLOOR_RMS) * self.draw.standard_normal(n, np.float32)
        limit = round((words[-1].end_s + MARGIN_S) * SAMPLE_RATE) if words else n
        limit = limit if len(words) < len(self.words) else n
        for begin, sound in self._sounds:
            piece = sound[: max(0, limit - begin)]
            out[begin : begin + len(piece)] += piece
        return Track(np.clip(np.rint(out), -32_768, 32_767).astype(np.int16), words)

    def _sound(self, sound: NDArray[np.float64]) -> None:
        """Add what is no speech, faded in and out over 50 ms, and go on after it."""
        fade = np.minimum(np.arange(len(sound)) / (0.05 * SAMPLE_RATE), 1)
        self._add(self.now_s, (sound * fade * fade[::-1]).astype(np.float32))
        self.now_s += len(sound) / SAMPLE_RATE

    def _add(self, at_s: float, sound: NDArray[np.float32]) -> None:
        self._sounds.append((round(at_s * SAMPLE_RATE), sound))


def scenes_track(seed: int, scenes: Sequence[tuple[Scene, float]], seconds: float) -> Track:
    """The scenes (kind, seconds), over and over, for so many seconds."""
    composer = Composer((seed,))
    end_s = 0.0
    while end_s < seconds:
        for scene, length_s in scenes:
            end_s += length_s
            # Scenes end on time or late by a run; the next one is the shorter for it.
            composer.pause(1.2)
            left_s = end_s - composer.now_s
            if scene is Scene.NOISE:
                composer.noise(left_s)
            elif scene is Scene.MUSIC:
                composer.music(left_s)
            else:
                composer.speak(left_s - 3.0, PAUSES_S[scene])
    return composer.track(seconds)


def turns_track(
    seed: Sequence[int], speech_s: tuple[float, float], pause_s: tuple[float, float], seconds: float
) -> Track:
    """Somebody who speaks and is silent in turn, heard from any moment on.

    Lengths are uniform in their bounds. Within speech the gaps are those of `UNBROKEN`. The
    first part is cut at random, so that speakers of different seeds are independent; a word
    on that edge is left out.
    """
    composer = Composer(seed)
    cycle_s = speech_s[1] + pause_s[1]
    while composer.now_s < seconds + cycle_s:
        composer.speak(float(composer.draw.uniform(*speech_s)) - 1.0, PAUSES_S[Scene.UNBROKEN])
        composer.pause(float(composer.draw.uniform(*pause_s)))
    begin_s = float(composer.draw.uniform(0, cycle_s))
    for word in composer.words:
        if word.start_s - MARGIN_S < begin_s < word.end_s + MARGIN_S:
            begin_s = word.end_s + MARGIN_S
    return composer.track(begin_s + seconds).part(begin_s, begin_s + seconds)
