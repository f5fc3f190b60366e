"""The order in which a stopping daemon lets its sessions go.

All at once would make all clients connect elsewhere at once, and cut through words. So those that
are idle go one after the other; those with an open utterance when it has its final, and what is
left one after the other in the second half of the spread, with what has been heard by then.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from realtimed.server.connection import Connection

_LONGEST_GAP_S: Final = 0.1
"""Few sessions go sooner: no crowd has to be avoided."""


async def let_go(
    sessions: Collection[Connection], spread_s: float, all_gone: Callable[[], Awaitable[None]]
) -> None:
    """Drain every session within `spread_s` seconds; returns early if `all_gone` does.

    `sessions` is live: those that have ended are no longer in it.
    """
    began = trio.current_time()
    half_s = spread_s / 2
    for connection in list(sessions):
        connection.announce_drain(spread_s)
    idle = [connection for connection in sessions if connection.idle]
    gap_s = min(_LONGEST_GAP_S, half_s / max(len(idle), 1))
    for connection in idle:
        if connection.idle:  # it may have begun to speak
            connection.drain()
        with trio.move_on_after(gap_s):
            await all_gone()
            return
    with trio.move_on_at(began + half_s):
        await all_gone()
        return
    left = list(sessions)
    for connection in left:
        connection.drain()
        with trio.move_on_after(half_s / len(left)):
            await all_gone()
            return
