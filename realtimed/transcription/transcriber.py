"""The generation task of a session: utterances in, text out, one engine request at a time.

It waits for whole segments, which feeders carry through the engine, and holds what needs a task:
order, deadlines, slots, going on with the next engine when one is lost, and a clean end when
cancelled.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio

from realtimed.engine.supervisor import EngineSupervisor
from realtimed.errors import EngineFailed, EngineLost, WireError
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.poison import PoisonWatch
from realtimed.transcription.recognizer import (
    Chain,
    Cuttable,
    Feeder,
    Listener,
    Outcome,
    Recognizer,
)
from realtimed.transcription.segment import CutReason
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.utterance import Next, Utterance
from realtimed.wire.events import Usage

_MAX_STALLS: Final = 4
"""Restarts without any answer between them after which an utterance is given up."""


@dataclass(slots=True)
class Transcriber:
    """Recognises a session's utterances in order."""

    engine: EngineSupervisor
    buffer: AudioBuffer
    listener: Listener
    recognizer: Recognizer[Any]
    slots: SlotPool
    stall_s: float
    """Seconds without an answer to a frame after which the segment is begun again."""
    _stalls: int = field(init=False, default=0)
    _language: str | None = field(init=False, default=None)
    """Of the last utterance."""
    _poison: PoisonWatch = field(init=False)
    _segment_due: Cuttable | None = field(init=False, default=None)
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
            chain = self.recognizer.chain(utterance, self.buffer, self._language)
            try:
                await self._utterance(chain)
            except WireError as error:
                if error.close_code is not None:
                    raise  # ends the session, and the session's last event says so
                if not utterance.cancelled:
                    self.listener.failed(utterance.id, error)
            else:
                if not utterance.cancelled:
                    self.listener.done(utterance.id, self._outcome(chain))
            assert utterance.end is not None
            self._language = chain.language
            self._segment_due = None
            self.buffer.release(utterance.end)

    def _outcome(self, chain: Chain) -> Outcome:
        return Outcome(self._usage(chain), tuple(chain.timed_words), chain.spoken_language)

    def _usage(self, chain: Chain) -> Usage:
        """What the utterance cost, and how far behind the audio it ended."""
        assert chain.utterance.end is not None
        behind = self.buffer.ring.end - chain.utterance.end
        return Usage(
            chain.prompt_tokens,
            chain.completion_tokens,
            round(chain.audio_seconds, 4),
            round(behind / self.engine.info.sample_rate, 4),
        )

    async def _utterance(self, chain: Chain) -> None:
        self._stalls = 0
        self._poison = PoisonWatch()
        while await self._next(chain):
            self._segment_due = chain.current
            queued = partial(self.listener.queued, chain.utterance.id)
            async with self.recognizer.slot(self.slots, queued):
                await self._segment(chain)
            chain.close_segment()
            assert chain.current.cut_reason is not None
            self.listener.cut(chain.utterance.id, chain.current.cut_reason)

    async def _next(self, chain: Chain) -> bool:
        """Begin the first or next segment, once there is speech for it; False at the end."""
        while (then := chain.advance()) is Next.PAUSE:
            # Until there is speech, or no more audio; the session's idle deadline bounds this.
            news = trio.Event()
            self._segment_due = None
            self.buffer.on_news = news.set
            self.buffer.release(chain.keep_from_in_pause)
            await news.wait()
            self.buffer.on_news = None
        return then is Next.SEGMENT

    async def _segment(self, chain: Chain) -> None:
        feeder = self.recognizer.feeder(chain, self.buffer, self.listener, self.engine)
        async with feeder.feeding():
            await self._finished(chain, feeder)
        if isinstance(feeder.error, EngineLost):
            self._engine_lost(chain, feeder)
        elif feeder.error is not None:
            raise feeder.error

    def _engine_lost(self, chain: Chain, feeder: Feeder) -> None:
        """Begin again behind the last word, with the next engine.

        Raises: `EngineFailed` if it seems to be this utterance that engines die of.
        """
        if self._poison.engine_lost(feeder.in_flight):
            raise EngineFailed(
                "The engine was lost twice at the same place of this utterance: it was ended. "
                "Send other audio, or tell the operator."
            )
        chain.current.cut(chain.resume_at, CutReason.ENGINE_RESTART)

    async def _finished(self, chain: Chain, feeder: Feeder) -> None:
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
                self._stalled(chain, feeder)
                return
        self._stalls = 0

    def _stalled(self, chain: Chain, feeder: Feeder) -> None:
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
        chain.current.cut(chain.resume_at, CutReason.STALL)
