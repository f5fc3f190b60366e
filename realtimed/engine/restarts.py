"""How often, and how soon, a lost engine is started again. Sans-IO: the caller has the clock."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

_FIRST_DELAY_S: Final = 1.0
_LONGEST_DELAY_S: Final = 30.0


@dataclass(slots=True)
class RestartBudget:
    """At most `at_most` restarts within any `window_s` seconds, ever further apart.

    The first is made at once: most losses come alone, and sessions wait.
    """

    at_most: int
    window_s: float
    _made: deque[float] = field(init=False, default_factory=deque)

    def take(self, now: float) -> float | None:
        """Take one restart; seconds to wait before it, or `None` if there are too many."""
        while self._made and self._made[0] <= now - self.window_s:
            self._made.popleft()
        if len(self._made) >= self.at_most:
            return None
        # The window can hold many: beyond the longest delay the power need not be computed.
        doublings = min(len(self._made) - 1, 16)
        delay_s = min(_FIRST_DELAY_S * 2**doublings, _LONGEST_DELAY_S) if self._made else 0.0
        self._made.append(now)
        return delay_s
