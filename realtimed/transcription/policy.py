"""When a segment is cut: ages, pauses and bounds, in samples of the session's clock."""

from dataclasses import dataclass
from typing import Final, Self

from realtimed.config import Limits
from realtimed.engine.spec import StreamingModel

_QUIET_MS: Final = 200
_WINDOW_MS: Final = 1_000
_TAIL_MS: Final = 60
_PREFIX_MS: Final = 600
_AHEAD_MS: Final = 160


@dataclass(frozen=True, slots=True)
class CutPolicy:
    """All lengths are samples of audio."""

    soft_age: int
    """From this age on, a segment is cut where it has been quiet for `quiet`."""
    hard_age: int
    """At this age it is cut at the quietest place of its last `window`; the model fits it."""
    window: int
    quiet: int
    tail: int
    """What of a quiet stretch may still be the end of a word."""
    gate: int | None
    """A pause of this length ends the segment; `None`: none does."""
    prefix: int
    """Audio before an onset with which the next segment begins. Twice what a turn gets by
    default: the bundled model makes half as many errors so (docs/performance.md)."""
    ahead: int
    """How far recognition may run ahead of speech detection."""
    blanks: int
    """Speech without a word after which the segment is begun again."""
    resume: int
    """Audio kept after it was heard, to begin again from."""

    @classmethod
    def build(cls, model: StreamingModel, limits: Limits, *, gate: bool) -> Self:
        """The policy for a loaded model; its length bounds every age."""
        geometry = model.geometry

        def samples(seconds: float) -> int:
            return round(seconds * geometry.sample_rate)

        # The flush must fit as well, and a frame on either side of a cut.
        positions = model.max_model_len - geometry.right_pad_tokens - 4
        longest = positions * geometry.samples_per_token - geometry.left_pad
        hard_age = min(samples(limits.hard_age_s), longest)
        # What is kept for a cut or a restart must leave the ring room for what comes.
        window = min(samples(_WINDOW_MS / 1000), hard_age // 4, samples(limits.ring_s / 4))
        return cls(
            soft_age=min(samples(limits.soft_age_s), hard_age - window),
            hard_age=hard_age,
            window=window,
            quiet=samples(_QUIET_MS / 1000),
            tail=samples(_TAIL_MS / 1000),
            gate=samples(limits.gate_s) if gate else None,
            prefix=samples(_PREFIX_MS / 1000),
            ahead=samples(_AHEAD_MS / 1000),
            blanks=samples(limits.blank_s),
            resume=samples(min(limits.resume_s, limits.ring_s / 2)),
        )
