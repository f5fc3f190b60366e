"""Audio is paced by token buckets: how much, how long one waits, and what is not disturbed."""

import math
from itertools import pairwise

import pytest
import trio
import trio.testing
from fuzz.targets import OPENING
from hypothesis import given
from hypothesis import strategies as st
from test_engine_requests import Audio, play, spelled

from realtimed.config import Limits, Settings
from realtimed.server.access import AccessPolicy, Identity
from realtimed.server.connection import Connection
from realtimed.server.keys import ApiKey
from realtimed.server.pacing import Pace, RateBudget
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


def test_sessions_of_one_key_share_its_budget_and_a_new_one_begins_with_what_is_left() -> None:
    policy = AccessPolicy(Settings(limits=Limits(key_rate=2, ring_s=10)))
    alice, bob = (Identity("a", ApiKey(name, bytes(32))) for name in ("alice", "bob"))
    first = policy.budget(alice)
    assert first is not None
    assert first.take(10, 0.0) <= 0.0
    assert policy.budget(alice) is first
    assert policy.budget(bob) is not first
    assert policy.budget(Identity("a")) is None


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


def test_a_key_has_no_budget_unless_it_is_set() -> None:
    policy = AccessPolicy(Settings())
    assert policy.budget(Identity("a", ApiKey("alice", bytes(32)))) is None
