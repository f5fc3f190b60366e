"""The order in which a stopping daemon lets its sessions go."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
import trio.testing

from realtimed.server.draining import let_go

SPREAD_S = 10.0


@dataclass(eq=False)
class Told:
    """What a connection is told, and when."""

    crowd: "Crowd"
    idle: bool = True
    announced: float | None = None
    drained_at: float = -1.0

    def announce_drain(self, within_s: float) -> None:
        self.announced = within_s

    def drain(self) -> None:
        self.drained_at = trio.current_time() - self.crowd.began
        self.crowd.leave(self)


@dataclass
class Crowd:
    """Sessions that end as soon as they are drained."""

    sessions: set[Told] = field(default_factory=set)
    began: float = field(default_factory=trio.current_time)
    gone: trio.Event = field(default_factory=trio.Event)

    def add(self, count: int, *, idle: bool) -> list[Told]:
        added = [Told(self, idle) for _ in range(count)]
        self.sessions.update(added)
        return added

    def leave(self, session: Told) -> None:
        self.sessions.discard(session)
        if not self.sessions:
            self.gone.set()

    async def let_go(self) -> float:
        await let_go(self.sessions, SPREAD_S, self.gone.wait)  # type: ignore[arg-type]
        return trio.current_time() - self.began


async def test_a_few_idle_sessions_are_gone_at_once(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd()
    few = crowd.add(3, idle=True)
    assert await crowd.let_go() < 0.5
    assert {session.announced for session in few} == {SPREAD_S}


@pytest.mark.parametrize("count", [500, 5_000])
async def test_many_idle_sessions_go_evenly_over_half_of_the_spread(
    autojump_clock: trio.testing.MockClock, count: int
) -> None:
    crowd = Crowd()
    many = crowd.add(count, idle=True)
    assert await crowd.let_go() == pytest.approx(SPREAD_S / 2, rel=0.05)
    times = sorted(session.drained_at for session in many)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) < 2 * SPREAD_S / 2 / count


async def test_open_utterances_go_on_for_half_of_the_spread_and_are_then_cut_one_by_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    crowd = Crowd()
    speakers = crowd.add(5, idle=False)
    idle = crowd.add(5, idle=True)
    assert await crowd.let_go() <= SPREAD_S
    assert max(session.drained_at for session in idle) <= SPREAD_S / 2
    times = sorted(session.drained_at for session in speakers)
    assert times == pytest.approx([5, 6, 7, 8, 9])


async def test_who_begins_to_speak_before_its_turn_is_not_cut_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    crowd = Crowd()
    sessions = crowd.add(10, idle=True)

    async def begin_to_speak() -> None:
        await trio.sleep(0.05)
        for session in sessions:
            session.idle = False

    async with trio.open_nursery() as nursery:  # ends when all have gone
        nursery.start_soon(begin_to_speak)
        await crowd.let_go()
    assert sorted(session.drained_at < SPREAD_S / 2 for session in sessions) == [False] * 9 + [True]


async def test_when_all_have_left_by_themselves_nobody_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    crowd = Crowd()
    [speaker] = crowd.add(1, idle=False)

    async def leave() -> None:
        await trio.sleep(1)
        crowd.leave(speaker)

    async with trio.open_nursery() as nursery:  # ends when the speaker has left
        nursery.start_soon(leave)
        assert await crowd.let_go() == pytest.approx(1)
