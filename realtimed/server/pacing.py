"""How much audio a session, and all sessions of a key, may bring: token buckets. Sans-IO.

A bucket of `burst_s` seconds of audio fills at `rate` seconds of audio a second. Who takes more
than there is, is in debt, and has to wait until it is paid: nothing is ever refused. The bucket is
one number, the time by which all that was taken will have been paid for (the virtual scheduling
algorithm of ITU-T I.371, annex A), so idle buckets need no refilling.

A key's bucket grows with its sessions, and each of them has a share in it that is its own: who
stays within that never waits for the others. So speech at the speed at which it is spoken does not
meet this limit, whatever else is done with the key.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from realtimed.config import Limits

_RATION_S: Final = 1.0
"""Audio that a session takes before it asks its buckets again."""


class Budget(Protocol):
    """What audio is taken from."""

    def take(self, audio_s: float, now: float) -> float:
        """Take `audio_s` seconds at time `now`; the time from which on more may be taken."""


class RateBudget:
    """A token bucket of audio."""

    __slots__ = ("_ahead_s", "_paid_at", "_rate")

    def __init__(self, rate: float, burst_s: float, empty_at: float = -math.inf) -> None:
        """`rate`: seconds of audio a second; `burst_s`: what a full bucket holds, in seconds of
        audio; `empty_at`: a time at which there is nothing in it.
        """
        self.resize(rate, burst_s)
        self._paid_at = empty_at + self._ahead_s

    def resize(self, rate: float, burst_s: float) -> None:
        """Be another bucket from now on; a debt takes as long to pay as before."""
        self._rate = rate
        self._ahead_s = burst_s / rate

    def take(self, audio_s: float, now: float) -> float:
        """Take `audio_s` seconds at time `now`; the time from which on there is no debt.

        Whoever shares the bucket gets what is left in the order in which they took.
        """
        self._paid_at = max(self._paid_at, now) + audio_s / self._rate
        return self._paid_at - self._ahead_s


class KeyShare:
    """What one session may take of its key's budget: its own share, and what others leave."""

    __slots__ = ("_of_all", "_own")

    def __init__(self, own: RateBudget, of_all: RateBudget) -> None:
        self._own = own
        self._of_all = of_all

    def take(self, audio_s: float, now: float) -> float:
        """As `Budget`."""
        return min(self._own.take(audio_s, now), self._of_all.take(audio_s, now))


class KeyBudget:
    """The audio of all sessions of a key.

    `limits.key_rate` times real time for each session that is open, and never less than
    `limits.rate`, which one session alone may bring.
    """

    def __init__(self, limits: Limits) -> None:
        """Both rates are above 0."""
        self._limits = limits
        self._sessions = 0
        self._of_all = RateBudget(limits.rate, limits.ring_s)

    @contextmanager
    def share(self, now: float) -> Iterator[KeyShare]:
        """That of a session which begins at time `now`, as long as it lasts.

        It begins empty: a key must not come to more audio by opening one session after the other.
        """
        own = RateBudget(self._limits.key_rate, self._limits.ring_s, empty_at=now)
        self._count(1)
        try:
            yield KeyShare(own, self._of_all)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._sessions += change
        rate = max(self._limits.rate, self._limits.key_rate * self._sessions)
        self._of_all.resize(rate, self._limits.ring_s * max(self._sessions, 1))


def budgets(limits: Limits, of_key: KeyShare | None) -> Iterator[Budget]:
    """What a new session draws on: a budget of its own, and that of its key."""
    if limits.rate:
        # As much as the ring holds: to take that at once costs no memory that is not granted.
        yield RateBudget(limits.rate, limits.ring_s)
    if of_key is not None:
        yield of_key


class Pace:
    """Holds one session to its budgets."""

    __slots__ = ("_budgets", "_sample_rate", "_taken", "free_until")

    def __init__(self, budgets: Iterable[Budget], sample_rate: int) -> None:
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
