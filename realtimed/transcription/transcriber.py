"""The generation task of a session: utterances in, text out, one engine request at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from realtimed.engine.core import Engine, EngineStream
from realtimed.errors import WireError
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.segment import Segment
from realtimed.transcription.utterance import SegmentChain, Utterance
from realtimed.wire.events import Usage


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the generation task reports; called from its task, must not block."""

    text: Callable[[int, str], None]
    """Utterance id and text to append."""
    done: Callable[[int, Usage], None]
    """The utterance is complete."""
    failed: Callable[[int, WireError], None]
    """The utterance ended with an error."""


@dataclass(slots=True)
class Transcriber:
    """Recognises a session's utterances in order."""

    engine: Engine
    buffer: AudioBuffer
    listener: Listener
    stall_s: float
    """Seconds without an answer to a frame after which the utterance fails."""

    async def run(self, utterances: trio.MemoryReceiveChannel[Utterance]) -> None:
        """Serve until the sending side of `utterances` is closed and all are finished."""
        async for utterance in utterances:
            try:
                usage = await self._utterance(utterance)
            except WireError as error:
                if error.close_code is not None:
                    raise  # ends the session, and the session's last event says so
                self.listener.failed(utterance.id, error)
                await self._discard(utterance)
            else:
                self.listener.done(utterance.id, usage)

    async def _utterance(self, utterance: Utterance) -> Usage:
        chain = SegmentChain(self.engine.info, utterance)
        while True:
            await self._segment(chain, chain.current)
            if not chain.advance():
                break
        assert utterance.end is not None
        self.buffer.release(utterance.end)
        return Usage(chain.prompt_tokens, chain.completion_tokens, round(chain.audio_seconds, 4))

    async def _segment(self, chain: SegmentChain, segment: Segment) -> None:
        stream = self.engine.open_stream()
        try:
            await self._feed(chain, segment, stream)
        finally:
            # Also the path of cancellation: a vanished client's request leaves the engine here.
            stream.close()

    async def _feed(self, chain: SegmentChain, segment: Segment, stream: EngineStream) -> None:
        detokenizer = self.engine.detokenizer()
        ring, buffer = self.buffer.ring, self.buffer
        while True:
            chain.follow(ring)
            frame = segment.next_frame(ring)
            if frame is None:
                if segment.cut_reason is not None:
                    return
                await buffer.wait_for_news()
                continue
            tokens = await stream.step(frame.token_ids, frame.audio, self.stall_s)
            segment.answered(tokens)
            buffer.release(segment.framer.needed_from)
            text = detokenizer.text(tokens)
            if text:
                self.listener.text(chain.utterance.id, text)

    async def _discard(self, utterance: Utterance) -> None:
        """Let the rest of a failed utterance's audio go by, so that the next one finds room."""
        while utterance.end is None:
            self.buffer.release(self.buffer.ring.end)
            await self.buffer.wait_for_news()
        self.buffer.release(utterance.end)
