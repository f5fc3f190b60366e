"""The network as numpy computes it, and as onnxruntime computes the same file."""

import numpy as np
import pytest
from numpy.typing import NDArray
from speech import load_sample, manifest
from threadpoolctl import threadpool_info

from realtimed.audio.silero import (
    CONTEXT_SAMPLES,
    STATE_SIZE,
    WINDOW_SAMPLES,
    Silero,
    model_path,
)

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

Array = NDArray[np.float32]
RATE = np.array(16_000, np.int64)


@pytest.fixture(scope="module")
def network() -> Silero:
    return Silero.load()


@pytest.fixture(scope="module")
def theirs() -> "onnxruntime.InferenceSession":
    return onnxruntime.InferenceSession(str(model_path()), providers=["CPUExecutionProvider"])


def inputs(samples: Array) -> Array:
    """Each window behind its context: float32 of shape (windows, 576)."""
    padded = np.concatenate((np.zeros(CONTEXT_SAMPLES, np.float32), samples))
    starts = range(0, len(samples) - WINDOW_SAMPLES + 1, WINDOW_SAMPLES)
    return np.stack([padded[at : at + CONTEXT_SAMPLES + WINDOW_SAMPLES] for at in starts])


def sessions() -> Array:
    """Ten seconds of many sessions: (windows, sessions, 576)."""
    draw = np.random.Generator(np.random.PCG64(7))
    audio = [load_sample(name).astype(np.float32) / 32_768 for name in manifest()]
    audio += [0.001 * part for part in audio[:2]]
    audio += [draw.uniform(-1, 1, 160_000).astype(np.float32), np.zeros(160_000, np.float32)]
    audio += [np.where(np.arange(160_000) % 97 < 48, 1, -1).astype(np.float32)]
    return np.stack([inputs(np.resize(part, 160_000)) for part in audio], axis=1)


def test_probabilities_and_states_are_those_of_onnxruntime(
    network: Silero, theirs: "onnxruntime.InferenceSession"
) -> None:
    batches = sessions()
    mine = np.zeros((2, batches.shape[1], STATE_SIZE), np.float32)
    state = mine.copy()
    highest = 0.0
    for batch in batches:
        expected, state = theirs.run(None, {"input": batch, "state": state, "sr": RATE})
        found = network.probabilities(batch, mine)
        assert np.abs(found - expected[:, 0]).max() < 1e-4
        assert np.abs(mine - state).max() < 1e-3
        highest = max(highest, float(found.max()))
    assert highest > 0.9


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_of_any_size_gives_the_same(network: Silero, size: int) -> None:
    batches = sessions()[:50]
    whole = np.zeros((2, batches.shape[1], STATE_SIZE), np.float32)
    part = whole[:, :size].copy()
    for batch in batches:
        together = network.probabilities(batch, whole)
        assert np.allclose(network.probabilities(batch[:size], part), together[:size], atol=1e-5)


def test_numpy_keeps_to_one_thread(network: Silero) -> None:
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert pools
    assert all(pool["num_threads"] == 1 for pool in pools)
