"""Speech is found in the bundled samples, silence costs nothing, and a batch changes nothing."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from speech import load_sample, manifest

from realtimed.audio import vad
from realtimed.audio.levels import level_dbfs
from realtimed.audio.turns import SpeechTrack
from realtimed.audio.vad import SETTLE_WINDOWS, WINDOW_SAMPLES, SpeechModel, VoiceState
from realtimed.errors import EngineStartError

Audio = NDArray[np.float32]

SPOKEN = [name for name, sample in manifest().items() if sample.words]


def absent() -> str | None:
    for name in ("onnx", "threadpoolctl"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    try:
        importlib.metadata.distribution("silero-vad")
    except importlib.metadata.PackageNotFoundError:
        return "silero-vad is not installed"
    return None


needs_model = pytest.mark.skipif(absent() is not None, reason=str(absent()))


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    if reason := absent():
        pytest.skip(reason)
    return SpeechModel()


def audio(name: str) -> Audio:
    return load_sample(name).astype(np.float32) / 32_768


def at_peak(samples: Audio, dbfs: float) -> Audio:
    """The same with another peak, rounded as 16-bit PCM has it."""
    scaled = samples * (10 ** (dbfs / 20) / np.abs(samples).max())
    return (np.rint(scaled * 32_768) / 32_768).astype(np.float32)


def windows_of(samples: Audio) -> Audio:
    whole = len(samples) // WINDOW_SAMPLES * WINDOW_SAMPLES
    return samples[:whole].reshape(-1, WINDOW_SAMPLES)


def judge(model: SpeechModel, samples: Audio, state: VoiceState | None = None) -> Audio:
    """The probabilities of one session's windows, one inference each."""
    state = state or VoiceState()
    judged = [model.probabilities(window[None], [state]) for window in windows_of(samples)]
    return np.concatenate(judged)


def judge_together(model: SpeechModel, sessions: dict[str, Audio]) -> dict[str, Audio]:
    """The same for sessions that begin together and end one by one."""
    rows = {name: windows_of(samples) for name, samples in sessions.items()}
    states = {name: VoiceState() for name in sessions}
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(max(map(len, rows.values()))):
        there = [name for name in rows if turn < len(rows[name])]
        batch = np.stack([rows[name][turn] for name in there])
        judged = model.probabilities(batch, [states[name] for name in there])
        for name, probability in zip(there, judged.tolist(), strict=True):
            found[name].append(probability)
    return {name: np.array(judged, np.float32) for name, judged in found.items()}


# --- what is speech -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPOKEN)
def test_the_middle_of_every_word_is_speech(model: SpeechModel, name: str) -> None:
    track = SpeechTrack(10_000)
    for number, probability in enumerate(judge(model, audio(name)).tolist(), 1):
        track.push(probability, number * WINDOW_SAMPLES)
    for word in manifest()[name].words:
        middle = (word.start_ms + word.end_ms) * 8
        assert track.speech_samples(middle, middle + 1) == 1, word
        assert track.speech_samples(word.start_ms * 16, word.end_ms * 16) > 0.7 * 16 * (
            word.end_ms - word.start_ms
        ), word


def test_the_long_pauses_between_words_are_not_speech(model: SpeechModel) -> None:
    words = manifest()["pauses"].words
    probabilities = judge(model, audio("pauses"))
    quiet_ms = 300  # the model holds on to a word for about 70 ms, at most 100
    for word, following in pairwise(words):
        first = (word.end_ms + quiet_ms) * 16 // WINDOW_SAMPLES
        last = (following.start_ms - quiet_ms) * 16 // WINDOW_SAMPLES
        assert (probabilities[first:last] < 0.35).all(), word


def test_coloured_noise_is_not_speech(model: SpeechModel) -> None:
    """Of its 937 windows the likeliest reaches 0.054, which is the first; the median is 0.0003."""
    probabilities = judge(model, audio("no-speech"))
    assert probabilities.max() < 0.2
    assert np.median(probabilities) < 0.01


# --- one inference for all ------------------------------------------------------------------


def test_a_batch_gives_the_same_as_one_at_a_time(model: SpeechModel) -> None:
    sessions = {name: audio(name)[: 20 * 16_000] for name in manifest()}
    sessions["quiet"] = at_peak(audio("pauses")[: 20 * 16_000], -40)
    sessions["zeros"] = np.zeros(10 * 16_000, np.float32)
    together = judge_together(model, sessions)
    for name, samples in sessions.items():
        assert np.allclose(together[name], judge(model, samples), rtol=0, atol=1e-4), name


def test_a_batch_is_one_inference(model: SpeechModel) -> None:
    before, windows = model.inferences, model.inferred_windows
    rows = windows_of(audio("digits"))[40:50]
    model.probabilities(rows, [VoiceState() for _ in rows])
    assert model.inferences == before + 1
    assert model.inferred_windows == windows + 10


def test_no_sessions_need_no_inference(model: SpeechModel) -> None:
    before = model.inferences
    assert model.probabilities(np.empty((0, WINDOW_SAMPLES), np.float32), []).shape == (0,)
    assert model.inferences == before


@pytest.mark.parametrize("shape", [(2, WINDOW_SAMPLES), (1, 511), (WINDOW_SAMPLES,)])
def test_other_shapes_are_refused(model: SpeechModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 1 windows of 512"):
        model.probabilities(np.zeros(shape, np.float32), [VoiceState()])


def test_a_reset_state_is_as_new(model: SpeechModel) -> None:
    state = VoiceState()
    first = judge(model, audio("digits")[:32_000], state)
    assert not np.array_equal(judge(model, audio("digits")[:32_000], state), first)
    state.reset()
    assert np.array_equal(judge(model, audio("digits")[:32_000], state), first)


def test_the_callers_array_may_be_used_again(model: SpeechModel) -> None:
    state, other = VoiceState(), VoiceState()
    reused = np.empty((1, WINDOW_SAMPLES), np.float32)
    for window in windows_of(audio("digits"))[40:60]:
        reused[:] = window
        judged = model.probabilities(reused, [state])
        reused.fill(9)
        assert judged == model.probabilities(window[None], [other])


# --- the gate -------------------------------------------------------------------------------


def test_digital_silence_reaches_the_model_for_half_a_second_only(model: SpeechModel) -> None:
    state, before = VoiceState(), model.inferred_windows
    probabilities = judge(model, np.zeros(60 * 16_000, np.float32), state)
    assert model.inferred_windows - before == SETTLE_WINDOWS
    assert not probabilities[SETTLE_WINDOWS:].any()
    assert (probabilities < 0.02).all()


def test_a_single_loud_window_reaches_the_model_at_once(model: SpeechModel) -> None:
    state = VoiceState()
    judge(model, np.zeros(16_000, np.float32), state)
    before = model.inferred_windows
    judge(model, audio("digits")[32_000 : 32_000 + WINDOW_SAMPLES], state)
    assert model.inferred_windows == before + 1


def test_a_silent_session_in_a_batch_costs_nothing_and_changes_nothing(
    model: SpeechModel,
) -> None:
    silent, speaking, alone = VoiceState(), VoiceState(), VoiceState()
    judge(model, np.zeros(16_000, np.float32), silent)
    kept = silent.state.copy()
    for window in windows_of(audio("digits"))[:100]:
        before = model.inferred_windows
        batch = np.stack([np.zeros_like(window), window])
        quiet, judged = model.probabilities(batch, [silent, speaking])
        assert model.inferred_windows == before + 1
        assert quiet == 0
        assert judged == model.probabilities(window[None], [alone])[0]
    assert np.array_equal(silent.state, kept)


def test_what_was_before_the_speech_is_its_context_even_when_it_was_gated(
    model: SpeechModel,
) -> None:
    state = VoiceState()
    faint = np.full(32_000, 3 / 32_768, np.float32)
    judge(model, faint, state)
    assert np.array_equal(state.context, faint[-64:])


@pytest.mark.parametrize("peak_dbfs", [-9, -20, -30, -40])
def test_the_gate_loses_no_quiet_speech(
    model: SpeechModel, monkeypatch: pytest.MonkeyPatch, peak_dbfs: int
) -> None:
    """At a peak of -40 dBFS, speech is at -55 dBFS RMS, most windows' peaks at -48 to -45."""
    samples = {name: at_peak(audio(name), peak_dbfs) for name in SPOKEN if name != "noisy"}
    gated = np.concatenate(list(judge_together(model, samples).values())) >= 0.5
    monkeypatch.setattr(vad, "QUIET_PEAK", 0.0)
    ungated = np.concatenate(list(judge_together(model, samples).values())) >= 0.5
    assert ungated.mean() > 0.3
    assert gated[ungated].mean() > 0.98
    assert (gated & ~ungated).mean() < 0.02


def test_speech_at_minus_50_dbfs_is_found_after_a_long_silence(model: SpeechModel) -> None:
    words = [
        audio(name)[word.start_ms * 16 : word.end_ms * 16]
        for name in ("digits", "unseen-voice", "callsign")
        for word in manifest()[name].words
    ]
    found = 0
    for word in words:
        state = VoiceState()
        judge(model, np.zeros(5 * 16_000, np.float32), state)
        quiet = (word * 10 ** ((-50 - level_dbfs(word)) / 20)).astype(np.float32)
        found += bool((judge(model, quiet, state) >= 0.5).any())
    assert found > 0.9 * len(words), f"{found} of {len(words)}"


# --- without the wheels ---------------------------------------------------------------------


@needs_model
def test_torch_is_never_imported_and_onnx_only_by_the_model() -> None:
    code = """
import sys
from realtimed.audio.vad import SpeechModel
assert "onnx" not in sys.modules
SpeechModel()
assert "onnx" in sys.modules
assert not {"torch", "silero_vad", "onnxruntime"} & sys.modules.keys()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@needs_model
@pytest.mark.parametrize("name", ["onnx", "threadpoolctl"])
def test_without_a_library_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineStartError, match=rf"{name} is not installed: pip install .*\.$"):
        SpeechModel()


def test_without_silero_vad_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(EngineStartError, match=r"silero-vad is not installed: pip install .*\.$"):
        SpeechModel()
