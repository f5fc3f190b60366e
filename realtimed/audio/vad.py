"""Which windows of audio are speech: Silero VAD, all sessions in one inference. Sans-IO.

The model judges windows of 512 new samples at 16 kHz (32 ms). Between windows a session keeps
the last 64 samples, which the model reads again, and the state of its recurrent layer; both
are in a `VoiceState`, so sessions come and go while one `SpeechModel` serves them all.

The network itself is `silero`; this module gives it what each session remembers, and withholds
from it what is plainly silent.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from realtimed.audio.silero import CONTEXT_SAMPLES, STATE_SIZE, WINDOW_SAMPLES, Silero

__all__ = ["SAMPLE_RATE", "WINDOW_SAMPLES", "SpeechModel", "VoiceState"]

SAMPLE_RATE = 16_000

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


class VoiceState:
    """What the model remembers of one session between windows."""

    __slots__ = ("context", "quiet_windows", "state")

    def __init__(self) -> None:
        self.context = np.zeros(CONTEXT_SAMPLES, np.float32)
        """The last samples of the previous window, float32 of shape (64,)."""
        self.state = np.zeros((2, STATE_SIZE), np.float32)
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
        """Load the network.

        Raises: `EngineStartError` if what it needs is not installed.
        """
        self._network = Silero.load()
        self._samples = np.empty((0, CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
        self._states = np.empty((2, 0, STATE_SIZE), np.float32)
        self.inferences = 0
        """Times the network has run; each covers a batch."""
        self.inferred_windows = 0
        """Windows that the network has judged; the others were found quiet without it."""

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
        for window, state in zip(windows[:, -CONTEXT_SAMPLES:], states, strict=True):
            state.context[:] = window
        return result

    def _infer(
        self, windows: NDArray[np.float32], states: Sequence[VoiceState]
    ) -> NDArray[np.float32]:
        """Run the model on all `windows` and update the recurrent states."""
        count = len(states)
        samples, recurrent = self._buffers(count)
        samples[:, CONTEXT_SAMPLES:] = windows
        for row, state in enumerate(states):
            samples[row, :CONTEXT_SAMPLES] = state.context
            recurrent[:, row] = state.state
        result = self._network.probabilities(samples, recurrent)
        for row, state in enumerate(states):
            # A copy: a view would keep the whole batch's states alive for one quiet session.
            state.state[:] = recurrent[:, row]
        self.inferences += 1
        self.inferred_windows += count
        return result

    def _buffers(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The network's inputs for `count` windows, parts of buffers that grow."""
        if count > len(self._samples):
            self._samples = np.empty((count, CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
            self._states = np.empty((2, count, STATE_SIZE), np.float32)
        return self._samples[:count], self._states[:, :count]


def _rows_to_judge(windows: NDArray[np.float32], states: Sequence[VoiceState]) -> list[int]:
    """Rows that are not quiet or not yet settled; counts the quiet windows of each session."""
    peaks = np.maximum(windows.max(axis=1, initial=0), -windows.min(axis=1, initial=0))
    rows = []
    for row, (quiet, state) in enumerate(zip((peaks < QUIET_PEAK).tolist(), states, strict=True)):
        state.quiet_windows = state.quiet_windows + 1 if quiet else 0
        if state.quiet_windows <= SETTLE_WINDOWS:
            rows.append(row)
    return rows
