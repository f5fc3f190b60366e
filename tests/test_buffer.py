"""The audio buffer and speech detection: who tells whom."""

import numpy as np
import trio

from realtimed.audio.vad import WINDOW_SAMPLES, SpeechModel
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.detection import SpeechDetection

WINDOWS = 20


async def test_audio_that_is_all_here_is_judged_once_detection_is_switched_on() -> None:
    detection = SpeechDetection(SpeechModel())
    buffer = AudioBuffer(WINDOWS * WINDOW_SAMPLES, 1.0, detection)
    buffer.append(np.zeros(WINDOWS * WINDOW_SAMPLES, np.float32))
    judged = trio.Event()

    def news() -> None:
        if buffer.hearing.judged == buffer.ring.end:
            judged.set()

    buffer.on_news = news
    async with trio.open_nursery() as nursery:  # ended below
        nursery.start_soon(detection.run)
        buffer.hearing.start(WINDOW_SAMPLES)
        with trio.fail_after(10):
            await judged.wait()
        nursery.cancel_scope.cancel()
    assert detection.windows == WINDOWS - 1
