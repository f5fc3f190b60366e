"""How loud audio is, and where it is quietest. Sans-IO."""

import math

import numpy as np
from numpy.typing import NDArray


def level_dbfs(samples: NDArray[np.float32]) -> float:
    """RMS level of 1-d float32 samples in [-1, 1], in dB below a square wave of full scale.

    Digital silence, and no samples at all, are -inf.
    """
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def quietest(samples: NDArray[np.float32], width: int = 320) -> int:
    """The place to cut `samples`: offset of the middle of their quietest `width` samples.

    `samples`: 1-d float32. Quietest is what has the least mean square. Where several stretches
    tie, which only digital silence makes likely, it is the middle of the longest run of tied
    places, and of equally long runs the latest: as far as possible from speech on either side.
    Shorter arrays, and empty ones, are one stretch: the offset is half their length.

    Raises: `ValueError` if `width` is not positive.
    """
    if width <= 0:
        raise ValueError(f"width must be positive, got {width}")
    if len(samples) <= width:
        return len(samples) // 2
    # In float64 the squares of 16-bit samples add up exactly, so that equal sums are ties.
    total = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    energy = total[width:] - total[:-width]
    return _middle_of_longest_run(np.flatnonzero(energy == energy.min())) + width // 2


def _middle_of_longest_run(places: NDArray[np.intp]) -> int:
    """Of sorted, different, 1-d `places`: the middle of the longest run of neighbours."""
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 2) > 1)
    lengths = np.diff(starts, append=len(places))
    longest = len(lengths) - 1 - int(lengths[::-1].argmax())
    return int(places[starts[longest] + (lengths[longest] - 1) // 2])
