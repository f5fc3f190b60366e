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
    played = await day.live(url, daemon.admin, daemon.pid, sessions=64, at_once=8, seed=7)
    assert played.failures == []
    assert len(played.clients) == len(day.KINDS)
    assert played.silent_finals == 0
    # Threads of the standard pool come and go by themselves; memory is judged apart.
    before = replace(played.before, rss_mib=0, threads=0)
    assert replace(played.after, rss_mib=0, threads=0) == before
    assert played.after.threads <= played.before.threads + 1
    assert played.grown_mib < 16, "a session's ring alone is two"
    with trio.fail_after(10):
        while await daemon.counts() != Counts(0, 0, 0):
            pass
