"""The rules of a conversation: which event is legal when, and what it causes. Sans-IO.

Theory of operation
===================

A session's audio is one line of samples, counted from 0 by the session's clock. *Utterances*
are stretches of that line, in order and without overlap. Audio that no utterance has claimed yet
is *kept* and belongs to the utterance that starts next, unless the shell lets go of it first
(`forget`); once an utterance has ended, all before its end is *claimed*.

The session is in one of four phases:

=============  =================================================================
UNCONFIGURED   no valid `session.update` yet: audio is kept, commits are refused
IDLE           no utterance takes audio; what comes is kept for the next
LISTENING      an utterance takes the audio, until it is ended
FAILED         the utterance that took the audio ended with an error before it
               was ended; audio goes by until what would have ended it
=============  =================================================================

What delimits utterances is the choice of the client and its dialect, and there is one table of
rules for each:

* `BY_COMMIT`: a commit begins an utterance, a final commit ends it. Speech is no matter.
* `BY_BUFFER`: audio begins an utterance, a commit ends it; each commit has its answer.
* `BY_SPEECH` (`turn_detection` is on): speech begins an utterance, as far before its onset as
  the prefix reaches into audio that is not claimed; a pause ends it, and audio from there on is
  kept. A final commit ends it, too, and the turn goes on (`speaking`): once more speech is
  reported, the next utterance begins at the same sample, so that no speech is lost; if none is,
  there is no further utterance. A commit that is not final means nothing.

A choice that is changed while an utterance is open leaves it open; the rules that hold from
then on end it.

What recognition reports (`text`, `done`, `failed`) concerns utterances by number. Utterances
finish in the order they began, and each has exactly one terminal event: `UtteranceDone`, or
`ErrorOccurred` with its number. Times, words and warnings are told only to a client that
included them.

Methods take an event and return the actions it causes, in order, for the shell to carry out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from msgspec import UNSET

from realtimed.errors import ModelNotFound, ModelNotValidated, WireError
from realtimed.wire.events import (
    LOGPROBS,
    NO_GUIDANCE,
    WARNINGS,
    WORDS,
    Cleared,
    Commit,
    Committed,
    Configure,
    ErrorOccurred,
    Guidance,
    ServerEvent,
    ServerVad,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TokenLogprob,
    Usage,
    UtteranceDone,
    Warned,
    Word,
)


class Phase(Enum):
    """What the session does with audio; see the module's theory of operation."""

    UNCONFIGURED = auto()
    IDLE = auto()
    LISTENING = auto()
    FAILED = auto()


class Cause(Enum):
    """What an event amounts to: the client's, or the detector's of speech."""

    CONFIGURE = auto()
    BEGIN = auto()
    END = auto()
    AUDIO = auto()
    CLEAR = auto()
    SPEECH = auto()
    PAUSE = auto()


class Mark(NamedTuple):
    """Where a cause falls on the session's clock, in samples."""

    at: int
    """Where speech began or ended; for a commit, the end of what was received."""
    edge: int
    """Where a turn begins by it, or an utterance ends."""


_NOWHERE = Mark(0, 0)
"""For causes whose rules do not ask where. Audio is frequent, so it does not compute a mark."""


@dataclass(frozen=True, slots=True)
class Begin:
    """An utterance takes the audio from session position `at` (samples) on."""

    utterance: int
    at: int


@dataclass(frozen=True, slots=True)
class End:
    """The utterance's audio ends at session position `at` (samples)."""

    utterance: int
    at: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The utterance is given up at session position `at` (samples); nothing more is told of it."""

    utterance: int
    at: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Send this event to the client."""

    event: ServerEvent


Action = Begin | End | Cancel | Emit
Handler = Callable[["Session", Mark], list[Action]]


@dataclass(slots=True)
class Session:
    """One connection's conversation."""

    served_models: Sequence[str]
    """Names the model answers to; the empty name always means the served one."""
    sample_rate: int = 16_000
    """Samples a second of the session's clock."""
    by_buffer: bool = False
    """Whether audio begins an utterance by itself, and the dialect wants to be told what has been
    done for it: that the session is updated, an utterance committed, the buffer cleared."""
    phase: Phase = Phase.UNCONFIGURED
    received: int = 0
    """The session's clock: samples received."""
    turn_detection: ServerVad | None = None
    """Set: utterances are turns of speaking. `None`: commits delimit them."""
    include: frozenset[str] = frozenset()
    """What the client wants to be told beyond text: `WORDS`, `WARNINGS`, `LOGPROBS`."""
    guidance: Guidance = NO_GUIDANCE
    """What the recogniser is told of the speech; it holds for utterances that begin after it."""
    speaking: bool = False
    """With turn detection: whether speech has begun and not yet ended."""
    _claimed: int = 0
    """Where the next utterance may begin, or, while one is open, where that one began."""
    _next_id: int = 0
    _begin_again: bool = False
    _open: int | None = None
    _texts: dict[int, list[str]] = field(default_factory=dict)

    # --- what the client does -------------------------------------------------------------

    def configure(self, event: Configure) -> list[Action]:
        """`session.update`. An unknown model changes nothing: a valid one stays valid."""
        if event.model and event.model not in self.served_models:
            shown = event.model if len(event.model) <= 200 else event.model[:199] + "…"
            error = ModelNotFound(
                f"The model `{shown}` does not exist. Served here: {', '.join(_public(self))}."
            )
            return [refuse(error)]
        if event.include is not UNSET:
            self.include = event.include
        if event.guidance is not UNSET:
            self.guidance = event.guidance
        if event.turn_detection is not UNSET:
            self._detect_turns(event.turn_detection)
        return self._transition(Cause.CONFIGURE, _NOWHERE) + self._announce(SessionUpdated())

    def commit(self, event: Commit) -> list[Action]:
        """A commit, final or not."""
        return self._transition(Cause.END if event.final else Cause.BEGIN, self._here)

    def audio(self, samples: int) -> list[Action]:
        """The client sent this many samples, and they are being stored."""
        self.received += samples
        return self._transition(Cause.AUDIO, _NOWHERE)

    def clear(self) -> list[Action]:
        """Audio that no finished utterance has is forgotten, and the open utterance with it."""
        return self._transition(Cause.CLEAR, self._here) + self._announce(Cleared())

    def drain(self) -> list[Action]:
        """No more will be read: the open utterance ends with what has been received."""
        goes_on = self.speaking and self.phase is Phase.IDLE and self.kept > 0
        self._detect_turns(None)  # so that a late onset begins nothing
        self._begin_again = False
        begin = self._begin(self._claimed) if goes_on else []
        return begin + (self._end_here(self._here) if self.phase is Phase.LISTENING else [])

    # --- what the detector of speech reports ----------------------------------------------

    def speech_started(self, at: int, prefix: int) -> list[Action]:
        """Speech began at session position `at`; up to `prefix` samples before belong to it.

        `at` is at most `received`, and `prefix` not negative. Told while speech is going on, it
        says that it still does: behind a commit that begins the next utterance.
        """
        return self._transition(Cause.SPEECH, Mark(at, max(self._claimed, at - prefix)))

    def speech_stopped(self, at: int, upto: int) -> list[Action]:
        """Speech ended at session position `at`; its utterance takes audio up to `upto`.

        `at <= upto <= received`. An utterance that began after `upto` is empty.
        """
        return self._transition(Cause.PAUSE, Mark(at, max(self._claimed, upto)))

    def forget(self, position: int) -> None:
        """Audio before session position `position`, at most `received`, is no longer there.

        What an open utterance takes is that utterance's, so nothing changes while one is open.
        """
        if self._open is None:
            self._claimed = max(self._claimed, position)

    # --- what recognition reports ---------------------------------------------------------

    def text(
        self,
        utterance: int,
        text: str,
        start: float | None = None,
        end: float | None = None,
        logprobs: tuple[TokenLogprob, ...] | None = None,
    ) -> list[Action]:
        """Text to append to an unfinished utterance, spoken from `start` to `end` (seconds)."""
        self._texts[utterance].append(text)
        if WORDS not in self.include:
            start = end = None
        if LOGPROBS not in self.include:
            logprobs = None
        return [Emit(TextDelta(utterance, text, start, end, logprobs))]

    def done(
        self,
        utterance: int,
        usage: Usage,
        words: tuple[Word, ...] = (),
        language: str | None = None,
    ) -> list[Action]:
        """The utterance is complete; `words` are all of its words, `language` is ISO 639-1."""
        text = "".join(self._texts.pop(utterance))
        told = words if WORDS in self.include else None
        return [Emit(UtteranceDone(utterance, text, usage, told, language))]

    def failed(self, utterance: int, error: WireError) -> list[Action]:
        """The utterance ended with an error."""
        del self._texts[utterance]
        if utterance != self._open:
            return [refuse(error, utterance)]
        self.phase, self._open = Phase.FAILED, None
        self._claimed = self.received
        end: list[Action] = [End(utterance, self.received)]
        return [*end, refuse(error, utterance)]

    def warn(
        self,
        code: str,
        message: str,
        utterance: int | None = None,
        *,
        deadline_s: float | None = None,
    ) -> list[Action]:
        """Something to know about the session or one utterance, ended or not."""
        warned = Warned(code, message, utterance, deadline_s)
        return [Emit(warned)] if WARNINGS in self.include else []

    @property
    def unfinished(self) -> int:
        """Utterances that have begun and have had no terminal event."""
        return len(self._texts)

    @property
    def idle(self) -> bool:
        """Whether nothing is lost if the session ends now."""
        return not self._texts and (self.turn_detection is not None or not self.kept)

    @property
    def kept(self) -> int:
        """Samples received that no utterance has claimed and none is taking."""
        return 0 if self.phase is Phase.LISTENING else self.received - self._claimed

    @property
    def claimed(self) -> int:
        """Session position (samples) before which no utterance to come begins."""
        return self._claimed

    # --- the rules ------------------------------------------------------------------------

    @property
    def _here(self) -> Mark:
        return Mark(self.received, self.received)

    def _transition(self, cause: Cause, mark: Mark) -> list[Action]:
        if self.turn_detection is not None:
            table = BY_SPEECH
        else:
            table = BY_BUFFER if self.by_buffer else BY_COMMIT
        return table[self.phase, cause](self, mark)

    def _announce(self, event: ServerEvent) -> list[Action]:
        return [Emit(event)] if self.by_buffer else []

    def _detect_turns(self, turn_detection: ServerVad | None) -> None:
        if (turn_detection is None) != (self.turn_detection is None):
            # What was to come by the rules that end here is void.
            self._begin_again = self.speaking = False
        self.turn_detection = turn_detection

    def _begin(self, at: int) -> list[Action]:
        utterance, self._next_id = self._next_id, self._next_id + 1
        self.phase, self._open, self._claimed = Phase.LISTENING, utterance, at
        self._texts[utterance] = []
        return [Begin(utterance, at)]

    def _end(self, at: int) -> list[Action]:
        assert self._open is not None
        end, told = End(self._open, at), self._announce(Committed(self._open))
        self.phase, self._open, self._claimed = Phase.IDLE, None, at
        return [end, *told, *self._begin_next()]

    def _begin_next(self) -> list[Action]:
        """What is to begin as soon as another utterance has ended, if one is remembered."""
        if not self._begin_again:
            return []
        self._begin_again = False
        return self._begin(self._claimed)

    def _begin_kept(self, mark: Mark) -> list[Action]:
        return self._begin(self._claimed)

    def _begin_turn(self, mark: Mark) -> list[Action]:
        begin = self._begin(mark.edge)
        if self.speaking:
            return begin  # the turn was told of before the commit
        self.speaking = True
        return [self._tell(SpeechStarted, mark), *begin]

    def _end_here(self, mark: Mark) -> list[Action]:
        return self._end(mark.edge)

    def _end_turn(self, mark: Mark) -> list[Action]:
        self.speaking = False
        stopped = self._tell(SpeechStopped, mark)
        return [stopped, *self._end(mark.edge)]

    def _end_when_idle(self, mark: Mark) -> list[Action]:
        if self.by_buffer or self.kept or not self.unfinished:
            return self._begin(self._claimed) + self._end(mark.edge)
        return []  # a second final for an utterance that is already finishing

    def _give_up(self, mark: Mark) -> list[Action]:
        assert self._open is not None
        cancel = Cancel(self._open, mark.edge)
        del self._texts[self._open]
        self.phase, self._open, self._claimed = Phase.IDLE, None, mark.edge
        return [cancel, *self._begin_next()]

    def _end_when_failed(self, mark: Mark) -> list[Action]:
        self.phase = Phase.IDLE
        return self._begin_next()

    def _pause_without_utterance(self, mark: Mark) -> list[Action]:
        stopped: list[Action] = [self._tell(SpeechStopped, mark)] if self.speaking else []
        self.phase, self.speaking = Phase.IDLE, False
        return stopped

    def _speech_when_open(self, mark: Mark) -> list[Action]:
        if self.speaking:
            return []
        self.speaking = True
        return [self._tell(SpeechStarted, mark)]

    def _remember_begin(self, mark: Mark) -> list[Action]:
        self._begin_again = True
        return []

    def _become_idle(self, mark: Mark) -> list[Action]:
        self.phase = Phase.IDLE
        return []

    def _pass_by(self, mark: Mark) -> list[Action]:
        self._claimed = self.received
        return []

    def _nothing(self, mark: Mark) -> list[Action]:
        return []

    def _not_validated(self, mark: Mark) -> list[Action]:
        return [refuse(ModelNotValidated(_NOT_VALIDATED))]

    def _tell(self, event: type[SpeechStarted | SpeechStopped], mark: Mark) -> Emit:
        """Speech is told of with the utterance that began last, open or failed."""
        return Emit(event(self._next_id - 1, mark.at / self.sample_rate))


def _public(session: Session) -> list[str]:
    """The served names that are no path of the server."""
    return [name for name in session.served_models if not name.startswith("/")] or ['"" (default)']


_NOT_VALIDATED = "No model yet: send session.update with a model before the first commit."


def refuse(error: WireError, utterance: int | None = None) -> Emit:
    """An error as the event that tells the client."""
    return Emit(ErrorOccurred(error.code, error.message, utterance))


BY_COMMIT: dict[tuple[Phase, Cause], Handler] = {
    (Phase.UNCONFIGURED, Cause.CONFIGURE): Session._become_idle,
    (Phase.UNCONFIGURED, Cause.AUDIO): Session._nothing,
    (Phase.UNCONFIGURED, Cause.BEGIN): Session._not_validated,
    (Phase.UNCONFIGURED, Cause.END): Session._not_validated,
    (Phase.UNCONFIGURED, Cause.CLEAR): Session._pass_by,
    (Phase.UNCONFIGURED, Cause.SPEECH): Session._nothing,
    (Phase.UNCONFIGURED, Cause.PAUSE): Session._nothing,
    (Phase.IDLE, Cause.CONFIGURE): Session._nothing,
    (Phase.IDLE, Cause.AUDIO): Session._nothing,
    (Phase.IDLE, Cause.BEGIN): Session._begin_kept,
    (Phase.IDLE, Cause.END): Session._end_when_idle,
    (Phase.IDLE, Cause.CLEAR): Session._pass_by,
    (Phase.IDLE, Cause.SPEECH): Session._nothing,
    (Phase.IDLE, Cause.PAUSE): Session._nothing,
    (Phase.LISTENING, Cause.CONFIGURE): Session._nothing,
    (Phase.LISTENING, Cause.AUDIO): Session._nothing,
    (Phase.LISTENING, Cause.BEGIN): Session._remember_begin,
    (Phase.LISTENING, Cause.END): Session._end_here,
    (Phase.LISTENING, Cause.CLEAR): Session._give_up,
    (Phase.LISTENING, Cause.SPEECH): Session._nothing,
    (Phase.LISTENING, Cause.PAUSE): Session._nothing,
    (Phase.FAILED, Cause.CONFIGURE): Session._nothing,
    (Phase.FAILED, Cause.AUDIO): Session._pass_by,
    (Phase.FAILED, Cause.BEGIN): Session._remember_begin,
    (Phase.FAILED, Cause.END): Session._end_when_failed,
    (Phase.FAILED, Cause.CLEAR): Session._pass_by,
    (Phase.FAILED, Cause.SPEECH): Session._nothing,
    (Phase.FAILED, Cause.PAUSE): Session._nothing,
}
"""Without turn detection. Every phase has a rule for every cause; a test holds it to that."""

BY_BUFFER = BY_COMMIT | {
    (Phase.IDLE, Cause.AUDIO): Session._begin_kept,
    (Phase.IDLE, Cause.BEGIN): Session._nothing,
    (Phase.LISTENING, Cause.BEGIN): Session._nothing,
    (Phase.FAILED, Cause.BEGIN): Session._nothing,
}
"""Where audio begins an utterance by itself: the same, save for these."""

BY_SPEECH = BY_COMMIT | {
    (Phase.IDLE, Cause.BEGIN): Session._nothing,
    (Phase.IDLE, Cause.SPEECH): Session._begin_turn,
    (Phase.IDLE, Cause.PAUSE): Session._pause_without_utterance,
    (Phase.LISTENING, Cause.BEGIN): Session._nothing,
    (Phase.LISTENING, Cause.SPEECH): Session._speech_when_open,
    (Phase.LISTENING, Cause.PAUSE): Session._end_turn,
    (Phase.FAILED, Cause.BEGIN): Session._nothing,
    (Phase.FAILED, Cause.PAUSE): Session._pause_without_utterance,
}
"""With turn detection: the same, save for these."""
