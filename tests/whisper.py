"""Whisper base and real speech, where this machine has them.

The speech is LibriVox's reading of "Sense and Sensibility" (public domain) and commands of a card
game, from Debian's package pocketsphinx-testdata (BSD-2-Clause); and synthetic voices in other
languages from pytest-audioeval (MIT), whose own plugin is not used.
"""

import importlib.util
import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speech import SAMPLE_RATE, Pcm16, edit_distance

MODEL = Path(__file__).parent.parent.parent / "shared" / "whisper-base"
DATA = Path("/usr/share/pocketsphinx/test/data")
# One thread, and no pinning: other engines on the machine would be pinned to the same core.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 2**28,
    "max_num_batched_tokens": 2_048,
    "distributed_executor_backend": "uni",
}

needs_whisper = pytest.mark.skipif(
    not (MODEL / "model.safetensors").is_file(), reason=f"no Whisper base in {MODEL}"
)
needs_speech = pytest.mark.skipif(
    not (DATA / "librivox").is_dir(), reason="pocketsphinx-testdata is not installed"
)


def clips(kind: str) -> dict[str, Path]:
    """The recordings of one kind, `librivox` or `cards`, by name."""
    return {path.stem: path for path in sorted((DATA / kind).glob("*.wav"))}


def transcripts(kind: str) -> dict[str, str]:
    """What is said in them."""
    [path] = (DATA / kind).glob("*transcription")
    found = re.findall(r"<s> (.*?) </s> \((.*?)\)", path.read_text())
    return {name: text for text, name in found}


def load(path: Path) -> Pcm16:
    """A recording, int16 at 16 kHz."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def foreign(language: str, name: str) -> tuple[Pcm16, str]:
    """A recording of pytest-audioeval at 16 kHz, and what is said in it."""
    import soundfile

    spec = importlib.util.find_spec("pytest_audioeval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pytest-audioeval is not installed")
    path = Path(spec.submodule_search_locations[0]) / "samples" / "audio" / language / name
    audio, rate = soundfile.read(path.with_suffix(".wav"), dtype="float32")
    assert rate == SAMPLE_RATE
    text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
    return (audio * 32_767).astype(np.int16), text


def words(text: str) -> list[str]:
    """Its words without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def errors(said: str, text: str) -> int:
    """Words inserted, left out and replaced."""
    return edit_distance(words(text), words(said))
