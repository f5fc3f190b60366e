"""Speech detection for all sessions: one batched inference a tick."""

from typing import Final

import numpy as np
import trio

from realtimed.audio.vad import WINDOW_SAMPLES, SpeechModel
from realtimed.transcription.hearing import Hearing

_TICK_S: Final = 0.032
"""As long as a window: at the speed of speech each session has one window a tick."""
_BATCH: Final = 64
"""Windows judged without a pause: about two milliseconds of the Trio thread."""


class SpeechDetection:
    """Judges the windows of every session that has some, in turn."""

    def __init__(self, model: SpeechModel) -> None:
        self._model = model
        self._pending: dict[Hearing, None] = {}
        self._news = trio.Event()
        self.windows = 0
        """Windows judged since the start."""

    def notice(self, hearing: Hearing) -> None:
        """There is more audio, or detection has been switched on."""
        if hearing.pending and hearing not in self._pending:
            self._pending[hearing] = None
            self._news.set()

    async def run(self) -> None:
        """Judge until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            due = trio.current_time() + _TICK_S
            while self._pending:
                self._judge()
                await trio.lowlevel.checkpoint()
            # What comes until then is judged together.
            await trio.sleep_until(due)

    def _judge(self) -> None:
        """One window of each of the first sessions in line; who has more lines up again."""
        batch = [hearing for hearing in list(self._pending)[:_BATCH] if self._take(hearing)]
        if not batch:
            return
        windows = np.empty((len(batch), WINDOW_SAMPLES), np.float32)
        for row, hearing in zip(windows, batch, strict=True):
            row[:] = hearing.next_window()
        voices = [hearing.voice for hearing in batch]
        self.windows += len(batch)
        for hearing, probability in zip(
            batch, self._model.probabilities(windows, voices).tolist(), strict=True
        ):
            hearing.push(probability)
        for hearing in batch:
            self.notice(hearing)

    def _take(self, hearing: Hearing) -> bool:
        del self._pending[hearing]
        return hearing.pending
