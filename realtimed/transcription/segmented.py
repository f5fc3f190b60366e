"""An utterance for a model that transcribes whole clips: stretches of speech. Sans-IO.

Speech detection delimits the stretches. While one goes on, the window from its beginning to now is
decoded again and again, and what two hypotheses agree on is told (`LocalAgreement`). Where it ends,
the last hypothesis tells the rest; it is the one from a moment earlier, if that has heard all of
the speech. Windows without speech are not decoded, and what describes sounds is no text.

All of it depends on the audio and its detection alone, except for when there are partials: these
come less often where decoding takes long. So audio that comes all at once is cut in the same places
as audio that comes as it is spoken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from realtimed.audio.levels import quietest
from realtimed.audio.ring import AudioRing
from realtimed.audio.vad import WINDOW_SAMPLES
from realtimed.engine.spec import Hypothesis, SegmentedModel
from realtimed.transcription import agreement
from realtimed.transcription.hearing import Hearing
from realtimed.transcription.segment import CutReason
from realtimed.transcription.stretch import Stretch, WindowPolicy
from realtimed.transcription.utterance import Next, TimedText, Utterance
from realtimed.transcription.words import join
from realtimed.wire.events import Word


@dataclass(frozen=True, slots=True)
class Window:
    """Audio to decode: [`begin`, `end`) in samples on the session's clock."""

    begin: int
    end: int
    final: bool
    """Whether it is the last of its stretch."""
    decisive: bool = False
    """Whether it may turn out to be the last, because speech has paused."""


@dataclass(slots=True)
class StretchChain:
    """The stretches of speech of one utterance, one at a time."""

    model: SegmentedModel
    utterance: Utterance
    policy: WindowPolicy
    ring: AudioRing
    hearing: Hearing
    prompt_tokens: int = 0
    completion_tokens: int = 0
    language: str | None = None
    """What was detected last; before the first time, in the utterance before."""
    said_language: str | None = None
    """What the model said last with its text. It is asked for nothing of that kind later."""
    current: Stretch = field(init=False)
    _next_from: int = field(init=False)
    """The first place where the next stretch may begin."""
    _last_decode: int = field(init=False, default=0)
    """How long the last decode took, in samples."""
    _last_character: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._next_from = self.utterance.begin
        # Nothing is known of speech yet: as after a pause.
        self.current = Stretch(self.utterance.begin, self.utterance.begin)
        self.current.cut(self.utterance.begin, CutReason.SILENCE)
        self.current.said = True

    # --- decoding ---------------------------------------------------------------------------

    def follow(self) -> None:
        """There is more audio, or more of it judged: cut where that is due."""
        stretch, end = self.current, self.utterance.end
        if self.utterance.cancelled:
            stretch.cut(stretch.begin, CutReason.CLEARED)
            return
        limit = self.hearing.judged if end is None else min(self.hearing.judged, end)
        # Window by window, however much has been judged at once: so the place never depends on it.
        while stretch.cut_reason is None and stretch.followed < limit:
            stretch.followed = min(stretch.followed + WINDOW_SAMPLES, limit)
            self._look(stretch, stretch.followed)
        if stretch.cut_reason is None and end is not None and self._judged_to(end):
            stretch.cut(end, CutReason.UTTERANCE_END)

    def next_window(self) -> Window | None:
        """What to decode now; nothing while a partial is not due, or when all has been said."""
        stretch = self.current
        if stretch.said:
            return None
        if stretch.cut_reason is None:
            return self._partial(stretch)
        assert stretch.cut_at is not None
        if self._settled(stretch, stretch.cut_at):
            return None
        return Window(stretch.begin, stretch.cut_at, final=True)

    def language_for(self, window: Window) -> str | None:
        """The language to decode a window in; `None`: it is to be detected in this window.

        That costs nearly as much as the decode. So the first words are taken to be in the language
        of the speech before them, and it is detected when there is more to go by or no time left;
        the longer the window, the surer, so once more when it has got four times as long.
        """
        asked, stretch = self.utterance.guidance.language, self.current
        if asked is not None:
            return asked
        length, policy = window.end - window.begin, self.policy
        if stretch.language is not None:
            sure = stretch.language_from >= policy.sure_language
            return stretch.language if sure or length < 4 * stretch.language_from else None
        last = window.final or window.decisive
        return None if last or length >= policy.short_language else self.language

    def detected(self, window: Window, language: str) -> None:
        """The language that has been found in a window; at the cost of a token in and out."""
        self.language = self.current.language = language
        self.current.language_from = window.end - window.begin
        self.prompt_tokens += 1
        self.completion_tokens += 1

    @property
    def said(self) -> str:
        """The beginning of the text that the next decode goes on from, where the model does so.

        It has been told and cannot change any more; to decode it again would cost most of a decode.
        """
        return self.current.agreement.text if self.model.continues else ""

    def pointless(self, window: Window) -> bool:
        """Whether the answer for a window in flight is of no use any more."""
        stretch = self.current
        if stretch.said:
            return True
        if window.final or stretch.cut_reason is None:
            return False
        assert stretch.cut_at is not None
        return not self._heard_all(stretch, window.end, stretch.cut_at)

    def answered(self, window: Window, heard: Hypothesis, took: int) -> TimedText | None:
        """What the engine heard in a window, after `took` samples of time; the text it adds."""
        self.prompt_tokens += heard.prompt_tokens
        self.completion_tokens += heard.completion_tokens
        self.said_language = heard.language or self.said_language
        self._last_decode = took
        text = heard.text if heard.complete else agreement.without_loop(heard.text)
        text = agreement.speech(text)
        stretch = self.current
        stretch.decoded_to, stretch.latest = window.end, text
        if window.final:
            return self._say_rest(stretch)
        heard_s = window.end / self.model.sample_rate
        return self._timed(stretch, stretch.agreement.hypothesis(text, heard_s, heard.tokens))

    def settle(self) -> TimedText | None:
        """Tell the rest of a stretch that is cut and needs no decode any more."""
        stretch = self.current
        if stretch.said or stretch.cut_reason is None:
            return None
        assert stretch.cut_at is not None
        return self._say_rest(stretch) if self._settled(stretch, stretch.cut_at) else None

    # --- cutting ----------------------------------------------------------------------------

    def _look(self, stretch: Stretch, at: int) -> None:
        """Cut the stretch if there is a reason to at session position `at`."""
        policy, age = self.policy, at - stretch.begin
        spoken_to = self.hearing.quiet_from(stretch.onset, at)
        quiet = at - spoken_to
        if quiet >= policy.pause:
            self._cut_in_quiet(stretch, spoken_to, CutReason.SILENCE)
        elif age >= policy.soft_age and quiet >= policy.quiet:
            self._cut_in_quiet(stretch, spoken_to, CutReason.SOFT_AGE)
        elif age >= policy.hard_age:
            search = at - policy.search
            place = search + quietest(self.ring.copy(search, at))
            stretch.cut(place, CutReason.HARD_AGE)
            self._next_from = place

    def _cut_in_quiet(self, stretch: Stretch, spoken_to: int, reason: CutReason) -> None:
        stretch.cut(spoken_to + self.policy.quiet, reason)
        self._next_from = spoken_to + self.policy.tail

    def _partial(self, stretch: Stretch) -> Window | None:
        policy, end = self.policy, stretch.followed
        speech = self.hearing.track.speech_samples
        if speech(stretch.begin, end) < policy.least_speech or not speech(stretch.decoded_to, end):
            return None
        paused = end - self.hearing.quiet_from(stretch.onset, end) >= policy.quiet
        if end - stretch.decoded_to < self._due(stretch) and not paused:
            return None
        return Window(stretch.begin, end, final=False, decisive=paused)

    def _due(self, stretch: Stretch) -> int:
        """How much more audio is worth a decode, in samples."""
        policy = self.policy
        if stretch.agreement.text:
            return max(policy.interval, round(self._last_decode * policy.patience))
        # The first words are waited for, and it takes several hypotheses until they are sure.
        first = stretch.decoded_to <= max(stretch.begin, stretch.onset)
        return policy.interval // 2 if first else max(policy.interval // 4, self._last_decode)

    def _settled(self, stretch: Stretch, cut_at: int) -> bool:
        """Whether there is nothing more to hear before the cut."""
        speech = self.hearing.track.speech_samples(stretch.begin, cut_at)
        return speech < self.policy.least_speech or self._heard_all(
            stretch, stretch.decoded_to, cut_at
        )

    def _heard_all(self, stretch: Stretch, heard_to: int, cut_at: int) -> bool:
        """Whether a window up to `heard_to` has all of the speech before the cut, and no other."""
        spoken_to = self.hearing.quiet_from(stretch.onset, cut_at)
        enough = heard_to >= min(spoken_to + self.policy.covered, cut_at)
        return enough and not self.hearing.track.speech_samples(cut_at, heard_to)

    # --- telling ----------------------------------------------------------------------------

    def _say_rest(self, stretch: Stretch) -> TimedText | None:
        stretch.said = True
        return self._timed(stretch, stretch.agreement.final(stretch.latest))

    def _timed(self, stretch: Stretch, text: str) -> TimedText | None:
        """Text with the times of what it was heard in; words have none."""
        text = join(self._last_character, text)
        if not text:
            return None
        self._last_character = text[-1]
        rate = self.model.sample_rate
        begin = max(stretch.begin, stretch.onset)
        end = self.hearing.quiet_from(begin, stretch.decoded_to)
        return TimedText(text, round(begin / rate, 3), round(end / rate, 3))

    @property
    def timed_words(self) -> Sequence[Word]:
        """None: these models do not tell reliably when a word was spoken."""
        return ()

    @property
    def spoken_language(self) -> str | None:
        """The language that was asked for, or that was detected, if there is any text."""
        told = self.utterance.guidance.language or self.said_language or self.language
        return told if self._last_character else None

    # --- from stretch to stretch ------------------------------------------------------------

    def close_segment(self) -> None:
        """The current stretch is over."""

    def advance(self) -> Next:
        """Go on to the next stretch, if there is one and its beginning is known."""
        stretch, end = self.current, self.utterance.end
        reason = stretch.cut_reason
        if reason is CutReason.UTTERANCE_END or self.utterance.cancelled:
            return Next.NOTHING
        if reason is not None and reason.restarts:
            self.current = Stretch(stretch.begin, stretch.onset, stretch.agreement)
            return Next.SEGMENT
        if reason is CutReason.HARD_AGE:
            self.current = Stretch(self._next_from, self._next_from)
            return Next.SEGMENT
        onset = self.hearing.onset(self._next_from)
        if onset is None or (end is not None and onset >= end):
            return Next.PAUSE if end is None or not self._judged_to(end) else Next.NOTHING
        begin = max(onset - self.policy.prefix, self._next_from, self.ring.start)
        self.current = Stretch(begin, onset)
        return Next.SEGMENT

    def _judged_to(self, end: int) -> bool:
        """Whether detection has heard all before `end`, but for less than a window."""
        return not self.hearing.pending or self.hearing.judged >= end

    @property
    def keep_from(self) -> int:
        """Session position before which the utterance needs no audio any more."""
        return self._next_from if self.current.said else self.current.begin

    @property
    def keep_from_in_pause(self) -> int:
        """The same between two stretches: what may lie before the next onset."""
        return self.hearing.judged - self.policy.prefix - WINDOW_SAMPLES

    @property
    def resume_at(self) -> int:
        """Where to begin again: the window is decoded anew, and goes on behind what was told."""
        return self.current.begin

    @property
    def audio_seconds(self) -> float:
        """Length of the utterance in seconds, on the session's clock."""
        end = self.utterance.begin if self.utterance.end is None else self.utterance.end
        return (end - self.utterance.begin) / self.model.sample_rate
