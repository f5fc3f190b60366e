"""Thousands of cuts at random places: no word is lost, doubled, moved or joined to another.

The model is played by a recogniser that is perfect but for hearing only what its segment's frames
bring: it says a word when it has heard its end, and only if it has heard most of it. Frames,
cuts, restarts and joins are the real ones.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from geometry import BUNDLED, model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.config import Limits
from realtimed.transcription.hearing import Hearing
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.segment import CutReason, Frame, Segment
from realtimed.transcription.utterance import Next, SegmentChain, Utterance

MS = 16
RATE = 16_000
WINDOW = 512
MARK = 33


@dataclass(frozen=True)
class Spoken:
    name: str
    begin: int
    end: int


@dataclass
class Talk:
    """Words in a row, and the audio that has them: steady tones over near silence."""

    words: list[Spoken]
    audio: NDArray[np.float32]

    @classmethod
    def make(cls, lengths: list[tuple[int, int]]) -> "Talk":
        """`lengths`: of each word and of the gap after it, in ms."""
        words, at = [], 0
        for number, (word_ms, gap_ms) in enumerate(lengths):
            words.append(Spoken(f"w{number}", at, at + word_ms * MS))
            at += (word_ms + gap_ms) * MS
        audio = np.full(at, 1e-4, np.float32)
        for word in words:
            audio[word.begin : word.end] = 0.2
        return cls(words, audio)

    def is_speech(self, begin: int, end: int) -> bool:
        return bool((self.audio[begin:end] > 0.1).mean() > 0.3)


@dataclass
class Recogniser:
    """Says each word of the talk that a segment has heard."""

    talk: Talk
    said: set[str] = field(default_factory=set)
    due: list[str] = field(default_factory=list)

    def answer(self, segment: Segment, heard_to: int) -> tuple[list[int], str]:
        """Marker first, the word with the next frame, as the real model does it."""
        if self.due:
            return [7], " " + self.due.pop(0)
        for word in self.talk.words:
            most = word.begin + (word.end - word.begin) * 3 // 10
            if word.name in self.said or not segment.begin <= most:
                continue
            last = heard_to if segment.cut_at is None else min(heard_to, segment.cut_at)
            spoken_to = segment.framer.spoken(segment.framer.frames - 1)
            if word.end - (word.end - word.begin) // 5 <= last and spoken_to >= word.end - 30 * MS:
                self.said.add(word.name)
                self.due.append(word.name)
                return [MARK], ""
        return [32], ""


@dataclass
class Run:
    """One utterance, from the first sample to the last word."""

    chain: SegmentChain
    talk: Talk
    detection_is_slow: bool = False
    """It judges a window only when recognition has nothing to do."""
    text: str = ""
    reasons: list[CutReason] = field(default_factory=list)
    heard_samples: int = 0
    steps: int = 0

    def play(self, chunk: int, lag_windows: int) -> None:
        """Bring the audio in chunks; detection follows `lag_windows` behind it."""
        ring, utterance = self.chain.ring, self.chain.utterance
        recogniser, then = Recogniser(self.talk), Next.SEGMENT
        while then is not Next.NOTHING:
            self._judge(lag_windows if utterance.end is None else 0)
            if then is Next.PAUSE or self._segment_ends(recogniser):
                then = self.chain.advance()
                recogniser = Recogniser(self.talk)
            if then is Next.PAUSE:
                ring.release(self.chain.keep_from_in_pause)
            if ring.end < len(self.talk.audio):
                ring.append(self.talk.audio[ring.end : ring.end + chunk])
            else:
                utterance.end = ring.end

    def _judge(self, lag_windows: int) -> None:
        hearing = self.chain.hearing
        while hearing.pending and hearing.judged + lag_windows * WINDOW < self.chain.ring.end:
            self._judge_one()

    def _judge_one(self) -> None:
        hearing = self.chain.hearing
        speech = self.talk.is_speech(hearing.judged, hearing.judged + WINDOW)
        hearing.push(1.0 if speech else 0.0)

    def _segment_ends(self, recogniser: Recogniser) -> bool:
        """Run the current segment as far as it goes; whether it ended."""
        chain, segment = self.chain, self.chain.current
        while (frame := self._next_frame()) is not None:
            self.heard_samples += len(frame.audio)
            self.steps += 1
            tokens, text = recogniser.answer(segment, segment.heard)
            timed = chain.answered(tokens, text)
            self.text += timed.text if timed else ""
            chain.ring.release(int(min(chain.keep_from, chain.hearing.needed_from)))
            if not self.detection_is_slow:
                self._judge(0)
        if segment.cut_reason is None:
            return False
        assert segment.finished
        assert segment.framer.tokens < chain.model.max_model_len
        self.reasons.append(segment.cut_reason)
        chain.close_segment()
        return True

    def _next_frame(self) -> Frame | None:
        frame = self.chain.next_frame()
        hearing = self.chain.hearing
        while self.detection_is_slow and frame is None and hearing.pending:
            self._judge_one()
            frame = self.chain.next_frame()
        return frame


def make_run(
    talk: Talk, soft_s: float, hard_s: float, gate_s: float | None, prefix_ms: int = 600
) -> Run:
    ring = AudioRing(600 * RATE)
    hearing = Hearing(ring)
    if gate_s is not None:
        hearing.always = True
        hearing.start(0)
    policy = CutPolicy(
        soft_age=int(soft_s * RATE),
        hard_age=int(hard_s * RATE),
        window=RATE,
        quiet=200 * MS,
        tail=60 * MS,
        gate=None if gate_s is None else int(gate_s * RATE),
        prefix=prefix_ms * MS,
        ahead=160 * MS,
        blanks=10**9,
        resume=10 * RATE,
    )
    info = model()
    return Run(SegmentChain(info, Utterance(0, 0), policy, ring, hearing), talk)


words = st.tuples(
    st.integers(150, 600),
    st.one_of(st.integers(45, 150), st.sampled_from([250, 700, 2_600, 6_000])),
)


@settings(max_examples=120, deadline=None)
@given(
    lengths=st.lists(words, min_size=20, max_size=60),
    soft_s=st.floats(1.5, 6),
    more_s=st.floats(1.2, 6),
    gate_s=st.sampled_from([None, 0.5, 1.0, 2.0]),
    prefix_ms=st.sampled_from([0, 300, 600, 1_000]),
    chunk=st.sampled_from([160, 1_280, 5_000, 48_000]),
    lag=st.integers(0, 4),
    flood=st.booleans(),
    slow=st.booleans(),
)
def test_every_word_comes_exactly_once_and_in_order(
    lengths: list[tuple[int, int]],
    soft_s: float,
    more_s: float,
    gate_s: float | None,
    prefix_ms: int,
    chunk: int,
    lag: int,
    flood: bool,
    slow: bool,
) -> None:
    talk = Talk.make(lengths)
    run = make_run(talk, soft_s, soft_s + more_s, gate_s, prefix_ms)
    run.detection_is_slow = slow
    run.play(200 * RATE if flood else chunk, lag)
    assert run.text.split() == [word.name for word in talk.words]
    assert not re.search(r"\s\s|w\d+w", run.text)
    times = run.chain.words.words
    assert [word.word for word in times] == run.text.split()
    for word, truth in zip(times, talk.words, strict=True):
        assert word.end == pytest.approx(truth.end / RATE, abs=0.2)
        assert word.start <= word.end
    ends = [word.end for word in times]
    assert ends == sorted(ends)
    CUTS.extend(run.reasons)


CUTS: list[CutReason] = []


def test_that_were_more_than_a_thousand_cuts_for_every_reason() -> None:
    assert len(CUTS) > 1_000
    wanted = {
        CutReason.SOFT_AGE,
        CutReason.HARD_AGE,
        CutReason.SILENCE,
        CutReason.UTTERANCE_END,
    }
    assert wanted <= set(CUTS)


SPT = BUNDLED.samples_per_token
RIGHT_PAD_S = BUNDLED.right_pad / RATE


def steps_for(seconds: float) -> float:
    return seconds * RATE / SPT


@pytest.mark.parametrize("pause_ms", [2_500, 6_000, 60_000])
def test_of_a_long_pause_the_engine_hears_no_more_than_it_takes_to_say_all_words(
    pause_ms: int,
) -> None:
    talk = Talk.make([(400, 100)] * 5 + [(400, pause_ms)] + [(400, 100)] * 5)
    run = make_run(talk, 45, 90, gate_s=2.0)
    run.play(1_280, 1)
    assert run.text.split() == [word.name for word in talk.words]
    assert run.reasons == [CutReason.SILENCE, CutReason.UTTERANCE_END]
    # Twice the speech and the quiet after it; the quiet before it is in the step of the prompt.
    assert run.steps <= steps_for(2 * (2.9 + RIGHT_PAD_S)) + 4


def test_a_pause_shorter_than_the_gate_is_heard_whole_once_speech_returns() -> None:
    talk = Talk.make([(400, 100)] * 5 + [(400, 1_700)] + [(400, 100)] * 5)
    run = make_run(talk, 45, 90, gate_s=2.0)
    run.play(1_280, 1)
    assert run.text.split() == [word.name for word in talk.words]
    assert run.reasons == [CutReason.UTTERANCE_END]
    whole = steps_for(len(talk.audio) / RATE + RIGHT_PAD_S)
    assert run.steps == pytest.approx(whole, abs=4)


def test_an_utterance_that_ends_in_a_pause_that_has_said_all_its_words_hears_no_more() -> None:
    talk = Talk.make([(400, 100)] * 5 + [(400, 1_700)])
    run = make_run(talk, 45, 90, gate_s=2.0)
    run.play(1_280, 1)
    assert run.text.split() == [word.name for word in talk.words]
    assert run.reasons == [CutReason.UTTERANCE_END]
    assert run.steps <= steps_for(2.9 + RIGHT_PAD_S) + 4


@pytest.mark.parametrize("prefix_ms", [300, 600, 1_000])
def test_the_prompt_covers_the_quiet_before_an_onset_and_no_speech(prefix_ms: int) -> None:
    talk = Talk.make([(400, 9_000), (400, 100), (400, 100)])
    run = make_run(talk, 45, 90, gate_s=2.0, prefix_ms=prefix_ms)
    run.play(1_280, 1)
    assert run.text.split() == [word.name for word in talk.words]
    segment = run.chain.current
    onset = talk.words[1].begin
    assert segment.begin == pytest.approx(onset - prefix_ms * MS, abs=WINDOW)
    assert onset - SPT - WINDOW < segment.framer.spoken(0) <= onset


def test_a_pause_is_found_in_audio_that_comes_all_at_once() -> None:
    talk = Talk.make([(400, 100)] * 5 + [(400, 6_000)] + [(400, 100)] * 5)
    run = make_run(talk, 45, 90, gate_s=2.0)
    run.play(len(talk.audio), 0)
    assert run.text.split() == [word.name for word in talk.words]
    assert run.reasons == [CutReason.SILENCE, CutReason.UTTERANCE_END]


def test_an_utterance_that_ends_in_a_pause_ends_with_nothing_more() -> None:
    talk = Talk.make([(400, 100)] * 3 + [(400, 9_000)])
    run = make_run(talk, 45, 90, gate_s=2.0)
    run.play(1_280, 1)
    assert run.reasons == [CutReason.SILENCE]


@pytest.mark.parametrize("slow", [False, True])
def test_an_old_segment_is_cut_in_quiet_however_slow_detection_is(slow: bool) -> None:
    talk = Talk.make([(400, 100)] * 4 + [(400, 500)] + [(400, 100)] * 6)
    run = make_run(talk, 2, 60, gate_s=None)
    run.detection_is_slow = slow
    run.play(len(talk.audio), 0)
    assert run.text.split() == [word.name for word in talk.words]
    assert run.reasons == [CutReason.SOFT_AGE, CutReason.UTTERANCE_END]


def test_without_a_pause_the_cut_is_at_the_quietest_place_of_the_last_second() -> None:
    talk = Talk.make([(450, 50)] * 40)
    run = make_run(talk, 3, 5, gate_s=None)
    run.play(1_280, 0)
    assert set(run.reasons[:-1]) == {CutReason.HARD_AGE}
    assert run.text.split() == [word.name for word in talk.words]


def test_the_models_length_bounds_every_age() -> None:
    short = model(BUNDLED.shortest_model_len)
    policy = CutPolicy.build(short, Limits(), gate=True)
    longest = BUNDLED.left_pad + policy.hard_age + BUNDLED.right_pad
    assert longest / BUNDLED.samples_per_token < short.max_model_len
    assert 0 < policy.soft_age < policy.hard_age
    assert CutPolicy.build(model(), Limits(), gate=True).hard_age == 90 * RATE


def test_what_is_kept_behind_leaves_room_in_the_ring() -> None:
    limits = Limits(ring_s=3)
    policy = CutPolicy.build(model(), limits, gate=True)
    assert policy.resume + policy.window < 3 * RATE


def test_a_stall_in_the_flush_of_an_old_segment_begins_again_behind_the_last_word() -> None:
    talk = Talk.make([(400, 100)] * 3 + [(400, 600)] + [(400, 100)] * 2)
    run = make_run(talk, 1.5, 9, gate_s=2.0)
    chain, recogniser = run.chain, Recogniser(talk)
    chain.ring.append(talk.audio)
    while chain.current.cut_reason is None:
        run._judge(0)
        assert chain.next_frame() is not None
        chain.answered(*recogniser.answer(chain.current, chain.current.heard))
        if chain.next_frame() is not None:
            chain.answered([32], "")
    assert chain.current.cut_reason is CutReason.SOFT_AGE
    chain.current.cut(chain.resume_at, CutReason.STALL)
    chain.close_segment()
    assert chain.advance() is Next.SEGMENT
    assert chain.current.begin == max(chain.words.end, 0)
