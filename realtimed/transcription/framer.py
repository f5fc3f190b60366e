"""Cuts a segment's audio into the frames of a Voxtral Realtime model. Sans-IO.

A segment lives on a *padded timeline*: `left_pad` samples of silence, its audio, and, once it
is closed, `right_pad` samples of silence. Frame k covers the tokens [start, end) of that
timeline and carries `look_back` samples before and `look_ahead` samples after them; the first
frame covers the whole prompt, each later one a single token. Frames that no longer fit before
the end of the timeline are not sent. Behaviour to equal: vLLM 0.32's `VoxtralRealtimeBuffer`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.engine.spec import StreamGeometry


@dataclass(slots=True)
class Framer:
    """The frames of one segment that begins at session position `begin` (samples)."""

    geometry: StreamGeometry
    begin: int
    end: int | None = None
    """Where the segment's audio ends; `None` while it is open."""
    frames: int = 0
    """Frames taken so far."""

    def close(self, end: int) -> None:
        """The audio of this segment ends at session position `end`; right padding follows."""
        if self.end is not None or end < self.begin:
            raise ValueError("a segment is closed once, at or after its beginning")
        self.end = end

    def take(self, ring: AudioRing, upto: int | None = None) -> NDArray[np.float32] | None:
        """The next frame's audio, 1-d float32, or `None` while the ring lacks some of it.

        Before `close`, audio after session position `upto` counts as missing. After it, `None`
        means that the segment is exhausted.
        """
        start, end = self._bounds()
        if end > self._available(ring, upto):
            return None
        frame = self._cut(ring, start, end)
        self.frames += 1
        return frame

    @property
    def tokens(self) -> int:
        """Positions that the frames taken so far occupy in the engine's request."""
        return 0 if self.frames == 0 else len(self.geometry.prompt) + self.frames - 1

    @property
    def exhausted(self) -> bool:
        """Whether no frame is left after a close."""
        return self.end is not None and self._bounds()[1] > self._total()

    @property
    def reaches(self) -> int:
        """Session position that the next frame's audio ends at, its look-ahead counted."""
        return self.begin + self._bounds()[1] - self.geometry.left_pad

    @property
    def needed_from(self) -> int:
        """First session position that a later frame of this segment, or another, reads."""
        position = max(self.begin, self.begin + self._bounds()[0] - self.geometry.left_pad)
        return position if self.end is None else min(position, self.end)

    def position(self, frame: int) -> int:
        """Session position up to which frame number `frame` (from 0) lets the model hear."""
        heard = self._timeline(frame)
        return heard if self.end is None else min(heard, self.end)

    def spoken(self, frame: int) -> int:
        """Session position before which the text was spoken that answers frame number `frame`.

        The model writes a word `delay_tokens` after it heard it, in the right padding if need be.
        """
        delay = self.geometry.delay_tokens * self.geometry.samples_per_token
        spoken = max(self.begin, self._timeline(frame) - delay)
        return spoken if self.end is None else min(spoken, self.end)

    def _timeline(self, frame: int) -> int:
        geometry = self.geometry
        heard = geometry.first_end + frame * geometry.samples_per_token - geometry.left_pad
        return self.begin + heard

    def _bounds(self) -> tuple[int, int]:
        """[start, end) of the next frame on the padded timeline, neighbours included."""
        geometry = self.geometry
        if self.frames == 0:
            return 0, geometry.first_end + geometry.look_ahead
        start = geometry.first_end + (self.frames - 1) * geometry.samples_per_token
        end = start + geometry.samples_per_token + geometry.look_ahead
        return max(start - geometry.look_back, 0), end

    def _total(self) -> int:
        """Length of the padded timeline of a closed segment.

        Without any audio there is no left padding either, and so never a whole first frame.
        """
        assert self.end is not None
        length = self.end - self.begin
        left = self.geometry.left_pad if length else 0
        return left + length + self.geometry.right_pad

    def _available(self, ring: AudioRing, upto: int | None) -> int:
        if self.end is not None:
            return self._total()
        last = ring.end if upto is None else min(ring.end, upto)
        return self.geometry.left_pad + last - self.begin if last > self.begin else 0

    def _cut(self, ring: AudioRing, start: int, end: int) -> NDArray[np.float32]:
        offset = self.begin - self.geometry.left_pad
        speech_end = ring.end if self.end is None else self.end
        first = max(start + offset, self.begin)
        last = min(end + offset, speech_end)
        if last - first == end - start:
            return ring.copy(first, last)
        frame = np.zeros(end - start, np.float32)
        if last > first:
            at = first - offset - start
            frame[at : at + last - first] = ring.copy(first, last)
        return frame
