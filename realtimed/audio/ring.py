"""The audio that is received but not yet safely recognised, bounded, by session clock.

Positions are samples since the session began and never reset. The ring holds
[`start`, `end`); appending moves `end`, releasing moves `start`.
"""

import numpy as np
from numpy.typing import NDArray

_FIRST_ALLOCATION = 16_384


class AudioRing:
    """A circular buffer of mono float32 samples addressed by absolute position.

    Memory grows with what is held, up to `capacity` samples, so a session that keeps up with
    speech costs a second of audio rather than the whole bound.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity`: the bound, in samples."""
        if capacity <= 0:
            raise ValueError(f"capacity must be positive, got {capacity}")
        self.capacity = capacity
        self._data = np.empty(min(capacity, _FIRST_ALLOCATION), np.float32)
        self._start = 0
        self._end = 0

    @property
    def start(self) -> int:
        """Position of the oldest sample held."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the newest sample: how much the session has received."""
        return self._end

    @property
    def free(self) -> int:
        """Samples that can be appended before the ring is full."""
        return self.capacity - (self._end - self._start)

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add 1-d float32 samples at `end`.

        Raises: `ValueError` if they are more than `free`.
        """
        count = len(samples)
        if count > self.free:
            raise ValueError(f"{count} samples do not fit into {self.free}")
        if self._end - self._start + count > len(self._data):
            self._grow(self._end - self._start + count)
        at = self._end % len(self._data)
        first = min(count, len(self._data) - at)
        self._data[at : at + first] = samples[:first]
        self._data[: count - first] = samples[first:]
        self._end += count

    def copy(self, start: int, end: int) -> NDArray[np.float32]:
        """A fresh array of the samples [`start`, `end`).

        Raises: `ValueError` if the ring does not hold all of them.
        """
        if not self._start <= start <= end <= self._end:
            raise ValueError(f"[{start}, {end}) is not within [{self._start}, {self._end})")
        out = np.empty(end - start, np.float32)
        self.copy_into(out, start)
        return out

    def copy_into(self, out: NDArray[np.float32], start: int) -> None:
        """Fill `out` with the samples from `start` on; the caller has checked the bounds."""
        at = start % len(self._data)
        first = min(len(out), len(self._data) - at)
        out[:first] = self._data[at : at + first]
        out[first:] = self._data[: len(out) - first]

    def release(self, position: int) -> None:
        """Forget everything before `position`; going back is ignored."""
        self._start = max(self._start, min(position, self._end))

    def close(self) -> None:
        """Forget all samples and the memory for them; there may be no more."""
        self._start = self._end
        self._data = np.empty(0, np.float32)

    def _grow(self, needed: int) -> None:
        held = self.copy(self._start, self._end)
        self._data = np.empty(min(self.capacity, max(needed, 2 * len(self._data))), np.float32)
        at = self._start % len(self._data)
        first = min(len(held), len(self._data) - at)
        self._data[at : at + first] = held[:first]
        self._data[: len(held) - first] = held[first:]
