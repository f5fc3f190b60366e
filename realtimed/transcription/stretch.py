"""A stretch of speech and when it is decoded and cut: the lengths, in samples. Sans-IO."""

from dataclasses import dataclass, field
from typing import Final, Self

from realtimed.config import Limits
from realtimed.engine.spec import SegmentedModel
from realtimed.transcription.agreement import LocalAgreement
from realtimed.transcription.segment import CutReason

_QUIET_MS: Final = 200
_TAIL_MS: Final = 60
_PREFIX_MS: Final = 600
_SEARCH_MS: Final = 3_000
_LEAST_SPEECH_MS: Final = 96
_COVERED_MS: Final = 64
_CLIP_MARGIN_MS: Final = 100
_PATIENCE: Final = 1.5
_SURE_LANGUAGE_MS: Final = 4_000
_SHORT_LANGUAGE_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """All lengths are samples of audio."""

    interval: int
    """Further audio after which the growing window is decoded again; half of it for the first time,
    and a quarter from then on until text of the window has been told."""
    patience: float
    """The same as a multiple of what the last decode took, so that load makes partials rarer."""
    pause: int
    """Quiet that ends a stretch of speech."""
    quiet: int
    """Quiet that is a pause between words: the place to cut a window that got long, and to decode
    one early, since it may be the last time."""
    soft_age: int
    hard_age: int
    """At this age it is cut at the quietest place of its last `search` samples."""
    search: int
    prefix: int
    """Audio before an onset with which a window begins."""
    tail: int
    """What of a quiet stretch may still be the end of a word."""
    least_speech: int
    """A window with less speech than that is not decoded: recognisers make up words for it."""
    covered: int
    """So far behind the end of speech must a window reach to have heard it whole."""
    sure_language: int
    """A language that was detected in so long a window stays that of its stretch."""
    short_language: int
    """A window shorter than that is taken to be in the language of the speech before it, unless it
    is the last."""

    @classmethod
    def build(cls, model: SegmentedModel, limits: Limits) -> Self:
        """The policy for a loaded model; its longest clip and the ring bound every age.

        A third of the ring is left for what comes while the window is decoded.
        """

        def samples(seconds: float) -> int:
            return round(seconds * model.sample_rate)

        longest = min(limits.hard_age_s, limits.ring_s * 2 / 3)
        if model.max_clip_s is not None:
            longest = min(longest, model.max_clip_s - _CLIP_MARGIN_MS / 1000)
        hard_age = samples(longest)
        return cls(
            interval=samples(limits.partial_interval_s),
            patience=_PATIENCE,
            pause=samples(limits.pause_s),
            quiet=min(samples(_QUIET_MS / 1000), samples(limits.pause_s)),
            soft_age=min(samples(limits.soft_age_s), hard_age // 2),
            hard_age=hard_age,
            search=min(samples(_SEARCH_MS / 1000), hard_age // 4),
            prefix=samples(_PREFIX_MS / 1000),
            tail=samples(_TAIL_MS / 1000),
            least_speech=samples(_LEAST_SPEECH_MS / 1000),
            covered=samples(_COVERED_MS / 1000),
            sure_language=samples(_SURE_LANGUAGE_MS / 1000),
            short_language=samples(_SHORT_LANGUAGE_MS / 1000),
        )


@dataclass(slots=True)
class Stretch:
    """Speech from `begin` on (session position in samples), decoded whole each time."""

    begin: int
    onset: int
    """Where speech begins in it, or where it is to go on."""
    agreement: LocalAgreement = field(default_factory=LocalAgreement)
    followed: int = field(init=False)
    """Session position up to which reasons to cut have been looked for."""
    decoded_to: int = field(init=False)
    """Where the last window ended that has been decoded; before the first, where speech begins."""
    latest: str = ""
    """What was heard in it."""
    language: str | None = None
    """As detected in it."""
    language_from: int = 0
    """Length of the window, in samples, in which that was."""
    cut_reason: CutReason | None = None
    cut_at: int | None = None
    said: bool = False
    """Whether all of its text has been told."""

    def __post_init__(self) -> None:
        self.followed = self.begin
        self.decoded_to = max(self.begin, self.onset)

    @property
    def answered_to(self) -> int:
        """Session position up to which the engine has answered."""
        return self.decoded_to

    def cut(self, at_sample: int, reason: CutReason) -> None:
        """End the audio at session position `at_sample`; one last decode follows.

        Unless the reason `flushes`: then the stretch is given up, even during that decode.
        """
        if self.cut_reason is not None and reason.flushes:
            return
        self.cut_reason, self.cut_at = reason, at_sample
        if not reason.flushes:
            self.said = True
