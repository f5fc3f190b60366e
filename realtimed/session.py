"""The rules of a conversation: which event is legal when, and what it causes. Sans-IO.

Theory of operation
===================

A session's audio is one line of samples, counted from 0 by the session's clock. *Utterances*
are stretches of that line. Audio that no utterance has claimed yet is *kept* and belongs to the
utterance that starts next; once an utterance has ended, all before its end is *claimed*.

What the client sends moves the session between four phases (`TRANSITIONS` is the whole of it):

=============  =================================================================
UNCONFIGURED   no valid `session.update` yet: audio is kept, commits are refused
IDLE           no utterance takes audio; what comes is kept for the next
LISTENING      an utterance takes the audio, until its final commit
FAILED         the utterance that took the audio ended with an error before its
               final commit; audio goes by until that commit, which is not answered
=============  =================================================================

What recognition reports (`text`, `done`, `failed`) concerns utterances by number. Utterances
finish in the order they began, and each has exactly one terminal event: `UtteranceDone`, or
`ErrorOccurred` with its number.

Methods take an event and return the actions it causes, in order, for the shell to carry out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from realtimed.errors import ModelNotFound, ModelNotValidated, WireError
from realtimed.wire.events import (
    Commit,
    Configure,
    ErrorOccurred,
    ServerEvent,
    TextDelta,
    Usage,
    UtteranceDone,
)


class Phase(Enum):
    """What the session does with audio; see the module's theory of operation."""

    UNCONFIGURED = auto()
    IDLE = auto()
    LISTENING = auto()
    FAILED = auto()


class Cause(Enum):
    """What a client's event amounts to."""

    CONFIGURE = auto()
    BEGIN = auto()
    END = auto()
    AUDIO = auto()


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
class Emit:
    """Send this event to the client."""

    event: ServerEvent


Action = Begin | End | Emit
Handler = Callable[["Session"], list[Action]]


@dataclass(slots=True)
class Session:
    """One connection's conversation."""

    served_models: Sequence[str]
    """Names the model answers to; the empty name always means the served one."""
    phase: Phase = Phase.UNCONFIGURED
    received: int = 0
    """The session's clock: samples received."""
    _claimed: int = 0
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
        return self._transition(Cause.CONFIGURE)

    def commit(self, event: Commit) -> list[Action]:
        """A commit, final or not."""
        return self._transition(Cause.END if event.final else Cause.BEGIN)

    def audio(self, samples: int) -> list[Action]:
        """The client sent this many samples, and they are being stored."""
        self.received += samples
        return self._transition(Cause.AUDIO)

    def drain(self) -> list[Action]:
        """No more will be read: the open utterance ends with what has been received."""
        self._begin_again = False
        return self._close_open() if self.phase is Phase.LISTENING else []

    # --- what recognition reports ---------------------------------------------------------

    def text(self, utterance: int, text: str) -> list[Action]:
        """Text to append to an unfinished utterance."""
        self._texts[utterance].append(text)
        return [Emit(TextDelta(utterance, text))]

    def done(self, utterance: int, usage: Usage) -> list[Action]:
        """The utterance is complete."""
        text = "".join(self._texts.pop(utterance))
        return [Emit(UtteranceDone(utterance, text, usage))]

    def failed(self, utterance: int, error: WireError) -> list[Action]:
        """The utterance ended with an error."""
        del self._texts[utterance]
        if utterance != self._open:
            return [refuse(error, utterance)]
        self.phase, self._open = Phase.FAILED, None
        self._claimed = self.received
        end: list[Action] = [End(utterance, self.received)]
        return [*end, refuse(error, utterance)]

    @property
    def unfinished(self) -> int:
        """Utterances that have begun and have had no terminal event."""
        return len(self._texts)

    @property
    def kept(self) -> int:
        """Samples received that no utterance has claimed and none is taking."""
        return 0 if self.phase is Phase.LISTENING else self.received - self._claimed

    # --- the rules ------------------------------------------------------------------------

    def _transition(self, cause: Cause) -> list[Action]:
        return TRANSITIONS[self.phase, cause](self)

    def _begin(self) -> list[Action]:
        utterance, self._next_id = self._next_id, self._next_id + 1
        self.phase, self._open = Phase.LISTENING, utterance
        self._texts[utterance] = []
        return [Begin(utterance, self._claimed)]

    def _close_open(self) -> list[Action]:
        assert self._open is not None
        actions: list[Action] = [End(self._open, self.received)]
        self.phase, self._open = Phase.IDLE, None
        self._claimed = self.received
        return actions + self._begin_remembered()

    def _end_when_idle(self) -> list[Action]:
        if self.kept or not self.unfinished:
            return self._begin() + self._close_open()
        return []  # a second final for an utterance that is already finishing

    def _remember_begin(self) -> list[Action]:
        self._begin_again = True
        return []

    def _become_idle(self) -> list[Action]:
        self.phase = Phase.IDLE
        return []

    def _pass_by(self) -> list[Action]:
        self._claimed = self.received
        return []

    def _end_when_failed(self) -> list[Action]:
        self.phase = Phase.IDLE
        return self._begin_remembered()

    def _begin_remembered(self) -> list[Action]:
        if not self._begin_again:
            return []
        self._begin_again = False
        return self._begin()

    def _nothing(self) -> list[Action]:
        return []

    def _not_validated(self) -> list[Action]:
        return [refuse(ModelNotValidated(_NOT_VALIDATED))]


def _public(session: Session) -> list[str]:
    """The served names that are no path of the server."""
    return [name for name in session.served_models if not name.startswith("/")] or ['"" (default)']


_NOT_VALIDATED = "No model yet: send session.update with a model before the first commit."


def refuse(error: WireError, utterance: int | None = None) -> Emit:
    """An error as the event that tells the client."""
    return Emit(ErrorOccurred(error.code, error.message, utterance))


TRANSITIONS: dict[tuple[Phase, Cause], Handler] = {
    (Phase.UNCONFIGURED, Cause.CONFIGURE): Session._become_idle,
    (Phase.UNCONFIGURED, Cause.AUDIO): Session._nothing,
    (Phase.UNCONFIGURED, Cause.BEGIN): Session._not_validated,
    (Phase.UNCONFIGURED, Cause.END): Session._not_validated,
    (Phase.IDLE, Cause.CONFIGURE): Session._nothing,
    (Phase.IDLE, Cause.AUDIO): Session._nothing,
    (Phase.IDLE, Cause.BEGIN): Session._begin,
    (Phase.IDLE, Cause.END): Session._end_when_idle,
    (Phase.LISTENING, Cause.CONFIGURE): Session._nothing,
    (Phase.LISTENING, Cause.AUDIO): Session._nothing,
    (Phase.LISTENING, Cause.BEGIN): Session._remember_begin,
    (Phase.LISTENING, Cause.END): Session._close_open,
    (Phase.FAILED, Cause.CONFIGURE): Session._nothing,
    (Phase.FAILED, Cause.AUDIO): Session._pass_by,
    (Phase.FAILED, Cause.BEGIN): Session._remember_begin,
    (Phase.FAILED, Cause.END): Session._end_when_failed,
}
"""Every phase has a rule for every cause; a test holds it to that."""
