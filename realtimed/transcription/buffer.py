"""The audio buffer between a connection's receive loop and recognition.

The samples lie in an `AudioRing`, addressed by the session's clock. A memory channel of one slot
carries the news that there is room again; it holds no audio, so a flood of tiny messages costs
no memory.
"""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.engine.availability import Availability
from realtimed.errors import BufferOverflow
from realtimed.transcription.detection import SpeechDetection
from realtimed.transcription.hearing import Hearing


class AudioBuffer:
    """A bounded ring with back-pressure. One producer; recognition and detection consume."""

    def __init__(
        self,
        capacity: int,
        overflow_s: float,
        detection: SpeechDetection,
        availability: Availability | None = None,
    ) -> None:
        """`capacity` in samples; `overflow_s`: how long it may stay full while the engine answers,
        in seconds.
        """
        self.ring = AudioRing(capacity)
        self.hearing = Hearing(self.ring)
        self.hearing.on_judged = self.notify
        self.hearing.on_start = self._on_start
        self._detection = detection
        self._overflow_s = overflow_s
        self._availability = availability or Availability()
        self.on_news: Callable[[], None] | None = None
        """Called when there is more audio, some of it has been judged, or an utterance has ended;
        must not block."""
        self._room_in, self._room_out = trio.open_memory_channel[None](1)

    async def room(self) -> int:
        """Wait until something fits; return how many samples.

        Raises: `BufferOverflow` if the full ring does not move for `overflow_s` seconds.
        """
        if self.ring.free == 0:
            await self._wait_for_room()
        return self.ring.free

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add 1-d float32 samples, no more than there is room for, and tell the consumers."""
        self.ring.append(samples)
        if self.hearing.active:
            self._detection.notice(self.hearing)
        self.notify()

    def notify(self) -> None:
        """Tell recognition that there is something new."""
        if self.on_news is not None:
            self.on_news()

    def listen(self, at: int) -> None:
        """Judge all audio from session position `at` on, now and later."""
        self.hearing.always = True
        self.hearing.start(at)

    def _on_start(self) -> None:
        # All the audio may be here already, and none to come that would tell.
        self._detection.notice(self.hearing)

    def close(self) -> None:
        """Forget everything at once.

        The parts of a session refer to each other in circles, so what they hold stays until the
        collector comes by; and it goes by the number of objects, not by their size.
        """
        self.on_news = None
        self.hearing.close()
        self.ring.close()

    def release(self, position: int) -> None:
        """Forget the audio before session position `position` and let the producer go on.

        What speech detection has not heard yet stays.
        """
        before = self.ring.free
        self.ring.release(int(min(position, self.hearing.needed_from)))
        if self.ring.free > before == 0:
            with suppress(trio.WouldBlock):  # the last news is not yet taken, and says the same
                self._room_in.send_nowait(None)

    async def _wait_for_room(self) -> None:
        with self._availability.patience(self._overflow_s):
            while self.ring.free == 0:
                await self._room_out.receive()
            return
        raise BufferOverflow(
            f"The audio buffer was full for {self._overflow_s:g} s and none of it could be "
            "recognised: commit what should be transcribed, and send it no faster than text comes."
        )
