"""The dialect of vLLM 0.32's `/v1/realtime`, both ends of it.

Wire format: vllm/entrypoints/speech_to_text/realtime/protocol.py of vLLM 0.32.0. Field order
and null fields are kept, so a client that compares bytes sees what vLLM would have sent, with
`usage.audio_seconds` and `usage.lag_seconds` added. Audio is base64 of 16 kHz mono signed 16-bit
little-endian PCM.

Extensions, for clients that ask in `session.update`: `turn_detection` and two speech events, as
the Realtime API spells them; `include` for times of words and for warnings (`vllm_options.py`).

Decoding is strict and happens in one pass: msgspec validates the event and decodes the base64
in C. Only a message that fails is looked at a second time, to name what is wrong with it, and
the rare `session.update`, to find what it asks for that is not served.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec
from msgspec import UNSET, UnsetType

from realtimed.errors import InvalidAudio, InvalidEvent, InvalidJson, UnknownEvent, WireError
from realtimed.wire import vllm_options
from realtimed.wire.codec import Opening
from realtimed.wire.events import (
    NO_GUIDANCE,
    Append,
    Clear,
    Cleared,
    ClientEvent,
    Commit,
    Committed,
    Configure,
    ErrorOccurred,
    Finish,
    Guidance,
    ServerEvent,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Usage,
    UtteranceDone,
    Warned,
    Word,
)
from realtimed.wire.guidance import ONLY_WORDS, Served, changed, to_wire

NAME: Final = "vllm"
SAMPLE_RATE: Final = 16_000

# --- structs as they stand on the wire ----------------------------------------------------


class _SessionUpdate(msgspec.Struct, tag_field="type", tag="session.update", gc=False):
    model: str | None = None
    turn_detection: Any = UNSET
    include: Any = UNSET


class _GuidedUpdate(_SessionUpdate, tag="session.update", gc=False):
    """As a client sends it; what it brings is read by `vllm_options` and `guidance`."""

    language: Any = UNSET
    prompt: Any = UNSET
    hotwords: Any = UNSET
    temperature: Any = UNSET


class _Append(msgspec.Struct, tag_field="type", tag="input_audio_buffer.append", gc=False):
    audio: bytes


class _Commit(msgspec.Struct, tag_field="type", tag="input_audio_buffer.commit", gc=False):
    final: bool = False


class _SessionCreated(msgspec.Struct, tag_field="type", tag="session.created", gc=False):
    id: str
    created: int


class _Delta(msgspec.Struct, tag_field="type", tag="transcription.delta", gc=False):
    delta: str
    start: float | UnsetType | None = UNSET
    end: float | UnsetType | None = UNSET


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: None = None
    completion_tokens_details: None = None
    audio_seconds: float = 0.0
    lag_seconds: float = 0.0


class _Word(msgspec.Struct, gc=False):
    word: str
    start: float
    end: float


class _Done(msgspec.Struct, tag_field="type", tag="transcription.done", gc=False):
    text: str
    usage: _Usage | None = None
    words: list[_Word] | UnsetType | None = UNSET


class _SpeechStarted(
    msgspec.Struct, tag_field="type", tag="input_audio_buffer.speech_started", gc=False
):
    audio_start_ms: int


class _SpeechStopped(
    msgspec.Struct, tag_field="type", tag="input_audio_buffer.speech_stopped", gc=False
):
    audio_end_ms: int


class _Warning(msgspec.Struct, tag_field="type", tag="warning", gc=False):
    warning: str
    code: str
    deadline_s: float | UnsetType = UNSET


class _Error(msgspec.Struct, tag_field="type", tag="error", gc=False):
    error: str
    code: str | None = None


_ServerWire = _SessionCreated | _Delta | _Done | _SpeechStarted | _SpeechStopped | _Warning | _Error


class _Peek(msgspec.Struct, gc=False):
    """What is needed to say why a message failed."""

    type: Any = None
    audio: Any = None
    model: Any = None


_CLIENT = msgspec.json.Decoder(_SessionUpdate | _Append | _Commit)
_SERVER = msgspec.json.Decoder(_ServerWire)
_FIELDS = msgspec.json.Decoder(dict[str, Any])
_PEEK = msgspec.json.Decoder(_Peek)
_ENCODER = msgspec.json.Encoder()
_CLIENT_TYPES: Final = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
)
_TOO_DEEP: Final = "The event is nested too deeply: expected flat fields."
_NO_JSON: Final = "Invalid JSON: expected one JSON object per text message."

# --- the server's end ---------------------------------------------------------------------


class VllmCodec:
    """The dialect on one connection; it remembers what the recogniser has been told."""

    NAME: ClassVar = "vllm"
    BEGINS_BY_AUDIO: ClassVar = False

    def __init__(self, opening: Opening) -> None:
        """`opening`: what the model can be asked for matters here."""
        self._served = opening.served
        self._guidance = NO_GUIDANCE

    def configuration(self) -> None:
        """The client has to choose the model first."""

    def decode(self, message: str | bytes) -> Sequence[ClientEvent]:
        """What one message asks for; see `decode_client`."""
        event = decode_client(message, self._served, self._guidance)
        if type(event) is Configure and event.guidance is not UNSET:
            self._guidance = event.guidance
        return (event,)

    def encode(self, event: ServerEvent) -> Sequence[bytes]:
        """One message an event; see `encode_server`."""
        unsaid = isinstance(event, SessionUpdated | Committed | Cleared)
        return () if unsaid else (encode_server(event),)


def decode_client(
    message: str | bytes, served: Served = ONLY_WORDS, guidance: Guidance = NO_GUIDANCE
) -> ClientEvent:
    """Parse one text message of a client, whose `guidance` has been so far what is given.

    Raises: `InvalidJson`, `InvalidEvent`, `UnknownEvent`, `InvalidAudio` or `UnsupportedOption`.
    """
    try:
        event = _CLIENT.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _explain(message) from error
    if type(event) is _Append:
        if not event.audio:
            raise InvalidAudio("Audio is empty: send at least one 16-bit sample per append.")
        return Append(event.audio)
    if type(event) is _Commit:
        return Commit(event.final)
    assert type(event) is _SessionUpdate
    if event.model is None:
        raise InvalidEvent(
            "Missing required field: model. Send session.update with a top-level model name."
        )
    return _configure(event.model, message, served, guidance)


def _configure(model: str, message: str | bytes, served: Served, guidance: Guidance) -> Configure:
    """Read a `session.update` with all of its fields."""
    try:
        fields = _FIELDS.decode(message)
    except RecursionError as error:
        raise InvalidEvent(_TOO_DEEP) from error
    except (msgspec.DecodeError, UnicodeError) as error:
        # The first pass only skips over the values of fields that it does not know.
        raise InvalidJson(_NO_JSON) from error
    vllm_options.check_fields(fields, served)
    told = changed(guidance, fields, served)
    return Configure(
        model,
        turn_detection=vllm_options.turn_detection(fields.get("turn_detection", UNSET)),
        include=vllm_options.include(fields.get("include", UNSET), served),
        guidance=UNSET if told == guidance else told,
    )


def encode_server(event: ServerEvent) -> bytes:
    """Spell one server event as the UTF-8 JSON of a text message."""
    return _ENCODER.encode(_to_wire(event))


def _to_wire(event: ServerEvent) -> msgspec.Struct:
    match event:
        case TextDelta():
            return _Delta(event.text, _seconds(event.start), _seconds(event.end))
        case UtteranceDone():
            return _done_to_wire(event)
        case ErrorOccurred():
            return _Error(event.message, event.code)
        case SpeechStarted():
            return _SpeechStarted(round(event.at * 1_000))
        case SpeechStopped():
            return _SpeechStopped(round(event.at * 1_000))
        case Warned():
            within = UNSET if event.deadline_s is None else event.deadline_s
            return _Warning(event.message, event.code, within)
        case SessionCreated():
            return _SessionCreated(event.id, event.created)
        case SessionUpdated() | Committed() | Cleared():
            raise AssertionError("this dialect has no words for that")


def _done_to_wire(event: UtteranceDone) -> _Done:
    usage = _Usage(
        prompt_tokens=event.usage.prompt_tokens,
        total_tokens=event.usage.prompt_tokens + event.usage.completion_tokens,
        completion_tokens=event.usage.completion_tokens,
        audio_seconds=event.usage.audio_seconds,
        lag_seconds=round(event.usage.lag_seconds, 3),
    )
    if event.words is None:
        return _Done(event.text, usage)
    words = [_Word(one.word, round(one.start, 3), round(one.end, 3)) for one in event.words]
    return _Done(event.text, usage, words)


def _seconds(value: float | None) -> float | UnsetType:
    return UNSET if value is None else round(value, 3)


def _explain(message: str | bytes) -> WireError:
    """Say in one error what is wrong with a message that does not decode."""
    try:
        peek = _PEEK.decode(message)
    except msgspec.ValidationError:
        return InvalidEvent("Expected a JSON object with a string field `type`.")
    except RecursionError:
        return InvalidEvent(_TOO_DEEP)
    except (msgspec.DecodeError, UnicodeError):
        return InvalidJson(_NO_JSON)
    if not isinstance(peek.type, str) or peek.type not in _CLIENT_TYPES:
        shown = vllm_options.shown(peek.type) if isinstance(peek.type, str) else "(no string)"
        return UnknownEvent(f"Unknown event type: {shown}. Expected {', '.join(_CLIENT_TYPES)}.")
    if peek.type == "input_audio_buffer.append":
        if isinstance(peek.audio, str):
            return InvalidAudio("Invalid audio data: `audio` is not strict standard base64.")
        return InvalidEvent("Invalid field: `audio` must be a base64 string.")
    if peek.type == "input_audio_buffer.commit":
        return InvalidEvent("Invalid field: `final` must be true or false.")
    return InvalidEvent("Invalid field: `model` must be a string.")


# --- the client's end ---------------------------------------------------------------------


class _ServerPeek(msgspec.Struct, gc=False):
    """What is needed to tell an unknown server event from a malformed one."""

    type: str


_SERVER_PEEK = msgspec.json.Decoder(_ServerPeek)
_SERVER_FIELDS: Final = {
    "session.created": "a string `id` and an integer `created`",
    "transcription.delta": "a string `delta` and, where present, numbers `start` and `end`",
    "transcription.done": "a string `text` and, where present, an object `usage` of numbers"
    " and a list `words` of objects with `word`, `start` and `end`",
    "input_audio_buffer.speech_started": "an integer `audio_start_ms`",
    "input_audio_buffer.speech_stopped": "an integer `audio_end_ms`",
    "warning": "a string `warning`, a string `code` and, where present, a number `deadline_s`",
    "error": "a string `error` and a string or null `code`",
}


def encode_client(event: ClientEvent) -> bytes:
    """Spell one client event as the UTF-8 JSON of a text message."""
    match event:
        case Append():
            return _ENCODER.encode(_Append(event.audio))
        case Commit():
            return _ENCODER.encode(_Commit(event.final))
        case Configure():
            return _ENCODER.encode(
                _GuidedUpdate(
                    event.model,
                    vllm_options.turn_detection_to_wire(event.turn_detection),
                    vllm_options.include_to_wire(event.include),
                    **to_wire(event.guidance),
                )
            )
        case Clear() | Finish():
            raise AssertionError("this dialect has no words for that")


def decode_server(message: str | bytes) -> ServerEvent | None:
    """Parse one text message of a server; `None` for an event type this client does not know.

    Utterances are not numbered in this dialect, so `utterance` is always 0.

    Raises: `InvalidJson`, `InvalidEvent`: the peer does not speak this dialect.
    """
    try:
        event = _SERVER.decode(message)
    except UnicodeError as error:
        raise InvalidJson("The server sent no JSON: its text is not UTF-8.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        problem = _explain_server(message)
        if problem is None:
            return None
        raise problem from error
    return _from_wire(event)


def _from_wire(event: _ServerWire) -> ServerEvent:
    match event:
        case _Delta():
            return TextDelta(0, event.delta, _or_none(event.start), _or_none(event.end))
        case _Done():
            return _done_from_wire(event)
        case _Error():
            return ErrorOccurred(event.code or "processing_error", event.error)
        case _SpeechStarted():
            return SpeechStarted(0, event.audio_start_ms / 1_000)
        case _SpeechStopped():
            return SpeechStopped(0, event.audio_end_ms / 1_000)
        case _Warning():
            return Warned(event.code, event.warning, deadline_s=_or_none(event.deadline_s))
        case _SessionCreated():
            return SessionCreated(event.id, event.created)


def _done_from_wire(event: _Done) -> UtteranceDone:
    wire = event.usage or _Usage()
    usage = Usage(
        wire.prompt_tokens, wire.completion_tokens or 0, wire.audio_seconds, wire.lag_seconds
    )
    if event.words is UNSET or event.words is None:
        return UtteranceDone(0, event.text, usage)
    words = tuple(Word(one.word, one.start, one.end) for one in event.words)
    return UtteranceDone(0, event.text, usage, words)


def _or_none(value: float | UnsetType | None) -> float | None:
    return None if value is UNSET else value


def _explain_server(message: str | bytes) -> WireError | None:
    """Say what is wrong with a server message that does not decode; `None` if nothing is.

    Later servers may say more than this dialect had words for, so an event of an unknown type
    is no error. One of a known type with other fields than expected is.
    """
    try:
        kind = _SERVER_PEEK.decode(message).type
    except msgspec.ValidationError:
        return InvalidEvent("The server sent no event: expected an object with a string `type`.")
    except RecursionError:
        return InvalidEvent("The server sent an event that is nested too deeply.")
    except (msgspec.DecodeError, UnicodeError):
        return InvalidJson("The server sent no JSON: expected one object per text message.")
    fields = _SERVER_FIELDS.get(kind)
    if fields is None:
        return None
    return InvalidEvent(f"The server sent a malformed {kind} event: expected {fields}.")
