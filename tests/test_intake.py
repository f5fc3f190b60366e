"""A session's audio on its way into the ring: whole, in order, and no faster than it may come."""

from collections.abc import Awaitable, Callable
from itertools import accumulate

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from realtimed.audio.vad import SpeechModel
from realtimed.errors import BufferOverflow, EngineFailed, InvalidAudio
from realtimed.server.intake import AudioIntake
from realtimed.server.pacing import Budget, Pace, RateBudget
from realtimed.session import Phase, Session
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.detection import SpeechDetection
from realtimed.wire.events import AudioFormat, Commit, Configure

HZ = 16_000
SLICE_S = 65_536 / 2 / HZ
"""What of a large chunk is taken at once, in seconds."""
DETECTION = SpeechDetection(SpeechModel())


class Receiving:
    """A session that receives audio, and whoever uses it."""

    def __init__(self, *budgets: Budget, ring_samples: int, overflow_s: float = 1.0) -> None:
        self.session = Session(("m",))
        self.session.configure(Configure("m"))
        self.session.commit(Commit())
        self.buffer = AudioBuffer(ring_samples, overflow_s, DETECTION)
        pace = Pace(budgets, HZ)
        self.intake = AudioIntake(self.session, self.buffer, pace, lambda actions: None)
        self.used: list[NDArray[np.float32]] = []

    async def use(self, sizes: list[int]) -> None:
        """Take that many samples at once from the ring, over and over, until cancelled."""
        ring = self.buffer.ring
        while True:
            for size in sizes:
                await trio.sleep(0.01)
                end = min(ring.start + size, ring.end)
                self.used.append(ring.copy(ring.start, end))
                self.buffer.release(end)


def in_virtual_time(act: Callable[[], Awaitable[None]]) -> float:
    """How long it took, in seconds."""

    async def run() -> float:
        began = trio.current_time()
        await act()
        return trio.current_time() - began

    return trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=50, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    ring_samples=st.integers(1, 200),
    uses=st.lists(st.integers(1, 250), min_size=1, max_size=5),
)
def test_all_audio_comes_through_a_ring_of_any_size_in_order(
    chunks: list[int], ring_samples: int, uses: list[int]
) -> None:
    total = sum(chunks)
    sent = np.arange(total).astype("<i2")
    here = Receiving(ring_samples=ring_samples, overflow_s=1e3)

    async def act() -> None:
        # Ends by the cancel, when everything has been used.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.use, uses)
            for end, size in zip(accumulate(chunks), chunks, strict=True):
                await here.intake.take(sent[end - size : end].tobytes())
            while here.buffer.ring.start < total:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    in_virtual_time(act)
    assert here.session.received == total
    assert np.array_equal(np.concatenate(here.used) * 32_768, sent)


def test_what_was_taken_is_paid_for_before_more_is() -> None:
    here = Receiving(RateBudget(2, 1), ring_samples=20 * HZ)

    async def act() -> None:
        await here.intake.take(bytes(2 * 10 * HZ))

    assert in_virtual_time(act) == pytest.approx((4 * SLICE_S - 1) / 2)


def test_audio_that_no_utterance_will_read_takes_no_room() -> None:
    here = Receiving(ring_samples=HZ)
    here.session.failed(0, EngineFailed("lost"))
    assert here.session.phase is Phase.FAILED

    async def act() -> None:
        await here.intake.take(bytes(2 * 10 * HZ))

    assert in_virtual_time(act) == 0
    assert here.buffer.ring.start == here.session.received == 10 * HZ


def test_a_ring_that_stays_full_ends_the_session_after_its_grace() -> None:
    here = Receiving(ring_samples=HZ, overflow_s=3)

    async def act() -> None:
        with pytest.raises(BufferOverflow):
            await here.intake.take(bytes(2 * HZ + 2))

    assert in_virtual_time(act) == pytest.approx(3)


async def test_the_format_that_was_chosen_holds_and_its_rest_comes_with_the_flush() -> None:
    here = Receiving(ring_samples=4 * HZ)
    here.intake.choose(AudioFormat("pcm_s16le", 48_000))
    await here.intake.take(bytes(2 * 48_000))
    held = HZ - here.session.received
    assert 0 < held < HZ / 10
    await here.intake.flush()
    assert here.session.received == HZ
    with pytest.raises(InvalidAudio):
        await here.intake.take(b"\0")
