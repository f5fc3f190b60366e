"""The generation task of a session: utterances in, text out, one engine request at a time.

The hot path has no task of its own. New audio and each answer of the engine call `_Feeder.advance`
where they happen, so that a frame costs no switch between tasks; the generation task waits for
whole segments, and holds what needs a task: order, deadlines, and a clean end when cancelled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from realtimed.engine.core import Engine, EngineStream
from realtimed.errors import EngineFailed, WireError
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.segment import Segment
from realtimed.transcription.utterance import SegmentChain, Utterance
from realtimed.wire.events import Usage


@dataclass(frozen=True, slots=True)
class Listener:
    """Where recognition reports. Called from whatever task made progress; must not block."""

    text: Callable[[int, str], None]
    """Utterance id and text to append."""
    done: Callable[[int, Usage], None]
    """The utterance is complete."""
    failed: Callable[[int, WireError], None]
    """The utterance ended with an error. On return its `end` is set."""


@dataclass(slots=True)
class Transcriber:
    """Recognises a session's utterances in order."""

    engine: Engine
    buffer: AudioBuffer
    listener: Listener
    stall_s: float
    """Seconds without an answer to a frame after which the utterance fails."""

    async def run(self, utterances: trio.MemoryReceiveChannel[Utterance]) -> None:
        """Serve until the sending side of `utterances` is closed and all are finished.

        Raises: a `WireError` that ends the session, if the engine is gone.
        """
        async for utterance in utterances:
            try:
                usage = await self._utterance(utterance)
            except WireError as error:
                if error.close_code is not None:
                    raise  # ends the session, and the session's last event says so
                self.listener.failed(utterance.id, error)
            else:
                self.listener.done(utterance.id, usage)
            assert utterance.end is not None
            self.buffer.release(utterance.end)

    async def _utterance(self, utterance: Utterance) -> Usage:
        chain = SegmentChain(self.engine.info, utterance)
        while True:
            await self._segment(chain)
            if not chain.advance():
                break
        return Usage(chain.prompt_tokens, chain.completion_tokens, round(chain.audio_seconds, 4))

    async def _segment(self, chain: SegmentChain) -> None:
        feeder = _Feeder(chain, chain.current, self.buffer, self.listener, self.engine)
        self.buffer.on_news = feeder.advance
        try:
            feeder.advance()
            await self._finished(feeder)
        finally:
            # Also the path of cancellation: a vanished client's request leaves the engine here.
            self.buffer.on_news = None
            feeder.stream.close()
        if feeder.error is not None:
            raise feeder.error

    async def _finished(self, feeder: "_Feeder") -> None:
        """Wait for the end of the segment; a frame without an answer is an end, too."""
        while not feeder.finished.is_set():
            since = trio.current_time() if feeder.sent_at is None else feeder.sent_at
            with trio.move_on_at(since + self.stall_s):
                await feeder.finished.wait()
                return
            sent_at = feeder.sent_at
            if sent_at is not None and trio.current_time() >= sent_at + self.stall_s:
                raise EngineFailed(
                    f"The engine gave no answer for {self.stall_s:g} s: the utterance was ended. "
                    "Send it again, or tell the operator."
                )


@dataclass(slots=True)
class _Feeder:
    """Carries one segment through the engine, frame by frame, from callbacks."""

    chain: SegmentChain
    segment: Segment
    buffer: AudioBuffer
    listener: Listener
    engine: Engine
    finished: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    sent_at: float | None = None
    """Trio's time when the frame in flight was sent; `None` if none is."""
    stream: EngineStream = field(init=False)
    _detokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stream = self.engine.open_stream(self._answered, self._failed)
        self._detokenizer = self.engine.detokenizer()

    def advance(self) -> None:
        """Send the next frame, if the last is answered and the audio is there."""
        if self.sent_at is not None or self.finished.is_set():
            return
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001 - raised again by the segment's own task
            self._failed(error)

    def _advance(self) -> None:
        self.chain.follow(self.buffer.ring)
        frame = self.segment.next_frame(self.buffer.ring)
        if frame is not None:
            self.stream.send(frame.token_ids, frame.audio)
            self.sent_at = trio.current_time()
        elif self.segment.cut_reason is not None:
            self.finished.set()

    def _answered(self, tokens: Sequence[int]) -> None:
        self.sent_at = None
        self.segment.answered(tokens)
        self.buffer.release(self.segment.framer.needed_from)
        text = self._detokenizer.text(tokens)
        if text:
            self.listener.text(self.chain.utterance.id, text)
        self.advance()

    def _failed(self, error: Exception) -> None:
        self.error = error
        self.finished.set()
