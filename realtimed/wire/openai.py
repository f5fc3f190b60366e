"""The dialect of OpenAI's Realtime API for transcription sessions, GA shape; the server's end.

Fields are those of the types in openai-python (`openai.types.realtime`). Audio is base64, or raw
in binary messages, of 24 kHz mono signed 16-bit little-endian PCM unless the session says
otherwise (`openai_session.py` has the session's options). Turns of speaking delimit utterances
unless the client says otherwise.

An utterance is an *item* here. Its name follows from its number, so only what cannot be derived
is kept of it, and only until it is completed, failed or cleared away.

Decoding is strict and happens in one pass, as in `vllm.py`. Events that belong to conversations
rather than transcriptions are no error and mean nothing. Encoding happens later than decoding, so
what an answer needs of its question waits in a queue: the session as an update left it, and the
`event_id` of a message that was refused.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from realtimed.errors import (
    InvalidAudio,
    InvalidEvent,
    InvalidJson,
    MessageTooBig,
    ModelNotFound,
    ModelNotValidated,
    UnknownEvent,
    UnsupportedOption,
    WireError,
)
from realtimed.wire import openai_events as wire
from realtimed.wire import openai_session
from realtimed.wire.codec import Opening
from realtimed.wire.events import (
    Append,
    Clear,
    Cleared,
    ClientEvent,
    Commit,
    Committed,
    Configure,
    ErrorOccurred,
    ServerEvent,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TokenLogprob,
    Usage,
    UtteranceDone,
)
from realtimed.wire.logprobs import fitted
from realtimed.wire.openai_session import SessionPatch, Settings
from realtimed.wire.vllm_options import shown

# --- structs as they stand on the wire ----------------------------------------------------


class AppendEvent(Struct, tag_field="type", tag="input_audio_buffer.append", gc=False):
    audio: bytes


class CommitEvent(Struct, tag_field="type", tag="input_audio_buffer.commit", gc=False):
    pass


class ClearEvent(Struct, tag_field="type", tag="input_audio_buffer.clear", gc=False):
    pass


class SessionUpdateEvent(Struct, tag_field="type", tag="session.update"):
    session: SessionPatch
    event_id: Any = None


class _Peek(Struct):
    """What is needed to say why a message failed."""

    type: Any = None
    event_id: Any = None
    audio: Any = None


_PEEK = msgspec.json.Decoder(_Peek)
_ENCODER = msgspec.json.Encoder()
_CLIENT_TYPES: Final = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
)
_IGNORED_TYPES: Final = ("response.", "conversation.item.", "output_audio_buffer.clear")
_MISTAKES: Final = frozenset(
    error.code
    for error in (
        *(InvalidJson, InvalidEvent, UnknownEvent, InvalidAudio, MessageTooBig),
        *(ModelNotFound, ModelNotValidated, UnsupportedOption),
    )
)
"""Codes of errors that the client can do something about."""
_LONGEST_EVENT_ID: Final = 512
_WAITING: Final = 256
"""Answers that may be on their way; whoever has more waiting has stopped reading."""


class _Utterance(Struct):
    """What is remembered of an item."""

    committed: bool = False
    previous: str | None = None
    text_begun: bool = False
    logprobs: list[wire.Logprob] | UnsetType = UNSET


class _Refused(NamedTuple):
    message: str
    event_id: str | None


class OpenAICodec:
    """The dialect on one connection."""

    NAME: ClassVar[str] = "openai"
    BEGINS_BY_AUDIO: ClassVar[bool] = True
    CLIENT: ClassVar[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(
        SessionUpdateEvent | AppendEvent | CommitEvent | ClearEvent
    )
    CLIENT_TYPES: ClassVar[tuple[str, ...]] = _CLIENT_TYPES

    def __init__(self, opening: Opening) -> None:
        """`opening`: names the session and the model that the URL asks for."""
        self._settings = openai_session.settings(opening)
        self._suffix = openai_session.digits(opening)
        self._events = 0
        self._last_committed: str | None = None
        self._utterances: dict[int, _Utterance] = {}
        self._updates: deque[Settings] = deque(maxlen=_WAITING)
        self._refused: deque[_Refused] = deque(maxlen=_WAITING)

    def configuration(self) -> Configure:
        """Server VAD on 24 kHz PCM; no VAD for models that are served without it."""
        return self._settings.configure()

    # --- from the client ------------------------------------------------------------------

    def decode(self, message: str | bytes) -> Sequence[ClientEvent]:
        """What one message asks for; nothing, if it concerns conversations.

        Raises: `InvalidJson`, `InvalidEvent`, `UnknownEvent`, `InvalidAudio`, `ModelNotFound` or
        `UnsupportedOption`.
        """
        try:
            event = self.CLIENT.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return self._explain(message, error)
        if type(event) is AppendEvent:
            return (Append(event.audio),) if event.audio else ()
        if type(event) is CommitEvent:
            return (Commit(final=True),)
        if type(event) is ClearEvent:
            return (Clear(),)
        return (self._update(event),)

    def patch(self, event: Any) -> SessionPatch:
        """What a message that updates the session asks for. Raises: a `WireError`."""
        assert type(event) is SessionUpdateEvent
        return event.session

    def _update(self, event: Any) -> Configure:
        try:
            new = self._settings.updated(self.patch(event))
        except WireError as error:
            self._remember(error, event.event_id)
            raise
        self._settings = new
        self._updates.append(new)
        return new.configure()

    def _explain(self, message: str | bytes, cause: Exception) -> Sequence[ClientEvent]:
        """Pass over a message that does not decode, or raise what is wrong with it."""
        try:
            peek = _PEEK.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            problem: WireError | None = _no_event(error)
            peek = _Peek()
        else:
            problem = _wrong_event(peek, cause, self.CLIENT_TYPES)
        if problem is None:
            return ()
        self._remember(problem, peek.event_id)
        raise problem from cause

    def _remember(self, error: WireError, event_id: Any) -> None:
        fits = isinstance(event_id, str) and len(event_id) <= _LONGEST_EVENT_ID
        self._refused.append(_Refused(error.message, event_id if fits else None))

    # --- to the client --------------------------------------------------------------------

    def encode(self, event: ServerEvent) -> Sequence[bytes]:
        """The messages that tell of an event; none for warnings and text that is only space."""
        return [_ENCODER.encode(message) for message in self.messages(event)]

    def messages(self, event: ServerEvent) -> Sequence[Struct]:
        """What tells of an event, as it stands on the wire."""
        match event:
            case TextDelta():
                return self._delta(event)
            case UtteranceDone():
                return self._done(event)
            case Committed():
                return self._committed(event.utterance)
            case ErrorOccurred():
                return (self._error(event),)
            case SessionCreated() | SessionUpdated():
                return (self._session(event),)
            case SpeechStarted() | SpeechStopped():
                return (self._speech(event),)
            case Cleared():
                return (self._cleared(),)
            case _:
                return ()

    def _session(self, event: SessionCreated | SessionUpdated) -> Struct:
        if isinstance(event, SessionCreated):
            # Its name is fixed: another instance may have greeted before the dialect was known.
            return self.session_created(f"event_{self._suffix}_0", self._settings)
        settings = self._updates.popleft() if self._updates else self._settings
        return self.session_updated(self._event_id(), settings)

    def session_created(self, event_id: str, now: Settings) -> Struct:
        """The greeting."""
        return wire.SessionCreated(event_id, openai_session.session_object(now))

    def session_updated(self, event_id: str, now: Settings) -> Struct:
        """The answer to an update."""
        return wire.SessionUpdated(event_id, openai_session.session_object(now))

    def _speech(self, event: SpeechStarted | SpeechStopped) -> Struct:
        item, at_ms = self._item_id(event.utterance), round(event.at * 1_000)
        if isinstance(event, SpeechStopped):
            return wire.SpeechStopped(self._event_id(), at_ms, item)
        vad = self._settings.turn_detection
        padding_ms = vad.prefix_padding_ms if vad is not None else 0
        return wire.SpeechStarted(self._event_id(), max(0, at_ms - padding_ms), item)

    def _committed(self, utterance: int) -> Sequence[Struct]:
        item_id, previous = self._item_id(utterance), self._last_committed
        state = self._utterances.setdefault(utterance, _Utterance())
        state.committed, state.previous = True, previous
        self._last_committed = item_id
        return (
            wire.Committed(self._event_id(), item_id, previous),
            wire.ItemAdded(self._event_id(), previous, wire.Item(item_id, (wire.Content(None),))),
        )

    def _cleared(self) -> Struct:
        """The open utterance has been given up; nothing more will be told of it."""
        open_ones = [number for number, one in self._utterances.items() if not one.committed]
        for number in open_ones:
            del self._utterances[number]
        return wire.Cleared(self._event_id())

    def _delta(self, event: TextDelta) -> Sequence[Struct]:
        text = event.text
        state = self._utterances.get(event.utterance)
        if state is None or not state.text_begun:
            text = text.lstrip()
            if not text:
                return ()
            state = self._utterances.setdefault(event.utterance, _Utterance())
            state.text_begun = True
        told = wire.Delta(self._event_id(), self._item_id(event.utterance), text)
        if event.logprobs is not None:
            told.logprobs = _logprobs(fitted(event.logprobs, text))
            state.logprobs = state.logprobs or []
            state.logprobs += told.logprobs
        return (told,)

    def _done(self, event: UtteranceDone) -> Sequence[Struct]:
        item_id, text = self._item_id(event.utterance), event.text.lstrip()
        state = self._utterances.pop(event.utterance, None) or _Utterance()
        item = wire.Item(item_id, (wire.Content(text),))
        return (
            wire.Completed(
                self._event_id(),
                item_id,
                text,
                _tokens(event.usage),
                logprobs=state.logprobs,
                languages=UNSET if event.language is None else (wire.Language(event.language),),
            ),
            wire.ItemDone(self._event_id(), state.previous, item),
        )

    def _error(self, event: ErrorOccurred) -> Struct:
        kind = "invalid_request_error" if event.code in _MISTAKES else "server_error"
        if event.utterance is None:
            cause = wire.CauseWithId(
                kind, event.code, event.message, event_id=self._refused_id(event.message)
            )
            return wire.Error(self._event_id(), cause)
        self._utterances.pop(event.utterance, None)
        item_id = self._item_id(event.utterance)
        return wire.Failed(self._event_id(), item_id, wire.Cause(kind, event.code, event.message))

    def _refused_id(self, message: str) -> str | None:
        """The client's name of the message that an error answers; errors are told in order.

        `None` also for errors that are not about a message, or were found after decoding.
        """
        for position, refused in enumerate(self._refused):
            if refused.message == message:
                for _ in range(position + 1):
                    self._refused.popleft()
                return refused.event_id
        return None

    def _event_id(self) -> str:
        self._events += 1
        return f"event_{self._suffix}_{self._events}"

    def _item_id(self, utterance: int) -> str:
        return f"item_{self._suffix}_{utterance}"


def _tokens(usage: Usage) -> wire.Tokens:
    total = usage.prompt_tokens + usage.completion_tokens
    return wire.Tokens(usage.prompt_tokens, usage.completion_tokens, total)


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[wire.Logprob]:
    return [wire.Logprob(one.token, list(one.token.encode()), one.logprob) for one in tokens]


def _no_event(error: Exception) -> WireError:
    """What is wrong with a message that is no JSON object."""
    if isinstance(error, msgspec.ValidationError):
        return InvalidEvent("Expected a JSON object with a string field `type`.")
    if isinstance(error, RecursionError):
        return InvalidEvent("The event is nested too deeply.")
    return InvalidJson("Invalid JSON: expected one JSON object per text message.")


def _wrong_event(peek: _Peek, cause: Exception, types: Sequence[str]) -> WireError | None:
    """What is wrong with an object that is no event of a transcription; `None`: nothing is."""
    if not isinstance(peek.type, str):
        return UnknownEvent("Missing event type: expected a string field `type`.")
    if peek.type.startswith(_IGNORED_TYPES):
        return None
    if peek.type not in types:
        expected = ", ".join(types)
        return UnknownEvent(f"Unknown event type: {shown(peek.type)}. Expected {expected}.")
    if not isinstance(cause, msgspec.ValidationError):
        return _no_event(cause)
    if peek.type != "input_audio_buffer.append":
        # It names what was expected and where; the values that were sent are not in it.
        return InvalidEvent(f"Invalid field: {cause}.")
    if isinstance(peek.audio, str):
        return InvalidAudio("Invalid audio data: `audio` is not strict standard base64.")
    return InvalidEvent("Invalid field: `audio` must be a base64 string.")
