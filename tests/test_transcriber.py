"""What no real engine does on demand: stalls, failures and death inside an utterance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from geometry import model

from realtimed.engine.spec import ModelInfo
from realtimed.errors import EngineFailed, EngineUnavailable, WireError
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.transcriber import Listener, Transcriber
from realtimed.transcription.utterance import Utterance
from realtimed.wire.events import Usage

RATE = 16_000


@dataclass
class FakeEngine:
    """Answers every frame with a word, in the next tick; misbehaves where it is told to."""

    nursery: trio.Nursery
    stalls_at: int = -1
    fails_at: int = -1
    error: WireError = field(default_factory=lambda: EngineFailed("told to fail"))
    frames: int = 0
    closed: int = 0
    info: ModelInfo = field(default_factory=model)

    def open_stream(self, on_answer: Any, on_failure: Any) -> "FakeStream":
        return FakeStream(self, on_answer, on_failure)

    def detokenizer(self) -> "FakeEngine":
        return self

    def text(self, tokens: Sequence[int]) -> str:
        return " word" if tokens else ""


@dataclass
class FakeStream:
    engine: FakeEngine
    on_answer: Any
    on_failure: Any

    def send(self, token_ids: list[int], audio: object) -> None:
        number, self.engine.frames = self.engine.frames, self.engine.frames + 1
        if number != self.engine.stalls_at:
            self.engine.nursery.start_soon(self._answer, number == self.engine.fails_at)

    async def _answer(self, fails: bool) -> None:
        await trio.lowlevel.checkpoint()
        if fails:
            self.on_failure(self.engine.error)
        else:
            self.on_answer([7])

    def close(self) -> None:
        self.engine.closed += 1


async def recognise(engine: FakeEngine, utterances: int = 2) -> list[str]:
    """Seconds of audio, one utterance each, and what was reported."""
    seen: list[str] = []
    buffer = AudioBuffer(utterances * RATE, 1.0)
    buffer.append(np.zeros(utterances * RATE, np.float32))

    def done(number: int, usage: Usage) -> None:
        seen.append(f"{number} done {usage.audio_seconds:g}")

    def failed(number: int, error: WireError) -> None:
        seen.append(f"{number} {error.code}")

    listener = Listener(lambda _number, _text: None, done, failed)
    send, receive = trio.open_memory_channel[Utterance](utterances)
    for number in range(utterances):
        send.send_nowait(Utterance(number, number * RATE, (number + 1) * RATE))
    send.close()
    transcriber = Transcriber(engine, buffer, listener, stall_s=30.0)  # type: ignore[arg-type]
    await transcriber.run(receive)
    assert buffer.ring.start == buffer.ring.end, "all audio was let go"
    return seen


async def test_each_utterance_is_reported_and_its_request_closed() -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery)
        assert await recognise(engine) == ["0 done 1", "1 done 1"]
    assert engine.closed == 2


async def test_a_frame_without_an_answer_fails_its_utterance_in_time_and_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, stalls_at=3)
        began = trio.current_time()
        assert await recognise(engine) == ["0 engine_error", "1 done 1"]
        assert trio.current_time() - began == pytest.approx(30.0)
    assert engine.closed == 2


async def test_a_failed_request_fails_its_utterance_and_no_other() -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, fails_at=0)
        assert await recognise(engine) == ["0 engine_error", "1 done 1"]


async def test_a_dead_engine_ends_the_session() -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, fails_at=2, error=EngineUnavailable("gone"))
        with pytest.raises(EngineUnavailable):
            await recognise(engine)
    assert engine.closed == 1


async def test_cancelling_closes_the_request(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, stalls_at=1)
        with trio.move_on_after(5):
            await recognise(engine)
    assert engine.closed == 1
