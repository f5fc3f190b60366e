"""Tells an engine that hangs from one that is slow or idle. Sans-IO: the caller has the clock.

Slow and hung look alike to one stream, which waits either way. The difference shows in the steps
of the whole engine: as long as there are any, it is slow; without any while frames wait for an
answer, it hangs. An idle engine makes no steps either, so it is given some work now and then.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

SILENT_S: Final = 1.0
"""Without a step for so long while frames wait, the engine is said to be silent: longer than any
step of one that is well, and much shorter than the deadline."""


class Health(Enum):
    """What a look at the engine says."""

    ANSWERING = auto()
    SILENT = auto()
    """Frames have waited for `SILENT_S` and longer without any step."""
    HUNG = auto()
    """They have waited for the whole deadline."""
    UNPROVEN = auto()
    """It has nothing to do, and it is time to see whether it still could."""


@dataclass(slots=True)
class StepWatch:
    """Watches one engine, from looks at intervals much shorter than its deadline."""

    hang_s: float
    """Seconds without a step, while frames wait, after which the engine hangs."""
    canary_s: float
    """Seconds without a step after which an idle engine is to prove itself."""
    now: float
    """When the watch begins; the engine has just made a step."""
    _steps: int = 0
    _stepped_at: float = field(init=False)
    _waiting_since: float | None = field(init=False, default=None)
    _given_up: bool = field(init=False, default=False)
    """Frames that nobody waits for any more went unanswered, and no step came since."""

    def __post_init__(self) -> None:
        self._stepped_at = self.now

    def look(self, now: float, steps: int, in_flight: int) -> Health:
        """`steps`: how many there have been; `in_flight`: frames that wait for an answer."""
        if steps != self._steps:
            self._steps, self._stepped_at = steps, now
            self._waiting_since, self._given_up = None, False
        waited = self.waited(now)
        if not in_flight:
            self._waiting_since = None
            self._given_up = self._given_up or waited >= SILENT_S
            idle = now - self._stepped_at
            return Health.UNPROVEN if self._given_up or idle >= self.canary_s else Health.ANSWERING
        if self._waiting_since is None:
            self._waiting_since = now
        if waited >= self.hang_s:
            return Health.HUNG
        return Health.SILENT if waited >= SILENT_S else Health.ANSWERING

    def waited(self, now: float) -> float:
        """Seconds for which frames have been waiting without any step."""
        return 0.0 if self._waiting_since is None else now - self._waiting_since
