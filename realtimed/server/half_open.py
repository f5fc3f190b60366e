"""Connections that are no sessions yet: few at a time, and the oldest makes way for a new one.

An honest client is upgraded within a few round trips. Peers that open connections and say little,
or nothing, can therefore take nobody's place: under a flood, it is they who are the oldest.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class HalfOpen:
    """The handshakes that go on, oldest first."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, None] = {}
        self.displaced = 0
        """Handshakes that had to make way since the start."""

    def __len__(self) -> int:
        return len(self._scopes)

    @contextmanager
    def place(self, at_most: int, deadline: float) -> Iterator[trio.CancelScope]:
        """Run the body as a handshake; at `deadline`, or to make way, it is cancelled."""
        while len(self._scopes) >= at_most:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
            self.displaced += 1
        with trio.CancelScope(deadline=deadline) as scope:
            self._scopes[scope] = None
            try:
                yield scope
            finally:
                self._scopes.pop(scope, None)
