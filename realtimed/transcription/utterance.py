"""An utterance: what the client delimits, recognised as a chain of segments. Sans-IO.

The chain decides where segments end and begin (`CutPolicy`), keeps the utterance's words and their
times, and knows which audio it may still need. Segments join without a gap, but for pauses, which
no segment hears, and for restarts, which hear again what was not recognised.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from realtimed.audio.levels import quietest
from realtimed.audio.ring import AudioRing
from realtimed.audio.vad import WINDOW_SAMPLES
from realtimed.engine.spec import StreamingModel
from realtimed.transcription.hearing import Hearing
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.segment import CutReason, Frame, Segment
from realtimed.transcription.words import WordClock, join
from realtimed.wire.events import NO_GUIDANCE, Guidance, TokenLogprob, Word

_BLANKS_BETWEEN_LOOKS: Final = 12
"""Frames without text between two looks at whether there was speech in them: about a second."""


@dataclass(slots=True)
class Utterance:
    """A stretch of the session's audio, [`begin`, `end`) in samples; `end` comes later."""

    id: int
    begin: int
    end: int | None = None
    cancelled: bool = False
    """Nobody wants to hear of it any more; it has an `end` then."""
    logprobs: bool = False
    """Whether its text comes with the log probabilities of its tokens."""
    guidance: Guidance = NO_GUIDANCE


@dataclass(frozen=True, slots=True)
class TimedText:
    """Text and when it was spoken, in seconds on the session's clock."""

    text: str
    start: float
    end: float
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of its tokens, where the utterance asked for them."""


class Next(Enum):
    """What comes after a segment."""

    SEGMENT = auto()
    PAUSE = auto()
    NOTHING = auto()


@dataclass(slots=True)
class SegmentChain:
    """The segments of one utterance, one at a time."""

    model: StreamingModel
    utterance: Utterance
    policy: CutPolicy
    ring: AudioRing
    hearing: Hearing
    prompt_tokens: int = 0
    completion_tokens: int = 0
    current: Segment = field(init=False)
    words: WordClock = field(init=False)
    _hold: int | None = field(init=False, default=None)
    """Where the search for a place to cut an old segment begins; it hears nothing more."""
    _resting: bool = field(init=False, default=False)
    """Whether a pause is going on that has said all its words: it is heard only if it is short."""
    _again: int | None = field(init=False, default=None)
    """The first place where the next segment may begin, if that is not where this one is cut."""
    _blanks: int = field(init=False, default=0)
    _patience: int = field(init=False)
    _last_character: str = field(init=False, default="")
    _fresh: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.words = WordClock(self.model.geometry.sample_rate, self.utterance.begin)
        self._patience = self.policy.blanks
        self.current = Segment(self.model.geometry, self.utterance.begin)

    # --- frames ---------------------------------------------------------------------------

    def next_frame(self) -> Frame | None:
        """The next frame of the current segment, cutting it first where that is due.

        `None`: audio is missing; or, if the segment is cut, all of it is flushed.
        """
        segment = self.current
        if segment.cut_reason is None:
            self._follow(segment)
            if segment.cut_reason is None:
                waits = self._resting or self._hold is not None
                return None if waits else segment.next_frame(self.ring, self._upto)
        return segment.next_frame(self.ring)

    def answered(self, tokens: Sequence[int], text: str) -> TimedText | None:
        """The engine's tokens for the frame in flight, and what they say."""
        segment = self.current
        segment.answered(tokens)
        at = segment.recognised_to
        if not text:
            self._blanks += 1
            self.words.blank(at if self.model.geometry.word_mark in tokens else None)
            return None
        self._blanks, self._patience = 0, self.policy.blanks
        if self._fresh:
            text, self._fresh = join(self._last_character, text), False
        self._last_character = text[-1:] or self._last_character
        return TimedText(text, *self.words.text(text, at, self.hearing.onset))

    @property
    def _upto(self) -> int | None:
        """Recognition stays close to speech detection, where that decides what is cut."""
        return self.hearing.judged + self.policy.ahead if self.hearing.active else None

    @property
    def keep_from(self) -> int:
        """Session position before which the utterance needs no audio any more."""
        segment = self.current
        again = max(self.words.end, segment.begin, segment.heard - self.policy.resume)
        return min(segment.framer.needed_from, again)

    @property
    def keep_from_in_pause(self) -> int:
        """The same between two segments: what may lie before the next onset."""
        return self.hearing.judged - self.policy.prefix - WINDOW_SAMPLES

    # --- cutting --------------------------------------------------------------------------

    def _follow(self, segment: Segment) -> None:
        """Cut the current segment if there is a reason to."""
        end = self.utterance.end
        if self.utterance.cancelled:
            segment.cut(segment.heard, CutReason.CLEARED)
            return
        if self.policy.gate is not None and self._hold is None:
            self._rest_in_pause(segment, self.policy.gate)
            if segment.cut_reason is not None or self._resting:
                return
        if end is not None and segment.framer.reaches > end:
            # A turn is found to have ended where it grew quiet, and by then that quiet may have
            # been cut in: the segment behind it has nothing to say.
            at = max(end, segment.begin)
            segment.cut(at, CutReason.UTTERANCE_END, flush=end > segment.begin)
            return
        age = segment.heard - segment.begin
        if self._hold is not None or age >= self.policy.hard_age - self.policy.window:
            self._cut_hard(segment)
        elif age >= self.policy.soft_age:
            self._cut_in_quiet(segment)
        due = self._blanks and self._blanks % _BLANKS_BETWEEN_LOOKS == 0
        if due and segment.cut_reason is None:
            self._look_at_blanks(segment)

    def _cut_hard(self, segment: Segment) -> None:
        """Cut at the quietest place of the window, as soon as all of it is there."""
        if self._hold is None:
            self._hold = segment.heard
        end = self.utterance.end
        upto = self._hold + self.policy.window
        upto = upto if end is None else min(upto, end)
        if self.ring.end >= upto:
            at = self._hold + quietest(self.ring.copy(self._hold, upto))
            segment.cut(at, CutReason.HARD_AGE)

    def _rest_in_pause(self, segment: Segment, gate: int) -> None:
        """In a pause, hear no more than it takes to say all words; cut if it gets long.

        That is as much as the padding of a flush, which would be more of the same silence. What
        comes then is heard when it turns out that the pause ends before the gate closes.
        """
        hearing, enough = self.hearing, self.model.geometry.right_pad
        judged = min(segment.heard, hearing.judged)
        began = hearing.quiet_from(segment.begin, judged)
        self._resting = False
        if segment.heard - began < min(gate, enough):
            return
        onset = hearing.onset(judged)
        quiet_to = hearing.judged if onset is None else onset
        end = self.utterance.end
        if quiet_to - began >= gate:
            flush = segment.heard - began < enough
            segment.cut(judged if flush else quiet_to, CutReason.SILENCE, flush=flush)
            self._again = began + self.policy.tail
        elif onset is None and end is not None and self._judged_to(end):
            segment.cut(end, CutReason.UTTERANCE_END, flush=False)
        else:
            self._resting = onset is None

    def _cut_in_quiet(self, segment: Segment) -> None:
        """Cut an old segment after a short pause."""
        self.hearing.start(segment.heard)
        at = min(segment.heard, self.hearing.judged)
        quiet = at - self.hearing.quiet_from(segment.begin, at)
        if quiet >= self.policy.quiet:
            segment.cut(at, CutReason.SOFT_AGE)
            self._again = at - quiet + self.policy.tail

    def _look_at_blanks(self, segment: Segment) -> None:
        """Begin again if nothing is recognised although somebody speaks."""
        spt = self.model.geometry.samples_per_token
        if self._blanks * spt * 2 < self._patience:
            return
        self.hearing.start(segment.heard)
        begin = max(self.resume_at, self.hearing.since)
        if self.hearing.track.speech_samples(begin, segment.recognised_to) >= self._patience:
            segment.cut(self.resume_at, CutReason.BLANKS)
            # If that does not help, it may be music: try again, but ever less often.
            self._patience *= 2

    @property
    def resume_at(self) -> int:
        """Where to begin again: behind the last word, as far back as audio is kept."""
        return max(self.words.end, self.current.begin, self.ring.start)

    # --- from segment to segment ------------------------------------------------------------

    def close_segment(self) -> None:
        """Count what the current segment cost, when it is over."""
        segment = self.current
        if segment.framer.frames:
            self.prompt_tokens += len(segment.geometry.prompt)
        self.completion_tokens += segment.completion_tokens
        self._hold, self._resting, self._blanks = None, False, 0
        self.hearing.stop()

    def advance(self) -> Next:
        """Go on to the next segment, if there is one and its beginning is known."""
        reason, at = self.current.cut_reason, self.current.cut_at
        if reason is None:
            return Next.SEGMENT  # the first
        geometry = self.model.geometry
        assert at is not None
        if reason is CutReason.UTTERANCE_END or self.utterance.cancelled:
            return Next.NOTHING
        if reason is CutReason.SILENCE:
            onset = self.hearing.onset(at)
            end = self.utterance.end
            if onset is None or (end is not None and onset >= end):
                return Next.PAUSE if end is None or not self._judged_to(end) else Next.NOTHING
            at = max(onset - self.policy.prefix, self._again or 0, self.ring.start)
            geometry = geometry.over_quiet(onset - at)
        elif reason is CutReason.SOFT_AGE and self._again is not None:
            at = max(self._again, self.ring.start)
        self._again = None
        self.current = Segment(geometry, at)
        self.words.resume(at)
        self._fresh = True
        return Next.SEGMENT

    def _judged_to(self, end: int) -> bool:
        """Whether detection has heard all before `end`, but for less than a window."""
        return not self.hearing.pending or self.hearing.judged >= end

    @property
    def timed_words(self) -> Sequence[Word]:
        """All words told, and when each was spoken."""
        return self.words.words

    @property
    def language(self) -> None:
        """These models do not tell it."""

    spoken_language = language

    @property
    def audio_seconds(self) -> float:
        """Length of the utterance in seconds, on the session's clock."""
        end = self.utterance.begin if self.utterance.end is None else self.utterance.end
        return (end - self.utterance.begin) / self.model.geometry.sample_rate
