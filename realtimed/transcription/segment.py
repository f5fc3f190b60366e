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
    MODEL_LENGTH = "model_length"


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
    framer: Framer = field(init=False)
    _feed: list[int] | None = field(init=False)

    def __post_init__(self) -> None:
        self.framer = Framer(self.geometry, self.begin)
        self._feed = list(self.geometry.prompt)

    def cut(self, at_sample: int, reason: CutReason) -> None:
        """End the segment's audio at session position `at_sample`; the flush follows."""
        if self.cut_reason is None:
            self.framer.close(at_sample)
            self.cut_reason = reason

    def next_frame(self, ring: AudioRing) -> Frame | None:
        """The next frame, or `None`: audio is missing, or, after a cut, all is flushed.

        Raises: `AssertionError` if the previous frame has not been answered.
        """
        if self._feed is None:
            raise AssertionError("a frame is still in flight")
        audio = self.framer.take(ring)
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
        return self.framer.exhausted and self._feed is not None

    @property
    def recognised_to(self) -> int:
        """Session position up to which the engine has answered, the model's delay taken off."""
        if self.framer.frames == 0 or (self._feed is None and self.framer.frames == 1):
            return self.begin
        answered = self.framer.frames - (1 if self._feed is None else 0)
        delay = self.geometry.delay_tokens * self.geometry.samples_per_token
        return max(self.begin, self.framer.position(answered - 1) - delay)
