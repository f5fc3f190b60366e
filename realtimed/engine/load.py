"""How busy the engine is, as seen from the daemon: frames in flight, time and size of its steps."""

import time

from realtimed.distribution import SECONDS, STREAMS, Distribution


class EngineLoad:
    """Told of every frame and every step; costs an addition and a look at the clock.

    A step's time runs from the step before it, or from the frame that ended an idle moment, to its
    answers: what the engine took, and the way there and back.
    """

    __slots__ = ("_since", "frames_in_flight", "step_frames", "step_s")

    def __init__(self) -> None:
        self.frames_in_flight = 0
        """Frames sent and not yet answered."""
        self.step_s = Distribution(SECONDS)
        self.step_frames = Distribution(STREAMS)
        self._since = 0.0

    def sent(self) -> None:
        """A frame has been sent."""
        if not self.frames_in_flight:
            self._since = time.monotonic()
        self.frames_in_flight += 1

    def settled(self) -> None:
        """A frame has been answered, or will not be waited for any more."""
        self.frames_in_flight -= 1

    def stepped(self, frames: int) -> None:
        """A step is over; it has answered this many frames, which are yet to be settled."""
        if not frames:
            return
        now = time.monotonic()
        self.step_s.add(now - self._since)
        self.step_frames.add(frames)
        self._since = now

    @property
    def unanswered_s(self) -> float:
        """Seconds in which frames have been in flight and none was answered."""
        return time.monotonic() - self._since if self.frames_in_flight else 0.0
