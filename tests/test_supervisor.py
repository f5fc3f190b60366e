"""How engines are brought back, on fake ones that do what no real one does on demand."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
import trio.testing
from geometry import model

from realtimed.config import Limits
from realtimed.engine import supervisor as supervisor_module
from realtimed.engine.availability import EngineState
from realtimed.engine.core import EngineSpec
from realtimed.engine.load import EngineLoad
from realtimed.engine.spec import ModelInfo
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.errors import EngineDeadError, EngineFailed, EngineLost, EngineStartError

LIMITS = Limits(engine_restart_deadline_s=120, engine_restarts=3, engine_hang_s=20)
LOADING_S = 10.0


@dataclass
class Fate:
    """What becomes of one fake engine, in seconds since it was up."""

    dies_after_s: float = float("inf")
    stuck_after_s: float = float("inf")
    """From then on a frame is in flight and no step comes."""
    deaf_after_s: float = float("inf")
    """From then on inferences are not answered."""
    starts: bool = True
    can_be_killed: bool = True
    loading_s: float = LOADING_S
    info: ModelInfo = field(default_factory=model)


class FakeEngine:
    """Has the life of an engine, and neither a process nor a model."""

    fates: deque[Fate]
    made: list["FakeEngine"]

    def __init__(self, _spec: EngineSpec, load: EngineLoad, on_lost: Any) -> None:
        self.load = load
        self.on_lost = on_lost
        self.fate = FakeEngine.fates.popleft() if FakeEngine.fates else Fate()
        FakeEngine.made.append(self)
        self.lost, self.ended, self._told = trio.Event(), trio.Event(), trio.Event()
        self.steps = 0
        self.stepped_at = -1.0
        self.up_at = float("inf")
        self.killed = False

    async def run(self, progress: Any, *, task_status: Any) -> None:
        try:
            progress("loading")
            with trio.move_on_after(self.fate.loading_s):
                await self._told.wait()
                raise EngineStartError("stopped while starting")
            if not self.fate.starts:
                raise EngineStartError("no memory")
            self.up_at = trio.current_time()
            task_status.started(self.fate.info)
            with trio.move_on_after(min(self.fate.dies_after_s, self.fate.stuck_after_s)):
                await self._told.wait()
            if self.fate.stuck_after_s < self.fate.dies_after_s and not self._told.is_set():
                self.load.sent()
                await self._told.wait()
                self.load.settled()
            if self.killed and not self.fate.can_be_killed:
                await trio.sleep_forever()
            self.lost.set()
            self.on_lost()
        finally:
            self.ended.set()

    def stop(self) -> None:
        self._told.set()

    def kill(self) -> None:
        self.killed = True
        self._told.set()


async def infer(engine: Any) -> bool:
    """Half a second and twelve steps, as if one of silence had been recognised."""
    if trio.current_time() >= engine.up_at + engine.fate.deaf_after_s:
        await trio.sleep_forever()
    with trio.move_on_after(0.5):
        await engine.lost.wait()
        raise EngineLost
    engine.steps += 12
    return True


@dataclass
class Watched:
    """A supervisor on fake engines, and how it fared."""

    supervisor: EngineSupervisor
    changes: list[tuple[float, bool]] = field(default_factory=list)
    """When the engine came and went."""
    error: Exception | None = None

    async def run(self, *, infer: Any = infer, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await self.supervisor.run(lambda _: None, infer, task_status=task_status)
        except* (EngineDeadError, EngineStartError) as group:
            self.error = group.exceptions[0]  # type: ignore[assignment]


@pytest.fixture
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEngine.made = []
    monkeypatch.setattr(supervisor_module, "Engine", FakeEngine)


@contextmanager
def fates(*given: Fate, limits: Limits = LIMITS) -> Iterator[Watched]:
    FakeEngine.fates = deque(given)
    watched: Watched
    began = trio.current_time()

    def changed() -> None:
        up = watched.supervisor.availability.up
        watched.changes.append((round(trio.current_time() - began, 1), up))

    watched = Watched(EngineSupervisor(EngineSpec("fake"), limits, changed))
    yield watched
    assert watched.supervisor.availability.state is EngineState.ENDED


pytestmark = pytest.mark.usefixtures("no_engines")
Clock = trio.testing.MockClock


async def test_a_dead_engine_is_replaced_at_once_and_the_next_ones_ever_later(
    autojump_clock: Clock,
) -> None:
    with fates(Fate(dies_after_s=100), Fate(dies_after_s=1), Fate(dies_after_s=1)) as watched:
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(watched.run)
            await trio.sleep(200)
            watched.supervisor.stop()
    assert watched.changes == [
        (10.5, True),
        (110.0, False), (120.5, True),
        (121.0, False), (132.5, True),
        (133.0, False), (145.5, True),
    ]  # fmt: skip
    assert watched.supervisor.restarts == 3
    assert watched.error is None


async def test_a_crash_loop_ends_the_supervision(autojump_clock: Clock) -> None:
    with fates(*[Fate(dies_after_s=1) for _ in range(9)]) as watched:
        await watched.run()
    assert len(FakeEngine.made) == 4
    assert isinstance(watched.error, EngineDeadError)
    assert "more than 3 times" in str(watched.error)
    assert watched.changes[-1][1] is False


async def test_an_engine_that_does_not_start_again_is_tried_until_the_deadline(
    autojump_clock: Clock,
) -> None:
    limits = Limits(engine_restart_deadline_s=60, engine_restarts=100)
    with fates(Fate(dies_after_s=1), *[Fate(starts=False)] * 50, limits=limits) as watched:
        await watched.run()
        assert trio.current_time() - FakeEngine.made[0].up_at == pytest.approx(61)
    assert 4 <= len(FakeEngine.made) <= 7
    assert "in 60 s" in str(watched.error)


async def test_an_engine_that_is_slow_to_load_is_given_up_at_the_deadline(
    autojump_clock: Clock,
) -> None:
    with fates(Fate(dies_after_s=1), Fate(loading_s=1e6)) as watched:
        await watched.run()
    assert isinstance(watched.error, EngineDeadError)
    assert FakeEngine.made[0].up_at + 121 == pytest.approx(trio.current_time())


async def test_once_an_engine_is_back_the_deadline_of_its_outage_is_off(
    autojump_clock: Clock,
) -> None:
    with fates(Fate(dies_after_s=1)) as watched:
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(watched.run)
            await trio.sleep(10_000)
            watched.supervisor.stop()
    assert watched.changes == [(10.5, True), (11.0, False), (21.5, True)]


async def test_a_hung_engine_is_killed_at_the_deadline(autojump_clock: Clock) -> None:
    with fates(Fate(stuck_after_s=5)) as watched:
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(watched.run)
            await trio.sleep(60)
            watched.supervisor.stop()
    assert FakeEngine.made[0].killed
    (_, (down, _), (back, _)) = watched.changes
    assert down == pytest.approx(10 + 5 + 20, abs=1.1)
    assert back - down == pytest.approx(10.5, abs=0.1)


async def test_an_idle_engine_that_does_not_answer_the_canary_is_killed(
    autojump_clock: Clock,
) -> None:
    with fates(Fate(deaf_after_s=20)) as watched:
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(watched.run)
            await trio.sleep(100)
            watched.supervisor.stop()
    assert FakeEngine.made[0].killed
    assert watched.changes[1][0] == pytest.approx(10 + 30 + 10, abs=1.1)


async def test_an_engine_that_fails_the_canary_is_killed(autojump_clock: Clock) -> None:
    calls: list[int] = []

    async def fail_later(_engine: Any) -> bool:
        calls.append(1)
        if len(calls) == 2:
            raise EngineFailed("no")
        return True

    with fates() as watched:
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(lambda task_status: watched.run(
                infer=fail_later, task_status=task_status
            ))  # fmt: skip
            await trio.sleep(60)
            watched.supervisor.stop()
    assert FakeEngine.made[0].killed
    assert [up for _, up in watched.changes] == [True, False, True]


async def test_an_engine_that_survives_sigkill_ends_the_supervision(autojump_clock: Clock) -> None:
    with fates(Fate(stuck_after_s=1, can_be_killed=False)) as watched:
        await watched.run()
    assert isinstance(watched.error, EngineDeadError)
    assert "SIGKILL" in str(watched.error)
    assert len(FakeEngine.made) == 1, "no second engine beside it"


async def test_an_engine_that_comes_back_different_is_not_used(autojump_clock: Clock) -> None:
    other = Fate(info=replace(model(), max_num_seqs=2))
    with fates(Fate(dies_after_s=1), other) as watched:
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(watched.run)
            await trio.sleep(60)
            assert watched.supervisor.info == model()
            watched.supervisor.stop()
    assert len(FakeEngine.made) == 3
    assert [up for _, up in watched.changes] == [True, False, True]


async def test_a_first_engine_that_does_not_start_is_not_tried_again(autojump_clock: Clock) -> None:
    with fates(Fate(starts=False)) as watched:
        await watched.run()
    assert isinstance(watched.error, EngineStartError)
    assert len(FakeEngine.made) == 1


async def test_a_first_inference_that_fails_is_a_failed_start(autojump_clock: Clock) -> None:
    with fates(Fate(dies_after_s=0.1)) as watched:
        await watched.run()
    assert isinstance(watched.error, EngineStartError)
    assert "first inference" in str(watched.error)


@pytest.mark.parametrize("seconds", [0.5, 3.0, 11.5, 15.0], ids=lambda s: f"{s} s after the loss")
async def test_a_stop_while_the_engine_is_down_is_prompt_and_starts_no_other(
    autojump_clock: Clock, seconds: float
) -> None:
    # Lost again right after it came back, so that the second restart has to wait a second.
    with fates(Fate(dies_after_s=10), Fate(dies_after_s=0.6)) as watched:
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(watched.run)
            await watched.supervisor._engine.lost.wait()
            await trio.sleep(seconds)
            made, began = len(FakeEngine.made), trio.current_time()
            watched.supervisor.stop()
    assert trio.current_time() - began < 0.1
    assert len(FakeEngine.made) == made
    assert watched.error is None


async def test_it_is_alive_while_it_works_and_while_it_is_brought_back(
    autojump_clock: Clock,
) -> None:
    with fates(Fate(dies_after_s=100), Fate(loading_s=100)) as watched:
        supervisor, dead = watched.supervisor, []
        async with trio.open_nursery() as nursery:  # ends by the stop
            await nursery.start(watched.run)
            for _ in range(400):
                await trio.sleep(0.7)
                dead += [] if supervisor.alive() else [trio.current_time()]
            supervisor.stop()
    assert dead == []
    assert not supervisor.alive()
