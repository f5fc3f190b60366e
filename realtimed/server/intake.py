"""Takes the audio of one session into its ring, no faster than its budgets and the ring allow.

All that waits here keeps the receive loop from reading, so TCP slows the client down.
"""

from collections.abc import Callable

import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.server.incoming import IncomingAudio
from realtimed.server.pacing import Pace
from realtimed.session import Action, Phase, Session
from realtimed.transcription.buffer import AudioBuffer
from realtimed.wire.events import AudioFormat


class AudioIntake:
    """From a client's bytes to samples on the session's clock."""

    __slots__ = ("_buffer", "_incoming", "_pace", "_perform", "_session")

    def __init__(
        self,
        session: Session,
        buffer: AudioBuffer,
        pace: Pace,
        perform: Callable[[list[Action]], None],
    ) -> None:
        """`perform`: carries out what the session says of audio that has come, before it is in the
        ring.
        """
        self._session = session
        self._buffer = buffer
        self._pace = pace
        self._perform = perform
        self._incoming = IncomingAudio(session.sample_rate)

    def choose(self, wanted: AudioFormat) -> None:
        """From here on audio comes in this format."""
        self._incoming.choose(wanted)

    async def take(self, audio: bytes) -> None:
        """Take audio in the format that was chosen.

        Raises: `InvalidAudio` for an empty chunk or half a sample, `BufferOverflow` if the ring
        stays full.
        """
        for number, samples in enumerate(self._incoming.decode(audio)):
            if number:
                await trio.lowlevel.checkpoint()
            await self._store(samples)

    async def flush(self) -> None:
        """Take what the resampler still holds, before the utterance ends. Raises as `take`."""
        await self._store(self._incoming.flush())

    async def _store(self, samples: NDArray[np.float32]) -> None:
        """Put audio into the ring, in pieces if it has to wait for room."""
        while len(samples):
            if self._session.received >= self._pace.free_until:
                await self._keep_pace()
            piece = samples[: await self._buffer.room()]
            self._perform(self._session.audio(len(piece)))
            self._buffer.append(piece)
            if self._session.phase is Phase.FAILED:
                # No utterance will read it, and every earlier one has finished.
                self._buffer.release(self._buffer.ring.end)
            samples = samples[len(piece) :]

    async def _keep_pace(self) -> None:
        """Wait until what has been received is paid for: the socket is not read meanwhile."""
        now = trio.current_time()
        due = self._pace.take(self._session.received, now)
        if due > now:
            await trio.sleep_until(due)
