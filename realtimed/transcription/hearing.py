"""What speech detection has said about one session's audio. Sans-IO.

Detection follows the audio at a distance of up to a window and a tick. While it is on, the ring
keeps what it has not judged yet, and the framer does not run far ahead of it.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.audio.turns import SpeechTrack
from realtimed.audio.vad import WINDOW_SAMPLES, VoiceState

_REMEMBERED_WINDOWS: Final = 4_096
"""Two minutes and more: longer than any segment."""


class Hearing:
    """One session's line of judged windows."""

    __slots__ = (
        "_ring",
        "active",
        "always",
        "judged",
        "on_failure",
        "on_judged",
        "on_start",
        "on_window",
        "since",
        "track",
        "voice",
    )

    def __init__(self, ring: AudioRing) -> None:
        self._ring = ring
        self.always = False
        """Whether every window is judged: for the silence gate, or for turns. Otherwise detection
        is switched on where it is needed."""
        self.active = False
        self.judged = 0
        """Session position up to which windows have been judged; only while active."""
        self.since = 0
        """Session position from which on they have been judged without a gap."""
        self.voice = VoiceState()
        self.track = SpeechTrack(_REMEMBERED_WINDOWS)
        self.on_start: Callable[[], None] | None = None
        """Called when detection is switched on."""
        self.on_window: Callable[[float, int], None] | None = None
        """Told the probability of speech in each window, and where the window ends."""
        self.on_judged: Callable[[], None] | None = None
        """Called after each window has been judged."""
        self.on_failure: Callable[[Exception], None] | None = None
        """Told what either of them raised."""

    def start(self, at: int) -> None:
        """Judge the audio from session position `at` on; nothing if detection is on already."""
        if not self.active:
            self.active = True
            self.judged = self.since = max(at, self._ring.start, self.track.end)
            self.voice.reset()
            if self.on_start is not None:
                self.on_start()

    def stop(self) -> None:
        """Judge no more, unless every window is to be judged."""
        self.active = self.always

    def close(self) -> None:
        """Judge nothing more, and tell nobody."""
        self.active = self.always = False
        self.on_start = self.on_window = self.on_judged = self.on_failure = None

    @property
    def pending(self) -> bool:
        """Whether a whole window waits to be judged."""
        return self.active and self._ring.end - self.judged >= WINDOW_SAMPLES

    def next_window(self) -> NDArray[np.float32]:
        """The samples of the window to judge next, 1-d float32; only if one is `pending`."""
        return self._ring.copy(self.judged, self.judged + WINDOW_SAMPLES)

    def push(self, probability: float) -> None:
        """The verdict on that window."""
        self.judged += WINDOW_SAMPLES
        self.track.push(probability, self.judged)
        try:
            if self.on_window is not None:
                self.on_window(probability, self.judged)
            if self.on_judged is not None:
                self.on_judged()
        except Exception as error:
            # One session's trouble is not that of the others in the batch.
            if self.on_failure is None:
                raise
            self.on_failure(error)

    def quiet_from(self, begin: int, at: int) -> int:
        """Where the quiet that lasts up to `at` began, not before `begin`; `at` if there is none.

        `at` may not be after `judged`; it may be long before, if audio comes faster than speech.
        """
        return max(self.track.quiet_before(at), self.since, begin)

    def onset(self, begin: int) -> int | None:
        """Session position of the first speech after `begin`, if it is known."""
        return self.track.first_speech(begin) if self.active else None

    @property
    def needed_from(self) -> float:
        """The ring must keep the audio from here on, for detection's sake."""
        return self.judged if self.active else math.inf
