"""How long a session may say nothing."""

import math
from dataclasses import dataclass, field

import trio

from realtimed.config import Limits
from realtimed.errors import IdleTimeout


@dataclass(slots=True)
class IdleWatch:
    """Ends a session that is silent. A deadline around each receive would cost every one."""

    limits: Limits
    _heard: bool = field(init=False, default=False)
    """A message has come."""
    _waiting_since: float = field(init=False, default=math.inf)
    """Trio's time when the receive loop began to wait for a message; infinite if it does not."""

    def waiting(self) -> None:
        """The receive loop waits for a message from here on."""
        self._waiting_since = trio.current_time()

    def heard(self) -> None:
        """One has come; until the loop waits for another, the client owes none."""
        self._waiting_since = math.inf
        self._heard = True

    async def run(self) -> None:
        """Watch until cancelled. Raises: `IdleTimeout`."""
        limits, now = self.limits, trio.current_time()
        patience_s = limits.first_event_s
        while (due := min(self._waiting_since, now) + patience_s) > now:
            # No later than a session that speaks meanwhile may be silent.
            await trio.sleep_until(min(due, now + limits.idle_s))
            now = trio.current_time()
            patience_s = limits.idle_s if self._heard else limits.first_event_s
        raise IdleTimeout(
            f"Nothing was received for {patience_s:g} s: the session was ended. "
            "Connect again when there is audio."
        )
