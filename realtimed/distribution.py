"""How values are distributed, in a handful of integers: cheap to add to, read by whoever asks."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

SECONDS: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.24, 0.32, 0.48, 0.64, 1, 2, 4, 8, 16, 32)
"""Bounds for delays, around the 80 ms of an audio frame and its small multiples."""
STREAMS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Bounds for how many streams have a part in something."""


class Distribution:
    """Counts of values between bounds, and their sum. Not for use from several threads."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: ascending. A value counts below the first bound that it does not exceed."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """One count for each bound, and one for what exceeds them all."""
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)
