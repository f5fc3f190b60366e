"""Whether there is an engine, for those who wait for one and for the clocks that blame others.

A client that sends too fast, or a queue that is too long, is given up after some seconds. Those
seconds count only while the engine does its part: a `patience` stands still while it does not.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import trio

from realtimed.errors import EngineUnavailable


class EngineState(Enum):
    """What can be expected of the engine now."""

    DOWN = "down"
    """There is none that has answered yet; one is being started."""
    ANSWERING = "answering"
    SILENT = "silent"
    """It runs, and has left work unanswered for a while."""
    ENDED = "ended"
    """There is none, and none will come."""


class Availability:
    """The state of the engine, as those see it who only use it. Trio thread only."""

    def __init__(self, state: EngineState = EngineState.ANSWERING) -> None:
        self.state = state
        self._changed = trio.Event()
        self._clocks: dict[trio.CancelScope, float] = {}
        """Running patience, and what was left of it when the clocks were stopped, in seconds."""

    @property
    def up(self) -> bool:
        """Whether requests are taken, answered or not."""
        return self.state in (EngineState.ANSWERING, EngineState.SILENT)

    def change(self, state: EngineState) -> None:
        """Set the state, wake who waits for it, and stop or start the clocks."""
        if state is self.state:
            return
        before, self.state = self.state, state
        self._changed.set()
        self._changed = trio.Event()
        ran, run = before is EngineState.ANSWERING, state is EngineState.ANSWERING
        now = trio.current_time() if ran != run else 0.0
        for clock, left in list(self._clocks.items()):
            if ran and not run:
                self._clocks[clock], clock.deadline = clock.deadline - now, math.inf
            elif run and not ran:
                clock.deadline = now + left

    async def wait(self) -> None:
        """Wait until there is an engine; whoever restarts it sets the deadline.

        Raises: `EngineUnavailable` if none comes any more.
        """
        await trio.lowlevel.checkpoint()
        while self.state is EngineState.DOWN:
            await self._changed.wait()
        if self.state is EngineState.ENDED:
            raise EngineUnavailable("The engine is gone: connect again when the daemon is ready.")

    @contextmanager
    def patience(self, seconds: float) -> Iterator[trio.CancelScope]:
        """As `trio.move_on_after`, but the clock runs only while the engine answers."""
        runs = self.state is EngineState.ANSWERING
        with trio.move_on_after(seconds if runs else math.inf) as clock:
            self._clocks[clock] = seconds
            try:
                yield clock
            finally:
                del self._clocks[clock]
