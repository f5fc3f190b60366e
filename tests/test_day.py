"""A short day of good and bad clients leaves nothing behind; `benchmarks/day.py` has long ones."""

import sys
from dataclasses import replace
from pathlib import Path

import trio
from daemon_process import Counts, DaemonProcess

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import day


async def test_after_a_day_of_clients_everything_is_back_where_it_was(
    daemon: DaemonProcess,
) -> None:
    url = f"{daemon.url}/v1/realtime"
    # The first crowd makes the allocator's arenas, which stay; what leaks grows with the second.
    await day.live(url, daemon.admin, daemon.pid, sessions=32, at_once=8, seed=6)
    played = await day.live(url, daemon.admin, daemon.pid, sessions=64, at_once=8, seed=7)
    assert played.failures == []
    assert len(played.clients) == len(day.KINDS)
    without_final = played.clients["vanishes"] + played.clients["leaves_at_once"]
    assert played.finals == played.clients.total() - without_final
    # A thread of the pool, and the task and the socket of this very question, come and go.
    changing = ("threads", "tasks", "descriptors")
    for name in changing:
        assert getattr(played.after, name) <= getattr(played.before, name) + 1, name
    nothing = dict.fromkeys((*changing, "rss_mib"), 0)
    assert replace(played.after, **nothing) == replace(played.before, **nothing)
    assert played.grown_mib < 12, "the audio of one session takes up to two"
    with trio.fail_after(10):
        while await daemon.counts() != Counts(0, 0, 0):
            pass
