"""Decodes and what becomes of them: slots, useless partials, stalls and lost engines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray
from test_stretches import MODEL, POLICY, RATE, Talk

from realtimed.audio.vad import VoiceState
from realtimed.engine.availability import Availability, EngineState
from realtimed.engine.spec import Clip, Hypothesis
from realtimed.errors import EngineLost
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.decoding import SegmentedRecognizer
from realtimed.transcription.detection import SpeechDetection
from realtimed.transcription.recognizer import Listener
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.transcriber import Transcriber
from realtimed.transcription.utterance import Utterance


class Loudness:
    """Speech detection for tones: what is loud is speech."""

    def probabilities(
        self, windows: NDArray[np.float32], _states: Sequence[VoiceState]
    ) -> NDArray[np.float32]:
        return (np.abs(windows).mean(axis=1) > 0.05).astype(np.float32)


@dataclass
class FakeEngine:
    """Takes its time for a clip, and says of it how long it is."""

    takes_s: float = 0.2
    info: Any = MODEL
    stepped_at: float = 0.0
    lengths: list[float] = field(default_factory=list)
    finished: int = 0
    aborted: int = 0
    behave: Callable[[int], Any] | None = None
    """Asked for each decode by its number: an error to raise, or seconds to take."""

    async def decode(self, clip: Clip, on_tokens: Callable[[], None]) -> Hypothesis:
        audio = clip.audio
        self.lengths.append(len(audio) / RATE)
        wish = self.behave(len(self.lengths)) if self.behave else None
        if isinstance(wish, Exception):
            raise wish
        try:
            await trio.sleep(self.takes_s if wish is None else wish)
        except trio.Cancelled:
            self.aborted += 1
            raise
        on_tokens()
        self.stepped_at = trio.current_time()
        self.finished += 1
        return Hypothesis(" ".join(f"w{n}" for n in range(int(len(audio) / RATE / 0.45))), 4, 3)


@dataclass
class Session:
    """One utterance of a talk, spoken in real time."""

    engine: FakeEngine
    talk: Talk
    slots: SlotPool
    seen: list[str] = field(default_factory=list)
    text: str = ""
    finals: list[float] = field(default_factory=list)

    async def run(self) -> None:
        detection = SpeechDetection(Loudness())  # type: ignore[arg-type]
        buffer = AudioBuffer(30 * RATE, 1.0, detection)
        buffer.listen(0)
        recognizer = SegmentedRecognizer(MODEL, POLICY, self.slots)
        utterance = Utterance(0, 0)
        send, receive = trio.open_memory_channel[Utterance](1)
        send.send_nowait(utterance)
        send.close()
        transcriber = Transcriber(
            self.engine,  # type: ignore[arg-type]
            buffer,
            self.listener(),
            recognizer,
            self.slots,
            stall_s=5.0,
        )
        async with trio.open_nursery() as nursery:  # ended below
            nursery.start_soon(detection.run)
            nursery.start_soon(self.speak, buffer, utterance)
            await transcriber.run(receive)
            nursery.cancel_scope.cancel()

    async def speak(self, buffer: AudioBuffer, utterance: Utterance) -> None:
        for at in range(0, len(self.talk.audio), 1_280):
            buffer.append(self.talk.audio[at : at + 1_280])
            await trio.sleep(0.08)
        utterance.end = buffer.ring.end
        buffer.notify()

    def listener(self) -> Listener:
        def told(_number: int, timed: Any) -> None:
            self.text += timed.text

        return Listener(
            text=told,
            done=lambda _number, outcome: self.seen.append(f"done {outcome.language}"),
            failed=lambda _number, error: self.seen.append(error.code),
            cut=lambda _number, reason: self.seen.append(reason.value),
            queued=lambda _number: self.seen.append("queued"),
        )


def slots(total: int = 1, availability: Availability | None = None) -> SlotPool:
    return SlotPool(total, 20.0, availability)


TALK = Talk.make([(400, 60)] * 12)


async def test_an_utterance_is_decoded_as_it_grows_and_once_when_it_is_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine = FakeEngine()
    session = Session(engine, TALK, slots())
    await session.run()
    assert session.seen == ["utterance_end", "done None"]
    assert engine.lengths == sorted(engine.lengths)
    assert 4 <= len(engine.lengths) <= 8
    assert engine.lengths[-1] == len(TALK.audio) / RATE
    assert session.text.split() == [f"w{n}" for n in range(12)]


async def test_a_partial_that_the_end_makes_useless_is_aborted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine = FakeEngine(takes_s=4.0)
    session = Session(engine, Talk.make([(400, 60)] * 6), slots())
    began = trio.current_time()
    await session.run()
    assert engine.aborted == 1
    assert engine.finished == 1
    assert trio.current_time() - began < 2.76 + 4.0 + 0.3


async def test_without_a_free_slot_there_are_no_partials_and_the_final_waits_for_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine, pool = FakeEngine(), slots()
    session = Session(engine, TALK, pool)
    async with trio.open_nursery() as nursery:  # ends with the session
        with pool.spare() as free:
            assert free
            nursery.start_soon(session.run)
            await trio.sleep(8)
            assert engine.lengths == []
    assert len(engine.lengths) == 1
    assert session.seen == ["queued", "utterance_end", "done None"]


async def test_a_decode_without_a_sign_of_life_is_begun_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine = FakeEngine(behave=lambda number: 60.0 if number == 2 else None)
    session = Session(engine, Talk.make([(400, 60)] * 18), slots())
    await session.run()
    assert session.seen == ["stall", "utterance_end", "done None"]
    assert engine.aborted == 1
    assert session.text.split() == [f"w{n}" for n in range(18)]


async def test_speech_waits_for_the_next_engine_when_one_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    availability = Availability()

    def lose(number: int) -> Exception | None:
        if number == 2:
            availability.change(EngineState.DOWN)
            return EngineLost("gone")
        return None

    engine = FakeEngine(behave=lose)
    session = Session(engine, TALK, slots(availability=availability))
    async with trio.open_nursery() as nursery:  # ends with the session
        nursery.start_soon(session.run)
        await trio.sleep(10)
        assert len(engine.lengths) == 2, "nothing is asked of an engine that is not there"
        availability.change(EngineState.ANSWERING)
    assert session.seen == ["engine_restart", "utterance_end", "done None"]
    assert session.text.split() == [f"w{n}" for n in range(12)]


async def test_finals_of_others_come_before_partials(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine, pool = FakeEngine(takes_s=1.5), slots()
    sessions = [Session(engine, replace(TALK), pool) for _ in range(3)]
    async with trio.open_nursery() as nursery:  # ends with all of them
        for session in sessions:
            nursery.start_soon(session.run)
    assert all(session.seen[-1] == "done None" for session in sessions)
    assert engine.lengths[-3:] == [len(TALK.audio) / RATE] * 3
