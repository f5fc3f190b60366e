"""A real inference without a client: the first of an engine, and the canary of an idle one."""

from realtimed.engine.core import Engine
from realtimed.transcription.recognition import Recognition


async def recognise_silence(recognition: Recognition, engine: Engine) -> bool:
    """Recognise a little silence on this engine.

    False if there was no slot free for it. The caller sets the deadline.

    Raises: `WireError` or `EngineLost` if it failed.
    """
    with recognition.slots.spare() as free:
        if free:
            await recognition.recognizer.probe(engine, recognition.buffer())
        return free
