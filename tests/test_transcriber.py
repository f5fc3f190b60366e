"""What no real engine does on demand: stalls, failures and death inside an utterance."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from geometry import model

from realtimed.audio.vad import SpeechModel
from realtimed.config import Limits
from realtimed.engine.availability import Availability, EngineState
from realtimed.engine.spec import ModelInfo
from realtimed.errors import EngineFailed, EngineLost, EngineUnavailable
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.detection import SpeechDetection
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.recognizer import Listener
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.streaming import StreamingRecognizer
from realtimed.transcription.transcriber import Transcriber
from realtimed.transcription.utterance import Utterance

RATE = 16_000


@dataclass
class FakeEngine:
    """Answers every frame with a word, in the next tick; misbehaves where it is told to."""

    nursery: trio.Nursery
    stalls_at: Container[int] = ()
    fails_at: Container[int] = ()
    error: Exception = field(default_factory=lambda: EngineFailed("told to fail"))
    answers_others: bool = True
    """Whether it makes steps, for other sessions, while it leaves a frame unanswered."""
    on_failure: Callable[[], None] = lambda: None
    """Called before the stream is told that a frame failed."""
    frames: int = 0
    closed: int = 0
    info: ModelInfo = field(default_factory=model)

    @property
    def stepped_at(self) -> float:
        return trio.current_time() if self.answers_others else 0.0

    def open_stream(self, on_answer: Any, on_failure: Any, *, logprobs: bool) -> "FakeStream":
        assert not logprobs
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
        if number not in self.engine.stalls_at:
            self.engine.nursery.start_soon(self._answer, number in self.engine.fails_at)

    async def _answer(self, fails: bool) -> None:
        await trio.lowlevel.checkpoint()
        if fails:
            self.engine.on_failure()
            self.on_failure(self.engine.error)
        else:
            self.on_answer([7], None)

    def close(self) -> None:
        self.engine.closed += 1


@cache
def detection() -> SpeechDetection:
    """Never run: without the silence gate, audio this short is not listened to."""
    return SpeechDetection(SpeechModel())


async def recognise(
    engine: FakeEngine, utterances: int = 2, slots: SlotPool | None = None
) -> list[str]:
    """Seconds of audio, one utterance each, and what was reported."""
    seen: list[str] = []
    buffer = AudioBuffer(utterances * RATE, 1.0, detection())
    buffer.append(np.zeros(utterances * RATE, np.float32))
    listener = Listener(
        text=lambda _number, _timed: None,
        done=lambda number, told: seen.append(f"{number} done {told.usage.audio_seconds:g}"),
        failed=lambda number, error: seen.append(f"{number} {error.code}"),
        cut=lambda number, reason: seen.append(f"{number} cut {reason.value}"),
        queued=lambda number: seen.append(f"{number} queued"),
    )
    send, receive = trio.open_memory_channel[Utterance](utterances)
    for number in range(utterances):
        send.send_nowait(Utterance(number, number * RATE, (number + 1) * RATE))
    send.close()
    policy = CutPolicy.build(engine.info, Limits(), gate=False)
    transcriber = Transcriber(
        engine,  # type: ignore[arg-type]
        buffer,
        listener,
        StreamingRecognizer(engine.info, policy),
        slots or SlotPool(1, 20.0),
        stall_s=5.0,
    )
    await transcriber.run(receive)
    assert buffer.ring.start == buffer.ring.end, "all audio was let go"
    return seen


async def test_each_utterance_is_reported_and_its_request_closed() -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery)
        assert await recognise(engine) == [
            "0 cut utterance_end",
            "0 done 1",
            "1 cut utterance_end",
            "1 done 1",
        ]
    assert engine.closed == 2


async def test_a_frame_without_an_answer_begins_the_segment_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, stalls_at=(3,))
        began = trio.current_time()
        seen = await recognise(engine, 1)
        assert seen == ["0 cut stall", "0 cut utterance_end", "0 done 1"]
        assert trio.current_time() - began == pytest.approx(5.0)
    assert engine.closed == 2


async def test_an_engine_that_stays_silent_fails_the_utterance_and_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, stalls_at=range(3, 8))
        began = trio.current_time()
        seen = await recognise(engine)
        assert seen == ["0 cut stall"] * 4 + ["0 engine_error", "1 cut utterance_end", "1 done 1"]
        assert trio.current_time() - began == pytest.approx(25.0)


async def test_an_utterance_waits_for_a_slot_and_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slots = SlotPool(1, 20.0)
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery)
        seen: list[str] = []

        async def second() -> None:
            seen.extend(await recognise(engine, 1, slots))

        async with slots.slot(lambda: None):
            nursery.start_soon(second)
            await trio.sleep(10)
            assert (slots.active, slots.waiting, slots.crowded) == (1, 1, True)
    assert seen == ["0 queued", "0 cut utterance_end", "0 done 1"]
    assert (slots.active, slots.waiting) == (0, 0)


async def test_a_slot_that_never_comes_free_ends_the_utterance_not_the_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slots = SlotPool(1, 20.0)
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        async with slots.slot(lambda: None):
            assert await recognise(FakeEngine(nursery), 1, slots) == ["0 queued", "0 engine_busy"]
    assert slots.waiting == 0


async def test_a_failed_request_fails_its_utterance_and_no_other() -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, fails_at=(0,))
        seen = await recognise(engine)
        assert seen == ["0 engine_error", "1 cut utterance_end", "1 done 1"]


async def test_an_engine_that_answers_nobody_fails_no_utterance(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It is its supervisor's part to say when that has lasted too long."""
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, stalls_at=range(3, 23), answers_others=False)
        began = trio.current_time()
        seen = await recognise(engine, 1)
        assert seen == ["0 cut stall"] * 20 + ["0 cut utterance_end", "0 done 1"]
        assert trio.current_time() - began == pytest.approx(100.0)


async def test_a_lost_engine_begins_the_segment_again_with_the_next_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    availability = Availability()
    async with trio.open_nursery() as nursery:  # ends when the answers have been given

        async def restart() -> None:
            await trio.sleep(100)
            availability.change(EngineState.ANSWERING)

        def lose() -> None:
            availability.change(EngineState.DOWN)
            nursery.start_soon(restart)

        engine = FakeEngine(nursery, fails_at=(3,), error=EngineLost("gone"), on_failure=lose)
        began = trio.current_time()
        seen = await recognise(engine, 1, SlotPool(1, 20.0, availability))
        assert seen == ["0 cut engine_restart", "0 cut utterance_end", "0 done 1"]
        assert trio.current_time() - began == pytest.approx(100.0)
    assert engine.closed == 2


async def test_an_utterance_that_engines_die_of_is_failed_and_no_other() -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        # Its first frame both times: the segment begins again at the same place.
        engine = FakeEngine(nursery, fails_at=(0, 1), error=EngineLost("gone"))
        seen = await recognise(engine)
        assert seen == ["0 cut engine_restart", "0 engine_error", "1 cut utterance_end", "1 done 1"]
    assert engine.closed == 3


async def test_an_engine_that_does_not_come_back_ends_the_session() -> None:
    availability = Availability()
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(
            nursery,
            fails_at=(2,),
            error=EngineLost("gone"),
            on_failure=lambda: availability.change(EngineState.ENDED),
        )
        with pytest.raises(EngineUnavailable):
            await recognise(engine, slots=SlotPool(1, 20.0, availability))
    assert engine.closed == 1


async def test_cancelling_closes_the_request(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:  # ends when the answers have been given
        engine = FakeEngine(nursery, stalls_at=(1,))
        with trio.move_on_after(3):
            await recognise(engine)
    assert engine.closed == 1
