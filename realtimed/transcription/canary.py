"""A real inference without a client: the first of an engine, and the canary of an idle one."""

import numpy as np

from realtimed.engine.core import Engine
from realtimed.errors import WireError
from realtimed.transcription.recognition import Recognition
from realtimed.transcription.transcriber import Feeder, Listener
from realtimed.transcription.utterance import SegmentChain, Utterance


async def recognise_silence(recognition: Recognition, engine: Engine) -> bool:
    """Recognise one second of silence on this engine, by the path that every utterance takes.

    False if there was no slot free for it. The caller sets the deadline.

    Raises: `WireError` or `EngineLost` if it failed.
    """
    with recognition.slots.spare() as free:
        if free:
            await _recognise(recognition, engine)
        return free


async def _recognise(recognition: Recognition, engine: Engine) -> None:
    buffer = recognition.buffer()
    second = engine.info.geometry.sample_rate
    buffer.append(np.zeros(min(second, buffer.ring.free), np.float32))
    utterance = Utterance(0, 0, buffer.ring.end)
    chain = SegmentChain(engine.info, utterance, recognition.policy, buffer.ring, buffer.hearing)
    feeder = Feeder(chain, buffer, _NOBODY, engine)
    with feeder.feeding():
        await feeder.finished.wait()
    if feeder.error is not None:
        raise feeder.error


def _failed(_utterance: int, _error: WireError) -> None:
    """The error is the feeder's, which raises it."""


_NOBODY = Listener(
    text=lambda _utterance, _text: None,
    done=lambda _utterance, _usage, _words: None,
    failed=_failed,
    cut=lambda _utterance, _reason: None,
    queued=lambda _utterance: None,
)
