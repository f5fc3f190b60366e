"""What recognition is to a session, whatever kind of model does it.

Two kinds exist: `streaming` sends a model its speech frame by frame, `segmented` lets it transcribe
whole clips. Both recognise an utterance as a *chain* of segments, which decides where they are cut
and knows no engine, and carry each segment through the engine with a *feeder*, which decides
nothing. The generation task (`transcriber`) sees to order, deadlines and losses for both.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from realtimed.engine.core import Engine
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.errors import WireError
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.poison import Stretch
from realtimed.transcription.segment import CutReason
from realtimed.transcription.slots import SlotPool
from realtimed.transcription.utterance import Next, TimedText, Utterance
from realtimed.wire.events import Usage, Word


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there is to tell of an utterance when it is complete, besides its text."""

    usage: Usage
    words: tuple[Word, ...] = ()
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """Where recognition reports. Called from whatever task made progress; must not block."""

    text: Callable[[int, TimedText], None]
    """Utterance id and text to append."""
    done: Callable[[int, Outcome], None]
    """The utterance is complete."""
    failed: Callable[[int, WireError], None]
    """The utterance ended with an error. On return its `end` is set."""
    cut: Callable[[int, CutReason], None]
    """A segment of the utterance has been cut."""
    queued: Callable[[int], None]
    """All engine slots are taken: the utterance waits for one."""


class Cuttable(Protocol):
    """A segment, as far as the generation task is concerned."""

    @property
    def cut_reason(self) -> CutReason | None:
        """`None` while it is open."""

    @property
    def answered_to(self) -> int:
        """Session position up to which the engine has answered."""

    def cut(self, at_sample: int, reason: CutReason) -> None:
        """End its audio at session position `at_sample`."""


class Chain(Protocol):
    """One utterance's segments, one at a time."""

    utterance: Utterance
    prompt_tokens: int
    completion_tokens: int

    @property
    def current(self) -> Cuttable:
        """The segment that is recognised now; before the first `advance`, none yet."""

    @property
    def timed_words(self) -> Sequence[Word]:
        """All words told, where the model knows when they were spoken."""

    @property
    def language(self) -> str | None:
        """What the next utterance may be taken to be in, ISO 639-1, where that matters."""

    @property
    def spoken_language(self) -> str | None:
        """What its text is in, ISO 639-1, where the model tells and there is some."""

    @property
    def resume_at(self) -> int:
        """Where to begin again after a failure of the engine, as a session position."""

    @property
    def keep_from_in_pause(self) -> int:
        """Session position before which no audio is needed between two segments."""

    @property
    def audio_seconds(self) -> float:
        """Length of the utterance."""

    def advance(self) -> Next:
        """Go on to the first or next segment, if there is one and its beginning is known."""

    def close_segment(self) -> None:
        """The current segment is over: count what it cost."""


class Feeder(Protocol):
    """Carries one segment through the engine."""

    finished: trio.Event
    error: Exception | None
    """What ended it, if it did not end by itself."""
    sent_at: float | None
    """Trio's time of the last sign of life while the engine has something to answer, or of when
    it was given that; `None` while it has not."""
    answers: int

    @property
    def in_flight(self) -> Stretch | None:
        """The audio that the engine has not answered."""

    def feeding(self) -> AbstractAsyncContextManager[None]:
        """Feed the segment from its audio, and at the end take its request out of the engine."""


AnyChain = TypeVar("AnyChain", bound=Chain)


class Recognizer(Protocol[AnyChain]):
    """A way to recognise speech; one for all sessions."""

    @property
    def listens(self) -> bool:
        """Whether it needs all of the audio judged by speech detection."""

    def chain(self, utterance: Utterance, buffer: AudioBuffer, language: str | None) -> AnyChain:
        """The segments of a new utterance; `language`: of the one before it, ISO 639-1."""

    def feeder(
        self,
        chain: AnyChain,
        buffer: AudioBuffer,
        listener: Listener,
        engine: EngineSupervisor,
    ) -> Feeder:
        """For the chain's current segment."""

    def slot(
        self, slots: SlotPool, queued: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """What a segment holds of the engine from its beginning to its end."""

    async def probe(self, engine: Engine, buffer: AudioBuffer) -> None:
        """A real inference on this engine, of a little silence.

        Raises: `WireError` or `EngineLost` if it failed.
        """
