"""The audio that a client sends, in the format that it chose, as the model wants it."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from realtimed.audio.formats import AudioDecoder, bytes_per_sample
from realtimed.errors import InvalidAudio
from realtimed.wire.events import AudioFormat

_SLICE_BYTES: Final = 65_536
"""Whole samples of every encoding; a millisecond or two of work."""


class IncomingAudio:
    """Decodes one session's audio; what a resampler remembers goes on from chunk to chunk."""

    def __init__(self, sample_rate: int) -> None:
        """`sample_rate`: the model's, in Hz."""
        self._rate = sample_rate
        self._format = AudioFormat()
        self._decoder = AudioDecoder("pcm_s16le", sample_rate)

    def choose(self, wanted: AudioFormat) -> None:
        """From here on chunks are in this format."""
        if wanted != self._format:
            self._format = wanted
            self._decoder = AudioDecoder(wanted.encoding, wanted.sample_rate, self._rate)

    def decode(self, audio: bytes) -> Iterator[NDArray[np.float32]]:
        """One chunk as 1-d float32 arrays at the model's rate, one after the other.

        Each is decoded and resampled when it is asked for, so that a caller can let others have
        their turn within a large chunk.

        Raises: `InvalidAudio` for an empty chunk or half a sample.
        """
        width = bytes_per_sample(self._format.encoding)
        if not audio or len(audio) % width:
            raise InvalidAudio(
                f"Invalid audio data: expected a whole, non-zero number of {8 * width}-bit "
                "samples; the chunk was dropped."
            )
        starts = range(0, len(audio), _SLICE_BYTES)
        return (self._decoder.decode(audio[at : at + _SLICE_BYTES]) for at in starts)

    def flush(self) -> NDArray[np.float32]:
        """What the resampler still holds: it belongs to the utterance that ends here."""
        return self._decoder.flush()
