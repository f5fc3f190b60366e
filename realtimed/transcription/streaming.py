"""Recognition by a model that takes speech frame by frame, as it is spoken.

The hot path has no task of its own. New audio and each answer of the engine call
`FrameFeeder.advance` where they happen, so that a frame costs no switch between tasks.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import trio

from realtimed.engine.core import Engine
from realtimed.engine.spec import StreamingModel
from realtimed.engine.stream import EngineStream
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.errors import WireError
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.poison import Stretch
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.recognizer import Listener
from realtimed.transcription.segment import Segment
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.utterance import SegmentChain, TimedText, Utterance
from realtimed.wire.events import TokenLogprob
from realtimed.wire.logprobs import fitted


@dataclass(frozen=True, slots=True)
class StreamingRecognizer:
    """One engine slot for each segment, from its first frame to the end of its flush."""

    model: StreamingModel
    policy: CutPolicy

    @property
    def listens(self) -> bool:
        """Where pauses are to cost the engine nothing; otherwise detection is called on."""
        return self.policy.gate is not None

    def chain(
        self, utterance: Utterance, buffer: AudioBuffer, _language: str | None = None
    ) -> SegmentChain:
        """The segments of a new utterance."""
        return SegmentChain(self.model, utterance, self.policy, buffer.ring, buffer.hearing)

    def feeder(
        self,
        chain: SegmentChain,
        buffer: AudioBuffer,
        listener: Listener,
        engine: Engine | EngineSupervisor,
    ) -> "FrameFeeder":
        """For the chain's current segment."""
        return FrameFeeder(chain, buffer, listener, engine)

    def slot(
        self, slots: SlotPool, queued: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """A segment is a request, which takes one of the engine's places all the while."""
        return slots.slot(queued)

    async def probe(self, engine: Engine, buffer: AudioBuffer) -> None:
        """Recognise one second of silence, by the path that every utterance takes.

        Raises: `WireError` or `EngineLost` if it failed.
        """
        buffer.append(np.zeros(min(self.model.sample_rate, buffer.ring.free), np.float32))
        chain = self.chain(Utterance(0, 0, buffer.ring.end), buffer)
        feeder = self.feeder(chain, buffer, _NOBODY, engine)
        async with feeder.feeding():
            await feeder.finished.wait()
        if feeder.error is not None:
            raise feeder.error


def _last_frame(segment: Segment) -> Stretch:
    """The audio that the last frame of the segment carries, its neighbours included."""
    framer, geometry = segment.framer, segment.geometry
    begin = framer.position(framer.frames - 2) if framer.frames > 1 else segment.begin
    return Stretch(begin - geometry.look_back, segment.heard + geometry.look_ahead)


@dataclass(slots=True)
class FrameFeeder:
    """Carries one segment through the engine, frame by frame, from callbacks."""

    chain: SegmentChain
    buffer: AudioBuffer
    listener: Listener
    engine: Engine | EngineSupervisor
    finished: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    sent_at: float | None = None
    """Trio's time when the frame in flight was sent; `None` if none is."""
    answers: int = 0
    stream: EngineStream = field(init=False)
    _detokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        logprobs = self.chain.utterance.logprobs
        self.stream = self.engine.open_stream(self._answered, self._failed, logprobs=logprobs)
        self._detokenizer = self.engine.detokenizer()

    @property
    def in_flight(self) -> Stretch | None:
        """The audio that the engine has not answered."""
        return None if self.sent_at is None else _last_frame(self.chain.current)

    @asynccontextmanager
    async def feeding(self) -> AsyncIterator[None]:
        """Feed the segment from its audio, and at the end take its request out of the engine."""
        self.buffer.on_news = self.advance
        try:
            self.advance()
            yield
        finally:
            # Also the path of cancellation: a vanished client's request leaves the engine here.
            self.buffer.on_news = None
            self.stream.close()

    def advance(self) -> None:
        """Send the next frame, if the last is answered and the audio is there."""
        if self.sent_at is not None or self.finished.is_set():
            return
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001 - raised again by the segment's own task
            self._failed(error)

    def _advance(self) -> None:
        frame = self.chain.next_frame()
        if frame is not None:
            self.stream.send(frame.token_ids, frame.audio)
            self.sent_at = trio.current_time()
        elif self.chain.current.cut_reason is not None:
            self.finished.set()

    def _answered(self, tokens: Sequence[int], logprobs: Sequence[float] | None) -> None:
        self.sent_at = None
        self.answers += 1
        if logprobs is None:
            timed = self.chain.answered(tokens, self._detokenizer.text(tokens))
        else:
            timed = self._scored(tokens, logprobs)
        self.buffer.release(self.chain.keep_from)
        if timed is not None and not self.chain.utterance.cancelled:
            self.listener.text(self.chain.utterance.id, timed)
        self.advance()

    def _scored(self, tokens: Sequence[int], logprobs: Sequence[float]) -> TimedText | None:
        """The same with log probabilities, for those who asked."""
        said = self._detokenizer.scored(tokens, logprobs)
        timed = self.chain.answered(tokens, "".join(text for text, _ in said))
        if timed is None:
            return None
        told = fitted([TokenLogprob(*one) for one in said], timed.text)
        return replace(timed, logprobs=told)

    def _failed(self, error: Exception) -> None:
        self.error = error
        self.finished.set()


def _failed(_utterance: int, _error: WireError) -> None:
    """The error is the feeder's, which raises it."""


_NOBODY = Listener(
    text=lambda _utterance, _text: None,
    done=lambda _utterance, _outcome: None,
    failed=_failed,
    cut=lambda _utterance, _reason: None,
    queued=lambda _utterance: None,
)
