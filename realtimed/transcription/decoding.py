"""Recognition by a model that transcribes whole clips: one decode after another.

A stretch of speech has one task, which decodes the windows that its chain asks for. A decode holds
an engine slot only while it runs. A partial is only made if a slot is free; what is the last of its
stretch waits in line for one, and so comes first where slots are short. A partial whose answer has
become useless is aborted.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import trio

from realtimed.engine.core import Engine
from realtimed.engine.spec import Clip, SegmentedModel
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.poison import Stretch
from realtimed.transcription.recognizer import Listener
from realtimed.transcription.segmented import StretchChain, Window
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.stretch import WindowPolicy
from realtimed.transcription.utterance import TimedText, Utterance

_PROBE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SegmentedRecognizer:
    """One engine slot for each decode, so that speakers take turns within a second."""

    model: SegmentedModel
    policy: WindowPolicy
    slots: SlotPool
    listens: bool = True

    def chain(
        self, utterance: Utterance, buffer: AudioBuffer, language: str | None
    ) -> StretchChain:
        """The stretches of speech of a new utterance."""
        ring, hearing = buffer.ring, buffer.hearing
        return StretchChain(self.model, utterance, self.policy, ring, hearing, language=language)

    def feeder(
        self,
        chain: StretchChain,
        buffer: AudioBuffer,
        listener: Listener,
        engine: EngineSupervisor,
    ) -> "ClipFeeder":
        """For the chain's current stretch."""
        return ClipFeeder(chain, buffer, listener, engine, self.slots)

    def slot(
        self, slots: SlotPool, queued: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """A stretch as such takes nothing; its decodes do."""
        return nullcontext()

    async def probe(self, engine: Engine, buffer: AudioBuffer) -> None:
        """Decode silence; on an engine that is new, also in the longest windows.

        The first use of a shape is slow, and so is the first language detection.

        Raises: `WireError` or `EngineLost` if it failed.
        """
        lengths = [round(_PROBE_S * self.model.sample_rate)]
        if engine.steps == 0:
            lengths += [self.policy.soft_age, self.policy.hard_age]
        for length in lengths:
            audio, language = np.zeros(length, np.float32), None
            if self.model.detects_language:
                language = await engine.detect_language(audio, _nothing)
            await engine.decode(Clip(audio, language=language), _nothing)


def _nothing() -> None:
    """Nobody watches a probe token by token."""


@dataclass(slots=True)
class ClipFeeder:
    """Carries one stretch of speech through the engine, a window at a time."""

    chain: StretchChain
    buffer: AudioBuffer
    listener: Listener
    engine: EngineSupervisor
    slots: SlotPool
    finished: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    sent_at: float | None = None
    """Trio's time when the decode began, or of the engine's last token of it."""
    answers: int = 0
    _news: trio.Event = field(init=False, default_factory=trio.Event)
    _window: Window | None = field(init=False, default=None)
    """What is being decoded, or waits for a slot to be."""
    _decoding: trio.CancelScope = field(init=False, default_factory=trio.CancelScope)

    @property
    def in_flight(self) -> Stretch | None:
        """The audio that the engine has not answered."""
        if self.sent_at is None or self._window is None:
            return None
        return Stretch(self._window.begin, self._window.end)

    @asynccontextmanager
    async def feeding(self) -> AsyncIterator[None]:
        """Decode the stretch as its audio comes, and at the end leave nothing in the engine."""
        # Ended below, when the stretch is finished or given up; then its decode is aborted, too.
        async with trio.open_nursery() as nursery:
            self.buffer.on_news = self._on_news
            nursery.start_soon(self._run)
            try:
                yield
            finally:
                self.buffer.on_news = None
                nursery.cancel_scope.cancel()

    def _on_news(self) -> None:
        try:
            self.chain.follow()
        except Exception as error:  # noqa: BLE001 - raised again by the session's own task
            self._end(error)
            return
        if self._window is not None and self.chain.pointless(self._window):
            self._decoding.cancel()
        self._news.set()

    def _end(self, error: Exception | None) -> None:
        self.error = error
        self.finished.set()

    async def _run(self) -> None:
        try:
            self.chain.follow()
            while not self.chain.current.said:
                await self._step()
        except Exception as error:  # noqa: BLE001 - raised again by the session's own task
            self._end(error)
        else:
            self._end(None)

    async def _step(self) -> None:
        """Say or decode what is due; otherwise wait for more audio, which the session bounds."""
        news = self._news = trio.Event()
        self._tell(self.chain.settle())
        if self.chain.current.said:
            return
        window = self.chain.next_window()
        if window is None or not await self._decode(window):
            await news.wait()

    async def _decode(self, window: Window) -> bool:
        """Decode a window, unless its answer becomes useless; False if there was no slot for it."""
        self._window = window
        try:
            with trio.CancelScope() as self._decoding:
                if window.final:
                    async with self.slots.slot(self._queued):
                        await self._decode_now(window)
                    return True
                with self.slots.spare() as free:
                    if free and self.slots.open:
                        await self._decode_now(window)
                        return True
                    return False
            return True
        finally:
            self._window = self.sent_at = None

    async def _decode_now(self, window: Window) -> None:
        chain, guidance = self.chain, self.chain.utterance.guidance
        audio = self.buffer.ring.copy(window.begin, window.end)
        self._sign_of_life()
        language = chain.language_for(window)
        if language is None and chain.model.detects_language:
            language = await self.engine.detect_language(audio, self._sign_of_life)
            # Told at once: it stays known if the decode is aborted.
            chain.detected(window, language)
        began = trio.current_time()
        clip = Clip(audio, guidance, language, chain.said)
        heard = await self.engine.decode(clip, self._sign_of_life)
        self.answers += 1
        took = round((trio.current_time() - began) * chain.model.sample_rate)
        self._tell(chain.answered(window, heard, took))
        self.buffer.release(chain.keep_from)

    def _sign_of_life(self) -> None:
        self.sent_at = trio.current_time()

    def _queued(self) -> None:
        self.listener.queued(self.chain.utterance.id)

    def _tell(self, timed: TimedText | None) -> None:
        if timed is not None and not self.chain.utterance.cancelled:
            self.listener.text(self.chain.utterance.id, timed)
