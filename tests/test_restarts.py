"""What decides over an engine: whether it hangs, when it is started again, who killed it."""

import math

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtimed.engine.availability import Availability, EngineState
from realtimed.engine.restarts import RestartBudget
from realtimed.engine.watch import SILENT_S, Health, StepWatch
from realtimed.errors import EngineUnavailable
from realtimed.transcription.poison import PoisonWatch, Stretch
from realtimed.transcription.slots import SlotPool

HANG_S, CANARY_S, LOOK_S = 20.0, 30.0, 0.5

# --- hang detection ---------------------------------------------------------------------------


class FakeEngineUnderWatch(RuleBasedStateMachine):
    """A made-up engine that is well, or stops answering; looked at twice a second."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.watch = StepWatch(HANG_S, CANARY_S, self.now)
        self.steps = 0
        self.in_flight = 0
        self.well = True
        self.stuck_since: float | None = None
        """Since when frames have waited without a step, to one look."""
        self.stepped_at = self.now
        self.health = Health.ANSWERING

    @rule(frames=st.integers(1, 64))
    def frames_are_sent(self, frames: int) -> None:
        self.in_flight += frames

    @rule()
    def all_streams_are_closed(self) -> None:
        self.in_flight = 0

    @rule()
    def it_stops_answering(self) -> None:
        self.well = False

    @rule()
    def it_goes_on(self) -> None:
        self.well = True

    @rule(seconds=st.floats(0.5, 40.0))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end and self.health is not Health.HUNG:
            self.now += LOOK_S
            if self.well and self.in_flight:
                self.steps += 1
                self.in_flight = 0 if self.steps % 3 else 1  # some frames wait for the next step
                self.stuck_since, self.stepped_at = None, self.now
            if not self.in_flight:
                self.stuck_since = None
            elif self.stuck_since is None:
                self.stuck_since = self.now
            self.health = self.watch.look(self.now, self.steps, self.in_flight)

    @invariant()
    def a_well_engine_never_hangs_and_a_stuck_one_is_found_in_time(self) -> None:
        stuck = 0.0 if self.stuck_since is None else self.now - self.stuck_since
        if self.health is Health.HUNG:
            assert stuck >= HANG_S
        else:
            assert stuck < HANG_S
        if self.health is Health.SILENT:
            assert stuck >= SILENT_S

    @invariant()
    def an_engine_without_work_is_tried_in_time(self) -> None:
        if not self.in_flight and self.now - self.stepped_at >= CANARY_S + LOOK_S:
            assert self.watch.look(self.now, self.steps, 0) is Health.UNPROVEN

    @precondition(lambda self: self.health is Health.HUNG)
    @rule()
    def another_one_is_started(self) -> None:
        self.__init__()  # type: ignore[misc]


TestStepWatch = FakeEngineUnderWatch.TestCase
TestStepWatch.settings = settings(max_examples=100, stateful_step_count=30)


def test_five_seconds_without_a_step_are_no_hang() -> None:
    watch = StepWatch(HANG_S, CANARY_S, 0.0)
    looks = [watch.look(tick / 2, 0, 3) for tick in range(11)]
    assert set(looks) == {Health.ANSWERING, Health.SILENT}
    assert watch.look(5.5, 1, 2) is Health.ANSWERING


def test_an_engine_whose_silence_was_given_up_on_is_tried_at_once() -> None:
    watch = StepWatch(HANG_S, CANARY_S, 0.0)
    for tick in range(10):
        watch.look(tick / 2, 0, 1)
    assert watch.look(5.0, 0, 0) is Health.UNPROVEN
    assert watch.look(5.5, 0, 0) is Health.UNPROVEN
    assert watch.look(6.0, 1, 0) is Health.ANSWERING


# --- restarts -----------------------------------------------------------------------------------


def test_the_first_restart_is_made_at_once_and_the_next_ever_later() -> None:
    budget = RestartBudget(8, 600.0)
    assert [budget.take(number) for number in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, None]


def test_a_restart_that_is_long_past_is_forgotten() -> None:
    budget = RestartBudget(1, 600.0)
    assert [budget.take(now) for now in (0.0, 599.0, 600.0)] == [0.0, None, 0.0]


@given(st.integers(1, 50), st.floats(0.1, 1e4), st.lists(st.floats(0.0, 100.0), max_size=200))
def test_no_window_ever_holds_more_restarts_than_allowed(
    at_most: int, window_s: float, gaps: list[float]
) -> None:
    budget, now, made = RestartBudget(at_most, window_s), 0.0, []
    for gap in gaps:
        now += gap
        delay_s = budget.take(now)
        recent = [at for at in made if at > now - window_s]
        if delay_s is None:
            assert len(recent) == at_most
        else:
            assert 0 <= delay_s <= 30
            assert (delay_s == 0) == (not recent)
            made.append(now)
            assert len(recent) + 1 <= at_most


# --- who killed it ------------------------------------------------------------------------------


def test_an_utterance_in_the_engine_twice_at_the_same_place_is_poison() -> None:
    watch = PoisonWatch()
    assert not watch.engine_lost(Stretch(1_000, 2_000))
    assert watch.engine_lost(Stretch(1_900, 3_000))


@pytest.mark.parametrize(
    "losses",
    [
        [Stretch(1_000, 2_000), Stretch(2_000, 3_000)],
        [Stretch(1_000, 2_000), None, Stretch(1_000, 2_000)],
        [None, None, Stretch(0, 10)],
    ],
    ids=["it came further", "it was not in the engine", "only once in the engine"],
)
def test_an_utterance_that_was_merely_there_is_resumed(losses: list[Stretch | None]) -> None:
    watch = PoisonWatch()
    assert not any(watch.engine_lost(loss) for loss in losses)


@given(st.integers(0, 10**7), st.lists(st.integers(0, 10**5), min_size=1, max_size=20))
def test_audio_that_kills_is_found_at_its_second_loss_however_frames_lie(
    poison: int, offsets: list[int]
) -> None:
    """Each frame that dies of it contains it."""
    watch = PoisonWatch()
    found = [
        watch.engine_lost(Stretch(poison - offset, poison - offset + 10**5 + 1))
        for offset in offsets
    ]
    assert found == [False] + [True] * (len(offsets) - 1)


# --- clocks that stand still --------------------------------------------------------------------


async def test_patience_runs_only_while_the_engine_answers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    availability, began = Availability(), trio.current_time()

    async def outage() -> None:
        await trio.sleep(3)
        availability.change(EngineState.SILENT)
        await trio.sleep(15)
        availability.change(EngineState.DOWN)
        await trio.sleep(100)
        availability.change(EngineState.ANSWERING)

    async with trio.open_nursery() as nursery:  # ends with the outage
        nursery.start_soon(outage)
        with availability.patience(10) as clock:
            await trio.sleep_forever()
    assert clock.cancelled_caught
    assert trio.current_time() - began == pytest.approx(125)


async def test_patience_that_begins_in_an_outage_is_whole_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    availability, began = Availability(EngineState.DOWN), trio.current_time()
    async with trio.open_nursery() as nursery:  # ends below
        nursery.start_soon(_change_after, availability, 50, EngineState.ANSWERING)
        with availability.patience(10):
            await trio.sleep_forever()
    assert trio.current_time() - began == pytest.approx(60)


@given(st.lists(st.tuples(st.sampled_from(list(EngineState)), st.floats(0.01, 20.0)), max_size=12))
@settings(max_examples=50)
def test_patience_is_as_long_as_the_time_in_which_the_engine_answered(
    states: list[tuple[EngineState, float]],
) -> None:
    async def main() -> None:
        availability, answered = Availability(), 0.0
        ended: list[float] = []

        async def wait() -> None:
            with availability.patience(10):
                await trio.sleep_forever()
            ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:  # ends when the patience has run out
            nursery.start_soon(wait)
            expected = math.inf
            await trio.testing.wait_all_tasks_blocked()
            for state, seconds in [*states, (EngineState.ANSWERING, 100.0)]:
                availability.change(state)
                if state is EngineState.ANSWERING:
                    if answered < 10 <= answered + seconds:
                        expected = trio.current_time() + 10 - answered
                    answered += seconds
                await trio.sleep(seconds)
        assert ended == [pytest.approx(expected)]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_nobody_gets_a_slot_while_the_engine_is_down(
    autojump_clock: trio.testing.MockClock,
) -> None:
    availability = Availability(EngineState.DOWN)
    slots = SlotPool(1, 20.0, availability)
    async with trio.open_nursery() as nursery:  # ends below
        nursery.start_soon(_change_after, availability, 100, EngineState.ANSWERING)
        with slots.spare() as free:
            assert free, "the first inference of the next engine gets one"
        began = trio.current_time()
        async with slots.slot(_not_queued):
            assert trio.current_time() - began == pytest.approx(100)


async def test_who_waits_for_a_slot_when_the_engine_is_lost_waits_for_the_next_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    availability, seen = Availability(), []
    slots = SlotPool(1, 20.0, availability)

    async def second() -> None:
        async with slots.slot(lambda: seen.append("queued")):
            seen.append(str(trio.current_time() - began))

    async with trio.open_nursery() as nursery:  # ends when the second has had the slot
        began = trio.current_time()
        async with slots.slot(_not_queued):
            nursery.start_soon(second)
            await trio.sleep(15)
            availability.change(EngineState.DOWN)
        await trio.sleep(100)
        assert slots.active == 0
        availability.change(EngineState.ANSWERING)
    assert seen == ["queued", "115.0"]


async def test_who_waits_for_an_engine_is_told_when_none_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    availability = Availability(EngineState.DOWN)
    async with trio.open_nursery() as nursery:  # ends below
        nursery.start_soon(_change_after, availability, 100, EngineState.ENDED)
        with pytest.raises(EngineUnavailable):
            await availability.wait()


async def _change_after(availability: Availability, seconds: float, state: EngineState) -> None:
    await trio.sleep(seconds)
    availability.change(state)


def _not_queued() -> None:
    raise AssertionError("a slot was free")
