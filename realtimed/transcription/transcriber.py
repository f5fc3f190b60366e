"""The generation task of a session: utterances in, text out, one engine request at a time.

The hot path has no task of its own. New audio and each answer of the engine call `Feeder.advance`
where they happen, so that a frame costs no switch between tasks; the generation task waits for
whole segments, and holds what needs a task: order, deadlines, slots, going on with the next engine
when one is lost, and a clean end when cancelled.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import trio

from realtimed.engine.core import Engine, EngineStream
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.errors import EngineFailed, EngineLost, WireError
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.poison import PoisonWatch, Stretch
from realtimed.transcription.policy import CutPolicy
from realtimed.transcription.segment import CutReason, Segment
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.utterance import Next, SegmentChain, TimedText, Utterance
from realtimed.wire.events import TokenLogprob, Usage, Word
from realtimed.wire.logprobs import fitted

_MAX_STALLS: Final = 4
"""Restarts without any answer between them after which an utterance is given up."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where recognition reports. Called from whatever task made progress; must not block."""

    text: Callable[[int, TimedText], None]
    """Utterance id and text to append."""
    done: Callable[[int, Usage, tuple[Word, ...]], None]
    """The utterance is complete."""
    failed: Callable[[int, WireError], None]
    """The utterance ended with an error. On return its `end` is set."""
    cut: Callable[[int, CutReason], None]
    """A segment of the utterance has been cut."""
    queued: Callable[[int], None]
    """All engine slots are taken: the utterance waits for one."""


@dataclass(slots=True)
class Transcriber:
    """Recognises a session's utterances in order."""

    engine: EngineSupervisor
    buffer: AudioBuffer
    listener: Listener
    policy: CutPolicy
    slots: SlotPool
    stall_s: float
    """Seconds without an answer to a frame after which the segment is begun again."""
    _stalls: int = field(init=False, default=0)
    _poison: PoisonWatch = field(init=False)
    _segment_due: Segment | None = field(init=False, default=None)
    """The segment that runs or waits for a slot."""

    @property
    def lag_samples(self) -> int:
        """Audio received that the engine has not answered for; 0 where none is to be recognised."""
        segment = self._segment_due
        return 0 if segment is None else max(0, self.buffer.ring.end - segment.answered_to)

    async def run(self, utterances: trio.MemoryReceiveChannel[Utterance]) -> None:
        """Serve until the sending side of `utterances` is closed and all are finished.

        Raises: a `WireError` that ends the session, if the engine is gone.
        """
        async for utterance in utterances:
            chain = SegmentChain(
                self.engine.info, utterance, self.policy, self.buffer.ring, self.buffer.hearing
            )
            try:
                await self._utterance(chain)
            except WireError as error:
                if error.close_code is not None:
                    raise  # ends the session, and the session's last event says so
                if not utterance.cancelled:
                    self.listener.failed(utterance.id, error)
            else:
                if not utterance.cancelled:
                    self.listener.done(utterance.id, self._usage(chain), tuple(chain.words.words))
            assert utterance.end is not None
            self._segment_due = None
            self.buffer.release(utterance.end)

    def _usage(self, chain: SegmentChain) -> Usage:
        """What the utterance cost, and how far behind the audio it ended."""
        assert chain.utterance.end is not None
        behind = self.buffer.ring.end - chain.utterance.end
        return Usage(
            chain.prompt_tokens,
            chain.completion_tokens,
            round(chain.audio_seconds, 4),
            round(behind / self.engine.info.geometry.sample_rate, 4),
        )

    async def _utterance(self, chain: SegmentChain) -> None:
        self._stalls = 0
        self._poison = PoisonWatch()
        while True:
            self._segment_due = chain.current
            async with self.slots.slot(lambda: self.listener.queued(chain.utterance.id)):
                await self._segment(chain)
            chain.close_segment()
            assert chain.current.cut_reason is not None
            self.listener.cut(chain.utterance.id, chain.current.cut_reason)
            if not await self._next(chain):
                return

    async def _next(self, chain: SegmentChain) -> bool:
        """Begin the next segment, after a pause when speech returns; False at the end."""
        while (then := chain.advance()) is Next.PAUSE:
            # Until there is speech, or no more audio; the session's idle deadline bounds this.
            news = trio.Event()
            self._segment_due = None
            self.buffer.on_news = news.set
            self.buffer.release(chain.keep_from_in_pause)
            await news.wait()
            self.buffer.on_news = None
        return then is Next.SEGMENT

    async def _segment(self, chain: SegmentChain) -> None:
        feeder = Feeder(chain, self.buffer, self.listener, self.engine)
        with feeder.feeding():
            await self._finished(feeder)
        if isinstance(feeder.error, EngineLost):
            self._engine_lost(feeder)
        elif feeder.error is not None:
            raise feeder.error

    def _engine_lost(self, feeder: "Feeder") -> None:
        """Begin again behind the last word, with the next engine.

        Raises: `EngineFailed` if it seems to be this utterance that engines die of.
        """
        chain = feeder.chain
        if self._poison.engine_lost(None if feeder.sent_at is None else _last_frame(chain.current)):
            raise EngineFailed(
                "The engine was lost twice at the same place of this utterance: it was ended. "
                "Send other audio, or tell the operator."
            )
        chain.current.cut(chain.resume_at, CutReason.ENGINE_RESTART)

    async def _finished(self, feeder: "Feeder") -> None:
        """Wait for the end of the segment; a frame without an answer in time is an end, too.

        Raises: `EngineFailed` if beginning again has not helped several times.
        """
        while True:
            since = trio.current_time() if feeder.sent_at is None else feeder.sent_at
            with trio.move_on_at(since + self.stall_s):
                await feeder.finished.wait()
            if feeder.finished.is_set():
                break
            sent_at = feeder.sent_at
            if sent_at is not None and trio.current_time() >= sent_at + self.stall_s:
                self._stalled(feeder)
                return
        self._stalls = 0

    def _stalled(self, feeder: "Feeder") -> None:
        if feeder.answers:
            self._stalls = 0
        # Without any step since, it is the engine that is silent: a matter of its supervisor.
        if feeder.sent_at is not None and self.engine.stepped_at > feeder.sent_at:
            self._stalls += 1
        if self._stalls > _MAX_STALLS:
            raise EngineFailed(
                f"The engine gave no answer for {self._stalls * self.stall_s:g} s: the utterance "
                "was ended. Send it again, or tell the operator."
            )
        chain = feeder.chain
        chain.current.cut(chain.resume_at, CutReason.STALL)


def _last_frame(segment: Segment) -> Stretch:
    """The audio that the last frame of the segment carries, its neighbours included."""
    framer, geometry = segment.framer, segment.geometry
    begin = framer.position(framer.frames - 2) if framer.frames > 1 else segment.begin
    return Stretch(begin - geometry.look_back, segment.heard + geometry.look_ahead)


@dataclass(slots=True)
class Feeder:
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

    @contextmanager
    def feeding(self) -> Iterator[None]:
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
