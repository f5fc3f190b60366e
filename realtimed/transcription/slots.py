"""The engine's slots: how many segments run at once, and who waits for one.

A segment holds a slot from its first frame to the end of its flush. A session that is silent has
no segment and so no slot; that is how more sessions than slots are served. Waiting is first come,
first served, and a long segment lines up again when it rolls over, so nobody starves. While the
engine is being restarted there is no slot for anyone, and nobody's waiting time runs.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from realtimed.engine.availability import Availability
from realtimed.errors import EngineBusy


class SlotPool:
    """Counts the active segments and lets no more than `total` run."""

    def __init__(self, total: int, wait_s: float, availability: Availability | None = None) -> None:
        """`wait_s`: seconds that a segment may wait for its turn while the engine answers."""
        self.total = total
        self.waiting = 0
        self.wait_s = wait_s
        self._availability = availability or Availability()
        self._free = trio.Semaphore(total, max_value=total)

    @property
    def active(self) -> int:
        """Segments that hold a slot."""
        return self.total - self._free.value

    @property
    def open(self) -> bool:
        """Whether there is an engine behind the slots now."""
        return self._availability.up

    @property
    def crowded(self) -> bool:
        """Whether as many segments wait as run: a new session would not be heard in time."""
        return self.waiting >= self.total

    @asynccontextmanager
    async def slot(self, queued: Callable[[], None]) -> AsyncIterator[None]:
        """Hold a slot of a running engine; `queued` is called if all of its slots are taken.

        Raises: `EngineBusy` if none comes free in time, `EngineUnavailable` if the engine is gone.
        """
        await self._acquire(queued)
        while not self._availability.up:  # it was lost while this one waited
            self._free.release()
            await self._acquire(queued)
        try:
            yield
        finally:
            self._free.release()

    @contextmanager
    def spare(self) -> Iterator[bool]:
        """Hold a slot, whatever the engine does, if one is free; tells whether it was."""
        try:
            self._free.acquire_nowait()
        except trio.WouldBlock:
            yield False
            return
        try:
            yield True
        finally:
            self._free.release()

    async def _acquire(self, queued: Callable[[], None]) -> None:
        await self._availability.wait()
        try:
            self._free.acquire_nowait()
        except trio.WouldBlock:
            queued()
            await self._wait()

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            with self._availability.patience(self.wait_s):
                await self._free.acquire()
                return
        finally:
            self.waiting -= 1
        raise EngineBusy(
            f"All {self.total} engine slots were taken for {self.wait_s:g} s: the utterance was "
            "ended. Send it again, or tell the operator that the server is too small."
        )
