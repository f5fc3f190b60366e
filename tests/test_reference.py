"""The ground that the differential test stands on: its cases, their audio, their checkpoints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import WEIGHTS, make_random_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from reference import CASES, select
from safetensors import safe_open
from speech import DEMO, SAMPLE_RATE, case_audio, chunks, load_sample, manifest, word_errors

TESTS = Path(__file__).parent
WORDS = st.lists(st.sampled_from(["alpha", "bravo", "zero"]), max_size=6).map(" ".join)


def test_cases_spread_over_lengths_chunks_and_checkpoints() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 32
    assert len({case.seed for case in CASES}) == len(CASES)
    assert min(case.samples for case in CASES) == SAMPLE_RATE // 10
    assert max(case.samples for case in CASES) == 60 * SAMPLE_RATE
    sizes = {case.chunk_samples for case in CASES}
    assert {320, 333, 1_279, 1_280, 1_281, 5_000, 16_000} <= sizes
    assert len({case.checkpoint for case in CASES}) >= 3


def test_select_takes_names_and_checkpoints_and_refuses_others() -> None:
    assert select([]) == CASES
    assert {case.checkpoint for case in select(["random-1"])} == {"random-1"}
    assert select([CASES[3].name]) == [CASES[3]]
    with pytest.raises(SystemExit, match="nonsense"):
        select(["nonsense"])


def test_importing_the_reference_imports_no_vllm() -> None:
    code = "import reference, sys; sys.exit(bool({'vllm', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=TESTS).returncode == 0


def test_case_audio_is_the_same_in_another_process() -> None:
    code = "import speech, sys; sys.stdout.buffer.write(speech.case_audio(7, 40_001).tobytes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.int16), case_audio(7, 40_001))


@pytest.mark.parametrize("n_samples", [1, 1_600, 123_457])
def test_case_audio_is_as_long_as_asked_and_not_silent(n_samples: int) -> None:
    audio = case_audio(11, n_samples)
    assert (audio.dtype, audio.shape) == (np.int16, (n_samples,))
    assert n_samples == 1 or audio.any()
    assert not np.array_equal(audio, case_audio(12, n_samples)) or n_samples == 1


@given(st.integers(0, 5_000), st.integers(1, 1_300))
def test_chunks_join_to_the_whole(n_samples: int, size: int) -> None:
    whole = np.arange(n_samples, dtype=np.int16)
    pieces = list(chunks(whole, size))
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(len(piece) for piece in pieces)
    np.testing.assert_array_equal(np.concatenate([whole[:0], *pieces]), whole)


def test_samples_are_as_long_as_the_manifest_says() -> None:
    for name, sample in manifest().items():
        assert len(load_sample(name)) / SAMPLE_RATE == pytest.approx(sample.seconds, abs=0.01)
        assert [word.word for word in sample.words] == sample.text.split()


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [
        ("", "", 0),
        ("alpha bravo", "", 2),
        ("", "alpha", 1),
        ("alpha bravo zulu", "alpha zulu", 1),
        ("alpha zulu", "alpha bravo zulu", 1),
        ("alpha bravo zulu", "bravo zulu alpha", 2),
        ("one two three four", "one too three for five", 3),
    ],
)
def test_word_errors(reference: str, hypothesis: str, errors: int) -> None:
    assert word_errors(reference, hypothesis) == errors


@given(WORDS, WORDS, WORDS)
def test_word_errors_is_a_distance(a: str, b: str, c: str) -> None:
    assert word_errors(a, a) == 0
    assert word_errors(a, b) == word_errors(b, a)
    assert word_errors(a, c) <= word_errors(a, b) + word_errors(b, c)


def test_a_seed_gives_one_checkpoint_of_the_bundled_shape(tmp_path: Path) -> None:
    one, same, other = (
        make_random_checkpoint(tmp_path / str(i), seed) for i, seed in enumerate([5, 5, 6])
    )
    assert (one / WEIGHTS).read_bytes() == (same / WEIGHTS).read_bytes()
    assert (one / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()
    assert _shapes(one / WEIGHTS) == _shapes(DEMO / WEIGHTS)


def _shapes(path: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(path, "pt") as file:
        return {
            name: (file.get_slice(name).get_shape(), file.get_slice(name).get_dtype())
            for name in file.keys()  # noqa: SIM118 - `safe_open` cannot be iterated
        }
