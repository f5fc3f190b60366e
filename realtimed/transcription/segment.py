"""A segment: one engine request, from its first frame to the end of its flush. Sans-IO."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.engine.spec import StreamGeometry
from realtimed.transcription.framer import Framer


class CutReason(Enum):
    """Why a segment ended. All go through the same mechanism, `Segment.cut`."""

    UTTERANCE_END = "utterance_end"
    SILENCE = "silence"
    SOFT_AGE = "soft_age"
    HARD_AGE = "hard_age"
    BLANKS = "blanks"
    STALL = "stall"
    ENGINE_RESTART = "engine_restart"
    CLEARED = "cleared"

    @property
    def restarts(self) -> bool:
        """Whether recognition went wrong: audio after the cut is heard again."""
        return self in (CutReason.BLANKS, CutReason.STALL, CutReason.ENGINE_RESTART)

    @property
    def flushes(self) -> bool:
        """Whether what has been heard is still to be said, before the request ends."""
        return not self.restarts and self is not CutReason.CLEARED


@dataclass(frozen=True, slots=True)
class Frame:
    """What one engine step gets: token ids to feed and 1-d float32 audio."""

    token_ids: list[int]
    audio: NDArray[np.float32]


@dataclass(slots=True)
class Segment:
    """Feeds each answer's last token back with the next frame; never two frames in flight."""

    geometry: StreamGeometry
    begin: int
    completion_tokens: int = 0
    cut_reason: CutReason | None = None
    cut_at: int | None = None
    framer: Framer = field(init=False)
    _feed: list[int] | None = field(init=False)
    _ended: bool = field(init=False, default=False)
    """Cut, and nothing of it is flushed."""

    def __post_init__(self) -> None:
        self.framer = Framer(self.geometry, self.begin)
        self._feed = list(self.geometry.prompt)

    def cut(self, at_sample: int, reason: CutReason, *, flush: bool = True) -> None:
        """End the segment's audio at session position `at_sample`; the flush follows.

        Unless the reason `flushes`, the request is given up, even while it is being flushed.
        With `flush=False` it ends at once, too: for one that has heard its silence already.
        """
        if self.cut_reason is not None and reason.flushes:
            return
        self.cut_reason, self.cut_at = reason, at_sample
        self._ended = not (flush and reason.flushes)
        if not self._ended:
            self.framer.close(at_sample)

    def next_frame(self, ring: AudioRing, upto: int | None = None) -> Frame | None:
        """The next frame, or `None`: audio is missing, or, after a cut, all is flushed.

        `upto`: session position that the frame may not reach beyond, while the segment is open.

        Raises: `AssertionError` if the previous frame has not been answered.
        """
        if self._feed is None:
            raise AssertionError("a frame is still in flight")
        if self._ended:
            return None
        audio = self.framer.take(ring, upto)
        if audio is None:
            return None
        frame = Frame(self._feed, audio)
        self._feed = None
        return frame

    def answered(self, token_ids: Sequence[int]) -> None:
        """The engine's tokens for the frame in flight."""
        self._feed = list(token_ids[-1:])
        self.completion_tokens += len(token_ids)

    @property
    def finished(self) -> bool:
        """Whether the segment is cut and every frame of it has been answered."""
        return (self._ended or self.framer.exhausted) and self._feed is not None

    @property
    def heard(self) -> int:
        """Session position up to which the frames taken so far let the model hear."""
        frames = self.framer.frames
        return self.framer.position(frames - 1) if frames else self.begin

    @property
    def answered_to(self) -> int:
        """Session position up to which the engine has answered."""
        answered = self.framer.frames - (1 if self._feed is None else 0)
        return self.framer.position(answered - 1) if answered > 0 else self.begin

    @property
    def recognised_to(self) -> int:
        """Session position up to which the engine has answered, the model's delay taken off."""
        if self.framer.frames == 0 or (self._feed is None and self.framer.frames == 1):
            return self.begin
        answered = self.framer.frames - (1 if self._feed is None else 0)
        return self.framer.spoken(answered - 1)
