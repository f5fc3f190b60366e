"""Utterances for models that transcribe whole clips: no word is lost, doubled or told and changed.

The model is played by a recogniser that is perfect but for hearing only its window, and for making
something up of a word that its window breaks off. Windows, cuts, agreement and joins are the real
ones.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.config import Limits
from realtimed.engine.spec import Hypothesis, SegmentedModel
from realtimed.transcription.hearing import Hearing
from realtimed.transcription.segment import CutReason
from realtimed.transcription.segmented import StretchChain, Window
from realtimed.transcription.stretch import WindowPolicy
from realtimed.transcription.utterance import Next, Utterance
from realtimed.wire.events import NO_GUIDANCE, Guidance

MS = 16
RATE = 16_000
WINDOW = 512
MODEL = SegmentedModel(
    model="test",
    served_names=("test",),
    architecture="WhisperForConditionalGeneration",
    max_model_len=448,
    max_num_seqs=4,
    sample_rate=RATE,
    max_clip_s=30,
)
POLICY = WindowPolicy.build(MODEL, Limits())


@dataclass
class Talk:
    """Words in a row, and the audio that has them: steady tones over near silence."""

    words: list[tuple[str, int, int]]
    audio: NDArray[np.float32]

    @classmethod
    def make(cls, lengths: list[tuple[int, int]]) -> "Talk":
        """`lengths`: of each word and of the gap after it, in ms."""
        words, at = [], 0
        for number, (word_ms, gap_ms) in enumerate(lengths):
            words.append((f"w{number}", at, at + word_ms * MS))
            at += (word_ms + gap_ms) * MS
        audio = np.full(at, 1e-4, np.float32)
        for _, begin, end in words:
            audio[begin:end] = 0.2
        return cls(words, audio)

    @property
    def text(self) -> str:
        return " ".join(word for word, _, _ in self.words)

    def heard(self, begin: int, end: int) -> str:
        """A word is heard if most of it is in the window; of one broken off at its end, nonsense
        that is another one each time."""
        said = []
        for word, first, last in self.words:
            inside = min(last, end) - max(first, begin)
            if inside * 2 > last - first:
                said.append(word)
            elif inside > 0 and first >= begin:
                said.append(f"x{end}")
        return " ".join(said)


@dataclass
class Run:
    """Plays an utterance through its chain, as the feeder and the generation task do."""

    talk: Talk
    policy: WindowPolicy = POLICY
    guidance: Guidance = NO_GUIDANCE
    continues: bool = False
    """Whether the recogniser goes on from what has been told."""
    deltas: list[str] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    cuts: list[tuple[CutReason, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ring = AudioRing(30 * RATE)
        self.hearing = Hearing(self.ring)
        self.hearing.always = True
        self.hearing.start(0)
        self.utterance = Utterance(0, 0, guidance=self.guidance)
        model = replace(MODEL, continues=self.continues)
        self.chain = StretchChain(model, self.utterance, self.policy, self.ring, self.hearing)
        self.window: Window | None = None
        self.said = ""
        self.answer_at = 0
        self.open = False

    def play(self, chunks: list[int], takes: list[int], *, commit_late: bool = False) -> str:
        """`chunks`: sizes of the pieces that audio comes in; `takes`: how long decodes take, in
        pieces of audio."""
        fed = step = 0
        audio = self.talk.audio
        while fed < len(audio):
            piece = audio[fed : fed + chunks[step % len(chunks)]]
            self.ring.append(piece)
            fed, step = fed + len(piece), step + 1
            if fed == len(audio) and not commit_late:
                self.utterance.end = fed
            self.judge(step, takes)
            self.turn(step, takes)
        self.utterance.end = fed
        for late in range(step, step + 400):
            self.turn(late, takes)
        assert not self.open
        return "".join(self.deltas)

    def judge(self, step: int, takes: list[int]) -> None:
        while self.hearing.pending:
            loud = float(np.abs(self.hearing.next_window()).mean()) > 0.05
            self.hearing.push(1.0 if loud else 0.0)
            if self.open:
                self.chain.follow()

    def turn(self, step: int, takes: list[int]) -> None:
        """One moment in the life of the generation task."""
        if self.open:
            self.chain.follow()
            if self.window is not None and self.chain.pointless(self.window):
                self.window = None
            if self.window is not None and step >= self.answer_at:
                self.answer(self.window, takes[step % len(takes)])
            self.tell(self.chain.settle())
            if self.window is None and (window := self.chain.next_window()) is not None:
                assert self.ring.start <= window.begin < window.end <= self.ring.end
                self.window, self.said = window, self.chain.said
                self.windows.append(window)
                self.answer_at = step + takes[step % len(takes)]
            if self.chain.current.said:
                self.close()
        else:
            then = self.chain.advance()
            self.open = then is Next.SEGMENT
            if then is Next.PAUSE:
                self.ring.release(self.chain.keep_from_in_pause)

    def answer(self, window: Window, took: int) -> None:
        words = self.talk.heard(window.begin, window.end).split()
        said = self.said.split()
        heard = Hypothesis(" ".join([*said, *words[len(said) :]]), 4, 5)
        self.tell(self.chain.answered(window, heard, took * 1_280))
        self.window = None
        self.ring.release(min(self.chain.keep_from, self.hearing.judged))

    def tell(self, timed: object) -> None:
        if timed is not None:
            self.deltas.append(timed.text)  # type: ignore[attr-defined]

    def close(self) -> None:
        stretch = self.chain.current
        assert stretch.cut_reason is not None
        assert stretch.cut_at is not None
        self.cuts.append((stretch.cut_reason, stretch.cut_at))
        self.window, self.open = None, False


WORDS = st.lists(
    st.tuples(st.integers(200, 900), st.sampled_from([40, 90, 150, 260, 400, 700, 1_100, 2_500])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(
    WORDS,
    st.lists(st.integers(160, 16_000), min_size=1, max_size=5),
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_every_word_is_told_once_and_in_order(
    lengths: list[tuple[int, int]],
    chunks: list[int],
    takes: list[int],
    commit_late: bool,
    continues: bool,
) -> None:
    talk = Talk.make(lengths)
    run = Run(talk, continues=continues)
    assert run.play(chunks, takes, commit_late=commit_late).split() == talk.text.split()


@settings(max_examples=25, deadline=None)
@given(WORDS, st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_audio_that_comes_at_once_is_cut_in_the_same_places(
    lengths: list[tuple[int, int]], takes: list[int]
) -> None:
    talk = Talk.make(lengths)
    slow, fast = Run(talk), Run(talk)
    slow.play([640], takes)
    fast.play([RATE * 8], [1])
    assert slow.cuts == fast.cuts


def test_silence_and_clicks_are_never_decoded() -> None:
    talk = Talk.make([(40, 900)] * 10)
    run = Run(talk)
    assert run.play([1_280], [1]) == ""
    assert run.windows == []


def test_a_pause_ends_a_stretch_and_the_early_decode_is_its_last() -> None:
    talk = Talk.make([(400, 60)] * 5 + [(400, 3_000)])
    run = Run(talk)
    run.play([512], [2])
    assert [reason for reason, _ in run.cuts] == [CutReason.SILENCE]
    assert not any(window.final for window in run.windows)


def test_a_long_window_is_cut_in_the_next_short_pause() -> None:
    talk = Talk.make([(400, 60)] * 30 + [(400, 300)] + [(400, 60)] * 5)
    run = Run(talk)
    run.play([1_280], [1])
    assert run.cuts[0][0] is CutReason.SOFT_AGE


def test_speech_without_a_pause_is_cut_where_it_is_quietest_before_the_longest_clip() -> None:
    talk = Talk.make([(700, 32)] * 60)
    run = Run(talk)
    assert run.play([1_280], [1]).split() == talk.text.split()
    assert run.cuts[0][0] is CutReason.HARD_AGE
    assert all(window.end - window.begin <= POLICY.hard_age for window in run.windows)


def test_slow_decodes_make_partials_rarer() -> None:
    talk = Talk.make([(400, 60)] * 20)
    quick, slow = Run(talk), Run(talk)
    quick.play([1_280], [1])
    slow.play([1_280], [25])
    assert len(slow.windows) <= len(quick.windows) / 2


def test_a_restart_decodes_the_window_anew_and_goes_on_behind_what_was_told() -> None:
    talk = Talk.make([(400, 60)] * 20)
    run = Run(talk)
    audio = talk.audio
    for at in range(0, len(audio) // 2, 1_280):
        run.ring.append(audio[at : at + 1_280])
        run.judge(0, [1])
        run.turn(at // 1_280, [1])
    told = "".join(run.deltas)
    assert told
    run.chain.current.cut(run.chain.resume_at, CutReason.STALL)
    run.close()
    rest = audio[run.ring.end :]
    run.talk = talk
    for at in range(0, len(rest), 1_280):
        run.ring.append(rest[at : at + 1_280])
        run.judge(0, [1])
        run.turn(1_000 + at, [1])
    run.utterance.end = run.ring.end
    for late in range(10_000, 10_400):
        run.turn(late, [1])
    assert "".join(run.deltas).startswith(told)
    assert "".join(run.deltas).split() == talk.text.split()


def test_a_cleared_utterance_is_given_up_at_once() -> None:
    talk = Talk.make([(400, 60)] * 10)
    run = Run(talk)
    run.ring.append(talk.audio)
    run.judge(0, [9])
    run.turn(0, [9])
    run.turn(1, [9])
    assert run.window is not None
    run.utterance.end, run.utterance.cancelled = run.ring.end, True
    run.turn(2, [9])
    assert not run.open
    assert run.chain.advance() is Next.NOTHING


@pytest.mark.parametrize("text", ["[BLANK_AUDIO]", " (water running)", "..."])
def test_what_describes_a_sound_is_no_text(text: str) -> None:
    run = Run(Talk.make([(400, 60)] * 4))
    run.ring.append(run.talk.audio)
    run.utterance.end = run.ring.end
    run.judge(0, [1])
    assert run.chain.advance() is Next.SEGMENT
    run.chain.follow()
    window = run.chain.next_window()
    assert window is not None
    assert window.final
    assert run.chain.answered(window, Hypothesis(text), 0) is None
    assert run.chain.current.said


def test_a_language_is_detected_again_until_the_window_was_long_enough() -> None:
    chain = Run(Talk.make([(400, 60)])).chain
    lengths = []
    for second in range(1, 20):
        window = Window(0, second * RATE, final=False)
        if chain.language_for(window) is None:
            lengths.append(second)
            chain.detected(window, "en")
    assert lengths == [1, 4]


def test_first_words_are_taken_to_be_in_the_language_of_the_speech_before() -> None:
    chain = Run(Talk.make([(400, 60)])).chain
    chain.language = "fr"
    assert chain.language_for(Window(0, RATE, final=False)) == "fr"
    for last in (Window(0, RATE, final=True), Window(0, RATE, final=False, decisive=True)):
        assert chain.language_for(last) is None
    assert chain.language_for(Window(0, 2 * RATE, final=False)) is None


def test_a_language_that_the_model_says_with_the_text_is_told_and_not_asked_for_later() -> None:
    run = Run(Talk.make([(400, 60)] * 3))
    window = Window(0, RATE, final=False)
    run.chain.answered(window, Hypothesis("w0 w1", language="fr"), 0)
    run.chain.answered(window, Hypothesis("w0 w1 w2"), 0)
    assert run.chain.spoken_language == "fr"
    assert run.chain.language_for(window) is None


def test_a_language_that_was_asked_for_is_not_detected() -> None:
    chain = Run(Talk.make([(400, 60)]), guidance=Guidance(language="fr")).chain
    assert chain.language_for(Window(0, RATE, final=True)) == "fr"
