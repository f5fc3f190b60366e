"""Audio is paced by token buckets: how much, how long one waits, and what is not disturbed."""

import math
from collections import Counter, defaultdict
from contextlib import ExitStack
from heapq import heappop, heappush
from itertools import count, pairwise

import pytest
import trio
import trio.testing
from fuzz.targets import OPENING
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_requests import Audio, play, spelled

from realtimed.config import Limits, Settings
from realtimed.server.access import AccessPolicy, Identity
from realtimed.server.connection import Connection
from realtimed.server.keys import ApiKey
from realtimed.server.pacing import Budget, KeyBudget, Pace, RateBudget, budgets
from realtimed.wire.vllm import VllmCodec

HZ = 16_000
rates = st.floats(0.1, 100)
bursts = st.floats(0, 60)
chunks = st.lists(
    st.tuples(st.floats(0.001, 10), st.floats(0, 10)), min_size=1, max_size=60
)  # seconds of audio, and how long the taker does something else before


@given(rates, bursts, chunks)
def test_no_more_is_taken_in_any_stretch_of_time_than_the_rate_and_a_burst(
    rate: float, burst_s: float, taken: list[tuple[float, float]]
) -> None:
    budget = RateBudget(rate, burst_s)
    now, before, history = 0.0, 0.0, []
    for audio_s, pause_s in taken:
        now += pause_s
        history.append((now, before))
        before += audio_s
        now = max(now, budget.take(audio_s, now))
    last = max(audio_s for audio_s, _ in taken)
    for number, (start, taken_before) in enumerate(history):
        for end, until in history[number + 1 :]:
            assert until - taken_before <= burst_s + rate * (end - start) + last + 1e-6


@given(rates, bursts, chunks)
def test_who_keeps_to_the_rate_never_waits(
    rate: float, burst_s: float, taken: list[tuple[float, float]]
) -> None:
    budget, now = RateBudget(rate, burst_s), 0.0
    for audio_s, pause_s in taken:
        assert budget.take(audio_s, now) <= now + audio_s / rate
        now += audio_s / rate + pause_s


@given(rates, st.floats(0.1, 60), chunks)
def test_who_sends_all_at_once_waits_no_longer_than_the_rate_asks_for(
    rate: float, burst_s: float, taken: list[tuple[float, float]]
) -> None:
    budget, total = RateBudget(rate, burst_s), 0.0
    for audio_s, _ in taken:
        total += audio_s
        assert budget.take(audio_s, 0.0) == pytest.approx((total - burst_s) / rate)


@given(st.lists(st.integers(1, 5 * HZ), min_size=1, max_size=100))
def test_a_session_asks_no_more_than_once_a_second_of_audio(sizes: list[int]) -> None:
    pace, received, asked = Pace([RateBudget(8, 30)], HZ), 0, []
    for size in sizes:
        if received >= pace.free_until:
            pace.take(received, 0.0)
            asked.append(received)
        received += size
    assert all(later - earlier >= HZ for earlier, later in pairwise(asked))
    assert received - max(asked, default=0) < HZ + max(sizes), "nothing is left out"


def test_without_budgets_a_session_never_asks() -> None:
    assert Pace([], HZ).free_until == math.inf


def test_the_tightest_of_several_budgets_decides() -> None:
    pace = Pace([RateBudget(8, 0), RateBudget(2, 0)], HZ)
    assert pace.take(4 * HZ, 10.0) == 12.0


# --- all sessions of a key -----------------------------------------------------------------


class Crowd:
    """Sessions of one key, each of which sends its audio second by second."""

    def __init__(self, limits: Limits) -> None:
        self.key = KeyBudget(limits)
        self.taken_s: Counter[int] = Counter()
        """Audio by session."""
        self.waited_s: Counter[int] = Counter()
        """How much longer each took than its speed would have asked for."""
        self._limits = limits
        self._order = count()
        self._due: list[tuple[float, int, float, float, tuple[Budget, ...]]] = []

    def join(self, held: ExitStack, speed: float, now: float = 0.0, until: float = math.inf) -> int:
        """A session sends at `speed` times real time until then; it stays open while `held`."""
        share = held.enter_context(self.key.share(now))
        number, drawn_on = next(self._order), tuple(budgets(self._limits, share))
        heappush(self._due, (now + 1 / speed, number, speed, until, drawn_on))
        return number

    def run(self, until: float) -> None:
        """Let everybody send, up to that time."""
        while self._due and self._due[0][0] <= until:
            now, number, speed, ends, drawn_on = heappop(self._due)
            free_at = max(now, *(budget.take(1.0, now) for budget in drawn_on))
            self.taken_s[number] += 1
            self.waited_s[number] += free_at - now
            if free_at + 1 / speed <= ends:
                heappush(self._due, (free_at + 1 / speed, number, speed, ends, drawn_on))


visits = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=1, max_size=30)
"""When sessions come, and how long they stay, in seconds."""


@settings(deadline=None)
@given(visits, st.floats(1, 4), st.integers(0, 5))
def test_live_speech_does_not_meet_its_keys_limit_whoever_comes_and_goes_and_floods(
    visits: list[tuple[float, float]], key_rate: float, floods: int
) -> None:
    crowd, live = Crowd(Limits(key_rate=key_rate)), []
    with ExitStack() as always:
        for _ in range(floods):
            crowd.join(always, speed=1_000)
        opened = [(start, 1, start + stays_s) for start, stays_s in visits]
        closed = [(start + stays_s, 0, start + stays_s) for start, stays_s in visits]
        held: dict[float, list[ExitStack]] = defaultdict(list)
        for now, opens, end in sorted(opened + closed):
            crowd.run(now)
            if opens:
                held[end].append(always.enter_context(ExitStack()))
                live.append(crowd.join(held[end][-1], 1.0, now, end))
            elif held[end]:
                held[end].pop().close()
        crowd.run(120)
    assert max(crowd.waited_s[number] for number in live) < 1e-6


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=20), st.floats(0.5, 8))
def test_a_key_gets_no_more_than_its_rate_for_each_session_and_a_burst(
    speeds: list[float], key_rate: float
) -> None:
    limits = Limits(key_rate=key_rate)
    crowd, sessions = Crowd(limits), len(speeds)
    with ExitStack() as held:
        for speed in speeds:
            crowd.join(held, speed)
        crowd.run(60)
    rate = max(limits.rate, key_rate * sessions)
    rations_s = 2 * sessions  # one before it is paid for, one while another was waited for
    assert crowd.taken_s.total() <= rate * 60 + limits.ring_s * sessions + rations_s


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 60)), min_size=10, max_size=60))
def test_one_session_after_the_other_brings_no_more_than_one_that_stays(
    visits: list[tuple[float, float]],
) -> None:
    limits, now, taken_s = Limits(), 0.0, 0.0
    key = KeyBudget(limits)
    for stays_s, audio_s in visits:
        with key.share(now) as share:
            due = share.take(audio_s, now)
        taken_s += audio_s
        now = max(now, due) + stays_s
    assert taken_s <= limits.rate * now + limits.ring_s + 60


def test_a_hundred_that_flood_are_held_to_twice_real_time_each() -> None:
    crowd = Crowd(Limits())
    with ExitStack() as held:
        numbers = [crowd.join(held, speed=1_000) for _ in range(100)]
        crowd.run(100)
        before = Counter(crowd.taken_s)
        crowd.run(200)
    rates = [(crowd.taken_s[number] - before[number]) / 100 for number in numbers]
    assert sum(rates) == pytest.approx(200, rel=0.02)
    assert all(1.8 < rate < 2.2 for rate in rates)


@pytest.mark.parametrize("others", [0, 9])
def test_one_session_may_use_all_of_its_rate_while_the_others_of_its_key_leave_it(
    others: int,
) -> None:
    limits = Limits()
    crowd = Crowd(limits)
    with ExitStack() as held:
        for _ in range(others):
            crowd.join(held, speed=0.5)
        number = crowd.join(held, speed=1_000)
        crowd.run(200)
    assert crowd.taken_s[number] == pytest.approx(200 * limits.rate + limits.ring_s, rel=0.02)


def test_who_stays_keeps_its_share_whatever_those_who_left_have_taken() -> None:
    key = KeyBudget(Limits())
    with key.share(0.0) as stays:
        with ExitStack() as held:
            for _ in range(99):
                held.enter_context(key.share(0.0)).take(60, 0.0)
        assert stays.take(20, 0.0) == 20 / 2


def test_a_bucket_of_another_size_takes_as_long_to_pay_for_what_was_taken_before() -> None:
    budget = RateBudget(200, 3_000)
    assert budget.take(6_000, 0.0) == 15.0
    budget.resize(8, 30)
    assert budget.take(0.0, 0.0) == 30.0 - 30 / 8


def test_a_key_keeps_its_budget_between_sessions_and_shares_it_with_no_other() -> None:
    policy = AccessPolicy(Settings(limits=Limits(rate=8, key_rate=2, ring_s=10)))
    alice, bob = (Identity("a", ApiKey(name, bytes(32))) for name in ("alice", "bob"))
    due = []
    for identity in (alice, alice, bob):
        with policy.key_share(identity, 0.0) as share:
            assert share is not None
            due.append(share.take(18, 0.0))
    assert due == [1.0, 3.25, 1.0]


@pytest.mark.parametrize("limits", [Limits(rate=0), Limits(key_rate=0)])
def test_without_either_rate_a_key_has_no_limit(limits: Limits) -> None:
    policy = AccessPolicy(Settings(limits=limits))
    with policy.key_share(Identity("a", ApiKey("alice", bytes(32))), 0.0) as share:
        assert share is None


def test_without_a_key_there_is_no_share_of_one() -> None:
    with AccessPolicy(Settings()).key_share(Identity("a"), 0.0) as share:
        assert share is None


def test_a_reload_gives_new_sessions_the_new_limit_and_leaves_the_others_theirs() -> None:
    policy = AccessPolicy(Settings(limits=Limits(rate=8, ring_s=10)))
    alice = Identity("a", ApiKey("alice", bytes(32)))
    with policy.key_share(alice, 0.0) as before:
        policy.configure(Settings(limits=Limits(rate=4, ring_s=10)))
        with policy.key_share(alice, 0.0) as after:
            assert before is not None
            assert after is not None
            assert (before.take(18, 0.0), after.take(18, 0.0)) == (1.0, 2.0)


def test_no_other_clock_runs_while_a_session_is_paced() -> None:
    limits = Limits(rate=0.1, ring_s=1, idle_s=2, overflow_s=2, slow_reader_s=2, close_s=0.1)
    said = [{"type": "session.update", "model": ""}, {"type": "input_audio_buffer.commit"}]
    said += [Audio(HZ // 2, "loud", odd=False, raw=False)] * 6
    sent = b"".join(spelled("vllm", one) for one in said)
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def last() -> tuple[Connection, float]:
        began = trio.current_time()
        _, connection = await play(VllmCodec(OPENING), sent, gate=False, limits=limits)
        return connection, trio.current_time() - began

    connection, took_s = trio.run(last, clock=clock)
    assert connection.audio_seconds == 3.0
    # Two seconds over the burst, of which one is a ration that nobody asked for any more.
    assert connection.outcome == "idle_timeout"
    assert 10 + limits.idle_s <= took_s <= 20 + limits.idle_s
