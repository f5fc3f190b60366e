"""Which windows of audio are speech: Silero VAD, all sessions in one inference. Sans-IO.

The model judges windows of 512 new samples at 16 kHz (32 ms). Between windows a session keeps
the last 64 samples, which the model reads again, and the state of its recurrent layer; both
are in a `VoiceState`, so sessions come and go while one `SpeechModel` serves them all.

The model is the ONNX file inside the `silero-vad` distribution, run by onnxruntime. The
package is never imported: it would import torch.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realtimed.errors import EngineStartError

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 512

QUIET_PEAK = 10 ** (-66 / 20)
"""A window whose samples all stay below this is quiet: at most 16 steps of 16-bit PCM.

This is the level of muted microphones, noise gates and synthetic pauses; an open microphone is
usually above it. Speech at -50 dBFS (RMS) has a peak of -42 in the median window. Faint ends of
its words do fall below -66, which is why quiet alone does not withhold a window from the model.
"""
SETTLE_WINDOWS = 16
"""Quiet windows (half a second) that the model still judges before the gate closes.

Closing it at the first one costs speech: the recurrent state has to hear that it got quiet, and
how quiet. With five bundled samples brought to a peak of -40 dBFS, 71 % of the speech windows
were found so, 96 % with 16 windows and 96 % without a gate. After seconds of silence the gate
even helps: the ungated state drifts on, until the model misses quiet speech.
"""

_CONTEXT_SAMPLES = 64
_MODEL_FILE = "silero_vad.onnx"
_INSTALL = "pip install 'realtimed[cuda]' on NVIDIA GPUs, `make venv` for the CPU"


class VoiceState:
    """What the model remembers of one session between windows."""

    __slots__ = ("context", "quiet_windows", "state")

    def __init__(self) -> None:
        self.context = np.zeros(_CONTEXT_SAMPLES, np.float32)
        """The last samples of the previous window, float32 of shape (64,)."""
        self.state = np.zeros((2, 128), np.float32)
        """Hidden and cell state of the recurrent layer, float32 of shape (2, 128)."""
        self.quiet_windows = 0
        """Quiet windows in a row up to now."""

    def reset(self) -> None:
        """Begin anew, for audio that does not continue what came before."""
        self.context.fill(0)
        self.state.fill(0)
        self.quiet_windows = 0


class SpeechModel:
    """Silero VAD for any number of sessions. Not for two threads at once: buffers are shared."""

    def __init__(self) -> None:
        """Load the model.

        Raises: `EngineStartError` if onnxruntime or the model's file is not there.
        """
        self._session = _load_session(_model_path())
        self._rate = np.array(SAMPLE_RATE, np.int64)
        self._samples = np.empty((0, _CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
        self._states = np.empty(0, np.float32)
        self.inferences = 0
        """Times the model has run; each covers a batch."""
        self.inferred_windows = 0
        """Windows that the model has judged; the others were found quiet without it."""

    def probabilities(
        self, windows: NDArray[np.float32], states: Sequence[VoiceState]
    ) -> NDArray[np.float32]:
        """How likely each window is speech; the next window of each of some sessions.

        `windows`: float32 of shape (batch, 512), in [-1, 1]. `states`: the session of each row;
        no session twice. Both halves of a state are updated in place.

        A window that is quiet, after `SETTLE_WINDOWS` quiet ones, gets 0.0 without inference.
        Its end becomes the session's context, since it is what the next window continues; the
        recurrent state stays as the last judged window left it, which was quiet too. Setting
        that state to zero instead would make the model deaf to quiet speech that follows.

        Returns: float32 of shape (batch,), in [0, 1]. Raises: `ValueError` for another shape.
        """
        if windows.shape != (len(states), WINDOW_SAMPLES):
            raise ValueError(f"expected {len(states)} windows of 512, got shape {windows.shape}")
        rows = _rows_to_judge(windows, states)
        if len(rows) == len(states):
            result = self._infer(windows, states) if rows else np.empty(0, np.float32)
        else:
            result = np.zeros(len(states), np.float32)
            if rows:
                result[rows] = self._infer(windows[rows], [states[row] for row in rows])
        for window, state in zip(windows[:, -_CONTEXT_SAMPLES:], states, strict=True):
            state.context[:] = window
        return result

    def _infer(
        self, windows: NDArray[np.float32], states: Sequence[VoiceState]
    ) -> NDArray[np.float32]:
        """Run the model on all `windows` and update the recurrent states."""
        count = len(states)
        samples, recurrent = self._buffers(count)
        samples[:, _CONTEXT_SAMPLES:] = windows
        for row, state in enumerate(states):
            samples[row, :_CONTEXT_SAMPLES] = state.context
            recurrent[:, row] = state.state
        output, after = self._session.run(
            None, {"input": samples, "state": recurrent, "sr": self._rate}
        )
        for row, state in enumerate(states):
            # A copy: a view would keep the whole batch's states alive for one quiet session.
            state.state[:] = after[:, row]
        self.inferences += 1
        self.inferred_windows += count
        result: NDArray[np.float32] = output[:, 0]
        return result

    def _buffers(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The model's inputs for `count` windows, contiguous parts of buffers that grow."""
        if count > len(self._samples):
            self._samples = np.empty((count, _CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
            self._states = np.empty(2 * count * 128, np.float32)
        return self._samples[:count], self._states[: 2 * count * 128].reshape(2, count, 128)


def _rows_to_judge(windows: NDArray[np.float32], states: Sequence[VoiceState]) -> list[int]:
    """Rows that are not quiet or not yet settled; counts the quiet windows of each session."""
    peaks = np.maximum(windows.max(axis=1, initial=0), -windows.min(axis=1, initial=0))
    rows = []
    for row, (quiet, state) in enumerate(zip((peaks < QUIET_PEAK).tolist(), states, strict=True)):
        state.quiet_windows = state.quiet_windows + 1 if quiet else 0
        if state.quiet_windows <= SETTLE_WINDOWS:
            rows.append(row)
    return rows


def _model_path() -> Path:
    """Where the installed `silero-vad` distribution keeps the model.

    Raises: `EngineStartError` if it is not installed, or without the file.
    """
    try:
        listed = files("silero-vad") or []
    except PackageNotFoundError:
        raise EngineStartError(f"silero-vad is not installed: {_INSTALL}.") from None
    for file in listed:
        if file.name == _MODEL_FILE and (path := Path(str(file.locate()))).is_file():
            return path
    raise EngineStartError(f"silero-vad is installed without {_MODEL_FILE}: {_INSTALL}.")


def _load_session(path: Path) -> Any:
    """An onnxruntime `InferenceSession` that computes on the calling thread alone.

    Raises: `EngineStartError` if onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise EngineStartError(f"onnxruntime is not installed: {_INSTALL}.") from None
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # One thread starts no pool; should that change, its threads must not burn CPU while waiting.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
