"""Raw audio bytes, in any encoding and at any rate that a client may declare, to float32 samples.

`decode` is stateless and knows the encodings; `AudioDecoder` adds the rate, and belongs to one
stream. Audio is mono throughout.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import soxr
from numpy.typing import NDArray

from realtimed.audio.pcm import decode_pcm16

MIN_SAMPLE_RATE: Final = 8_000
MAX_SAMPLE_RATE: Final = 48_000

_QUALITY = "HQ"
# soxr's variable-rate filter works sample by sample where the other works in blocks: from 8 kHz
# it holds back 30 ms instead of 115, from 24 kHz 10 instead of 37. Above this rate it costs more
# than 80 µs for 80 ms of audio, and the blocks are short (docs/performance.md).
_LAST_VARIABLE_RATE = 32_000
_PCM32 = np.dtype("<i4")
_SCALE32 = np.float32(2.0**-31)
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
_NOTHING = np.empty(0, np.float32)


def _mulaw_table() -> NDArray[np.float32]:
    """ITU-T G.711 table 2: 14-bit magnitudes from a complemented sign, segment and step."""
    code = ~np.arange(256, dtype=np.uint8)
    sign, segment, step = code & 0x80, (code >> 4) & 7, (code & 15).astype(np.int32)
    magnitude = ((2 * step + 33) << segment) - 33
    return np.where(sign, -magnitude, magnitude).astype(np.float32) / np.float32(8192)


def _alaw_table() -> NDArray[np.float32]:
    """ITU-T G.711 table 1: 13-bit magnitudes; even bits are inverted, the sign bit means plus."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    sign, segment, step = code & 0x80, (code >> 4) & 7, (code & 15).astype(np.int32)
    # The first two segments have the same step; from there on it doubles.
    magnitude = np.where(segment, (2 * step + 33) << (np.maximum(segment, 1) - 1), 2 * step + 1)
    return np.where(sign, magnitude, -magnitude).astype(np.float32) / np.float32(4096)


def _decode_pcm32(data: bytes) -> NDArray[np.float32]:
    samples = np.frombuffer(data, _PCM32).astype(np.float32)
    samples *= _SCALE32
    # Rounding to 24 bits takes the largest integers to 1.
    np.minimum(samples, _BELOW_ONE, out=samples)
    return samples


def _float_decoder(name: str) -> Callable[[bytes], NDArray[np.float32]]:
    dtype = np.dtype(name)

    def decode_float(data: bytes) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore"):  # A signalling NaN is no fault of ours.
            samples = np.frombuffer(data, dtype).astype(np.float32)
        finite = np.isfinite(samples)
        if not finite.all():
            samples[~finite] = 0
        return np.clip(samples, -1, _BELOW_ONE, out=samples)

    return decode_float


def _table_decoder(table: NDArray[np.float32]) -> Callable[[bytes], NDArray[np.float32]]:
    def decode_table(data: bytes) -> NDArray[np.float32]:
        return table[np.frombuffer(data, np.uint8)]

    return decode_table


_DECODERS: Final[dict[str, tuple[int, Callable[[bytes], NDArray[np.float32]]]]] = {
    "pcm_s16le": (2, decode_pcm16),
    "pcm_s32le": (4, _decode_pcm32),
    "pcm_f16le": (2, _float_decoder("<f2")),
    "pcm_f32le": (4, _float_decoder("<f4")),
    "pcm_mulaw": (1, _table_decoder(_mulaw_table())),
    "pcm_alaw": (1, _table_decoder(_alaw_table())),
}
"""Bytes a sample and how to decode whole samples, by encoding."""


def _look_up(encoding: str) -> tuple[int, Callable[[bytes], NDArray[np.float32]]]:
    try:
        return _DECODERS[encoding]
    except KeyError:
        allowed = ", ".join(_DECODERS)
        raise ValueError(f"encoding must be one of {allowed}, got {encoding!r}") from None


def _check_rate(name: str, rate: int) -> None:
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"{name} must be from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz, got {rate}"
        )


def bytes_per_sample(encoding: str) -> int:
    """Bytes that one mono sample takes.

    Raises: `ValueError` if the encoding is unknown.
    """
    return _look_up(encoding)[0]


def decode(data: bytes, encoding: str) -> NDArray[np.float32]:
    """Mono audio bytes to 1-d float32 in [-1, 1), a fresh array.

    Integers are scaled by a power of two. Floats beyond the range are clipped, and NaN and the
    infinities become 0: they tell nothing about the sound, and one NaN would stay in a
    resampler or a model for good. µ-law and A-law follow ITU-T G.711.

    Raises: `ValueError` if the encoding is unknown or `data` is not a whole number of samples.
    """
    return _decode_whole(data, encoding, *_look_up(encoding))


def _decode_whole(
    data: bytes, encoding: str, size: int, decoder: Callable[[bytes], NDArray[np.float32]]
) -> NDArray[np.float32]:
    if len(data) % size:
        raise ValueError(
            f"{len(data)} bytes are not a whole number of {encoding} samples of {size} bytes"
        )
    return decoder(data)


class AudioDecoder:
    """One stream of mono audio bytes to float32 samples at `target_rate`.

    How the stream is divided into chunks does not change the samples. Resampling has linear phase:
    output sample n is the sound at n / `target_rate` seconds, or up to 0.12 ms earlier. It is flat
    to 0.9 of the narrower band and holds back what its filter has not seen the future of: with a
    target of 16 kHz `produced` is at most 480 samples (30 ms) behind at 8 kHz, 160 (10 ms) at 24
    kHz, 590 (37 ms) at 48 kHz, 650 (41 ms) at 44.1 kHz and nowhere more than 900 (56 ms). Nothing
    is held back where the rates are equal.
    """

    def __init__(self, encoding: str, sample_rate: int, target_rate: int = 16_000) -> None:
        """`encoding`: a name of FFmpeg's; rates in Hz, 8,000 to 48,000.

        Raises: `ValueError` if the encoding is unknown or a rate is out of range.
        """
        _check_rate("sample_rate", sample_rate)
        _check_rate("target_rate", target_rate)
        self.encoding = encoding
        self.sample_rate = sample_rate
        self.target_rate = target_rate
        self._size, self._decoder = _look_up(encoding)
        self._resampler: Any = None
        if sample_rate != target_rate:
            self._resampler = soxr.ResampleStream(
                sample_rate,
                target_rate,
                1,
                dtype="float32",
                quality=_QUALITY,
                vr=sample_rate <= _LAST_VARIABLE_RATE,
            )
        self._consumed = 0
        self._produced = 0

    @property
    def consumed(self) -> int:
        """Samples received so far, at `sample_rate`."""
        return self._consumed

    @property
    def produced(self) -> int:
        """Samples returned so far, at `target_rate`."""
        return self._produced

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """The next chunk to 1-d float32 in [-1, 1); may be empty, as the resampler works in blocks.

        Raises: `ValueError` if `data` is not a whole number of samples; nothing is consumed then.
        """
        samples = _decode_whole(data, self.encoding, self._size, self._decoder)
        self._consumed += len(samples)
        if self._resampler is not None:
            samples = _clipped(self._resampler.resample_chunk(samples))
        self._produced += len(samples)
        return samples

    def flush(self) -> NDArray[np.float32]:
        """What the resampler still holds, as if silence followed; audio may go on afterwards.

        `produced` is then exactly `consumed` x `target_rate` / `sample_rate`, halves rounded up,
        however many flushes there have been: a stream does not drift against its clock.
        """
        if self._resampler is None:
            return _NOTHING.copy()
        tail = _clipped(self._resampler.resample_chunk(_NOTHING, last=True))
        self._resampler.clear()
        tail = _fitted(tail, self._due() - self._produced)
        self._produced += len(tail)
        return tail

    def _due(self) -> int:
        """`consumed` on the clock of `target_rate`."""
        return (2 * self._consumed * self.target_rate + self.sample_rate) // (2 * self.sample_rate)


def _clipped(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """In place: between loud samples the resampled wave may go beyond them."""
    return np.clip(samples, -1, _BELOW_ONE, out=samples)


def _fitted(samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`count` samples; each run between flushes is rounded by itself, so one may be over or short.

    The filter always holds more than the one sample that is cut off.
    """
    if len(samples) >= count:
        return samples[:count]
    return np.append(samples, np.zeros(count - len(samples), np.float32))
