"""Raw PCM bytes to float32 samples."""

import numpy as np
from numpy.typing import NDArray

_SCALE = np.float32(1 / 32768)
_PCM16 = np.dtype("<i2")


def decode_pcm16(data: bytes) -> NDArray[np.float32]:
    """Signed 16-bit little-endian PCM to 1-d float32 in [-1, 1).

    Raises: `ValueError` if `data` is not a whole number of samples.
    """
    # Scaling by a power of two is exact, so this equals vLLM's division by 32768 bit for bit.
    return np.frombuffer(data, _PCM16).astype(np.float32) * _SCALE


def encode_pcm16(samples: NDArray[np.float32]) -> bytes:
    """1-d float32 in [-1, 1] to signed 16-bit little-endian PCM, clipped."""
    scaled = np.rint(samples * np.float32(32768))
    data: bytes = np.clip(scaled, -32768, 32767).astype(_PCM16).tobytes()
    return data
