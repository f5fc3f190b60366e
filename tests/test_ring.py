"""The audio ring holds exactly what was appended and not yet released, at its positions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtimed.audio.ring import AudioRing


@given(
    capacity=st.integers(1, 40_000),
    steps=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 30_000)), max_size=20),
)
def test_ring_equals_an_endless_array(capacity: int, steps: list[tuple[int, int]]) -> None:
    ring, line = AudioRing(capacity), np.zeros(0, np.float32)
    for count, released in steps:
        fits = min(count, ring.free)
        line = np.append(line, np.arange(len(line), len(line) + fits, dtype=np.float32))
        ring.append(line[len(line) - fits :])
        ring.release(ring.start + released)
        assert ring.end == len(line)
        assert ring.free == capacity - (ring.end - ring.start)
        assert np.array_equal(ring.copy(ring.start, ring.end), line[ring.start :])


def test_more_than_fits_is_refused() -> None:
    ring = AudioRing(10)
    ring.append(np.zeros(7, np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        ring.append(np.zeros(4, np.float32))


@pytest.mark.parametrize(("start", "end"), [(0, 5), (2, 8), (5, 4)])
def test_only_what_is_held_can_be_copied(start: int, end: int) -> None:
    ring = AudioRing(10)
    ring.append(np.zeros(7, np.float32))
    ring.release(2)
    with pytest.raises(ValueError, match="is not within"):
        ring.copy(start, end)


def test_a_copy_does_not_change_when_the_ring_goes_on() -> None:
    ring = AudioRing(4)
    ring.append(np.array([1, 2, 3, 4], np.float32))
    copied = ring.copy(0, 4)
    ring.release(4)
    ring.append(np.array([9, 9, 9, 9], np.float32))
    assert copied.tolist() == [1, 2, 3, 4]


def test_memory_grows_with_what_is_held_not_with_the_bound() -> None:
    ring = AudioRing(480_000)
    for _ in range(100):
        ring.append(np.zeros(1280, np.float32))
        ring.release(ring.end)
    assert len(ring._data) < 20_000
