"""How much audio a session, and all sessions of a key, may bring: token buckets. Sans-IO.

A bucket of `burst_s` seconds of audio fills at `rate` seconds of audio a second. Who takes more
than there is, is in debt, and has to wait until it is paid: nothing is ever refused. The bucket is
one number, the time by which all that was taken will have been paid for (the virtual scheduling
algorithm of ITU-T I.371, annex A), so idle buckets need no refilling.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Final

from realtimed.config import Limits

_RATION_S: Final = 1.0
"""Audio that a session takes before it asks its buckets again."""


class RateBudget:
    """A token bucket of audio."""

    __slots__ = ("_ahead_s", "_paid_at", "_rate")

    def __init__(self, rate: float, burst_s: float) -> None:
        """`rate`: seconds of audio a second; `burst_s`: what a full bucket holds, in seconds of
        audio.
        """
        self._rate = rate
        self._ahead_s = burst_s / rate
        self._paid_at = -math.inf

    def take(self, audio_s: float, now: float) -> float:
        """Take `audio_s` seconds at time `now`; the time from which on there is no debt.

        Whoever shares the bucket gets what is left in the order in which they took.
        """
        self._paid_at = max(self._paid_at, now) + audio_s / self._rate
        return self._paid_at - self._ahead_s


def budgets(limits: Limits, of_key: RateBudget | None) -> Iterator[RateBudget]:
    """What a new session draws on: a budget of its own, and that of its key."""
    if limits.rate:
        # As much as the ring holds: to take that at once costs no memory that is not granted.
        yield RateBudget(limits.rate, limits.ring_s)
    if of_key is not None:
        yield of_key


class Pace:
    """One session's share in its budgets."""

    __slots__ = ("_budgets", "_sample_rate", "_taken", "free_until")

    def __init__(self, budgets: Iterable[RateBudget], sample_rate: int) -> None:
        """`sample_rate`: of the session's clock, in Hz."""
        self._budgets = tuple(budgets)
        self._sample_rate = sample_rate
        self._taken = 0
        self.free_until = round(_RATION_S * sample_rate) if self._budgets else math.inf
        """The position on the session's clock at which to ask again: all that audio at the speed
        of speech costs is a comparison with it."""

    def take(self, position: int, now: float) -> float:
        """Account for the audio before `position`; the time from which on more may be taken."""
        audio_s = (position - self._taken) / self._sample_rate
        self._taken = position
        self.free_until = position + round(_RATION_S * self._sample_rate)
        return max(budget.take(audio_s, now) for budget in self._budgets)
