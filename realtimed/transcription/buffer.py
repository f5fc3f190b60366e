"""The audio buffer between a connection's receive loop and its generation task.

The samples lie in an `AudioRing`, addressed by the session's clock. Two memory channels of one
slot each carry the news between the two tasks: "there is more" one way, "there is room" the
other. They hold no audio, so a flood of tiny messages costs no memory.
"""

from contextlib import suppress

import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.audio.ring import AudioRing
from realtimed.errors import BufferOverflow


class AudioBuffer:
    """A bounded ring with back-pressure. One producer task, one consumer task."""

    def __init__(self, capacity: int, overflow_s: float) -> None:
        """`capacity` in samples; `overflow_s`: how long it may stay full, in seconds."""
        self.ring = AudioRing(capacity)
        self._overflow_s = overflow_s
        self._news_in, self._news_out = trio.open_memory_channel[None](1)
        self._room_in, self._room_out = trio.open_memory_channel[None](1)

    async def room(self) -> int:
        """Wait until something fits; return how many samples.

        Raises: `BufferOverflow` if the full ring does not move for `overflow_s` seconds.
        """
        if self.ring.free == 0:
            await self._wait_for_room()
        return self.ring.free

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add 1-d float32 samples, no more than there is room for, and wake the consumer."""
        self.ring.append(samples)
        self.notify()

    def notify(self) -> None:
        """Wake the consumer: there is audio, or an utterance has ended."""
        with suppress(trio.WouldBlock):  # the last news is not yet taken, and says the same
            self._news_in.send_nowait(None)

    async def wait_for_news(self) -> None:
        """Return once `notify` has been called since the last return."""
        await self._news_out.receive()

    def release(self, position: int) -> None:
        """Forget the audio before session position `position` and let the producer go on."""
        before = self.ring.free
        self.ring.release(position)
        if self.ring.free > before == 0:
            with suppress(trio.WouldBlock):  # the last news is not yet taken, and says the same
                self._room_in.send_nowait(None)

    async def _wait_for_room(self) -> None:
        with trio.move_on_after(self._overflow_s):
            while self.ring.free == 0:
                await self._room_out.receive()
            return
        raise BufferOverflow(
            f"The audio buffer was full for {self._overflow_s:g} s and none of it could be "
            "recognised: commit what should be transcribed, and send it no faster than text comes."
        )
