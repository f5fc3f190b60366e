"""The dialect of vLLM 0.32's `/v1/realtime`, both ends of it.

Wire format: vllm/entrypoints/speech_to_text/realtime/protocol.py of vLLM 0.32.0. Field order
and null fields are kept, so a client that compares bytes sees what vLLM would have sent, with
`usage.audio_seconds` added. Audio is base64 of 16 kHz mono signed 16-bit little-endian PCM.

Decoding is strict and happens in one pass: msgspec validates the event and decodes the base64
in C. Only a message that fails is looked at a second time, to name what is wrong with it.
"""

from typing import Any, Final

import msgspec

from realtimed.errors import InvalidAudio, InvalidEvent, InvalidJson, UnknownEvent, WireError
from realtimed.wire.events import (
    Append,
    ClientEvent,
    Commit,
    Configure,
    ErrorOccurred,
    ServerEvent,
    SessionCreated,
    TextDelta,
    Usage,
    UtteranceDone,
)

NAME: Final = "vllm"
SAMPLE_RATE: Final = 16_000

# --- structs as they stand on the wire ----------------------------------------------------


class _SessionUpdate(msgspec.Struct, tag_field="type", tag="session.update", gc=False):
    model: str | None = None


class _Append(msgspec.Struct, tag_field="type", tag="input_audio_buffer.append", gc=False):
    audio: bytes


class _Commit(msgspec.Struct, tag_field="type", tag="input_audio_buffer.commit", gc=False):
    final: bool = False


class _SessionCreated(msgspec.Struct, tag_field="type", tag="session.created", gc=False):
    id: str
    created: int


class _Delta(msgspec.Struct, tag_field="type", tag="transcription.delta", gc=False):
    delta: str


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: None = None
    completion_tokens_details: None = None
    audio_seconds: float = 0.0


class _Done(msgspec.Struct, tag_field="type", tag="transcription.done", gc=False):
    text: str
    usage: _Usage | None = None


class _Error(msgspec.Struct, tag_field="type", tag="error", gc=False):
    error: str
    code: str | None = None


class _Peek(msgspec.Struct, gc=False):
    """What is needed to say why a message failed."""

    type: Any = None
    audio: Any = None
    model: Any = None


_CLIENT = msgspec.json.Decoder(_SessionUpdate | _Append | _Commit)
_SERVER = msgspec.json.Decoder(_SessionCreated | _Delta | _Done | _Error)
_PEEK = msgspec.json.Decoder(_Peek)
_ENCODER = msgspec.json.Encoder()
_CLIENT_TYPES: Final = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
)

# --- the server's end ---------------------------------------------------------------------


def decode_client(message: str | bytes) -> ClientEvent:
    """Parse one text message of a client.

    Raises: `InvalidJson`, `InvalidEvent`, `UnknownEvent` or `InvalidAudio`.
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
    return Configure(event.model)


def encode_server(event: ServerEvent) -> bytes:
    """Spell one server event as the UTF-8 JSON of a text message."""
    return _ENCODER.encode(_to_wire(event))


def _to_wire(event: ServerEvent) -> msgspec.Struct:
    match event:
        case TextDelta():
            return _Delta(event.text)
        case UtteranceDone():
            prompt, completion = event.usage.prompt_tokens, event.usage.completion_tokens
            usage = _Usage(
                prompt_tokens=prompt,
                total_tokens=prompt + completion,
                completion_tokens=completion,
                audio_seconds=event.usage.audio_seconds,
            )
            return _Done(event.text, usage)
        case ErrorOccurred():
            return _Error(event.message, event.code)
        case SessionCreated():
            return _SessionCreated(event.id, event.created)


def _explain(message: str | bytes) -> WireError:
    """Say in one error what is wrong with a message that does not decode."""
    try:
        peek = _PEEK.decode(message)
    except msgspec.ValidationError:
        return InvalidEvent("Expected a JSON object with a string field `type`.")
    except RecursionError:
        return InvalidEvent("The event is nested too deeply: expected flat fields.")
    except (msgspec.DecodeError, UnicodeError):
        return InvalidJson("Invalid JSON: expected one JSON object per text message.")
    if not isinstance(peek.type, str) or peek.type not in _CLIENT_TYPES:
        shown = peek.type[:64] if isinstance(peek.type, str) else "(no string)"
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
    "transcription.delta": "a string `delta`",
    "transcription.done": "a string `text` and, where present, an object `usage` of numbers",
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
            return _ENCODER.encode(_SessionUpdate(event.model))


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
    match event:
        case _Delta():
            return TextDelta(0, event.delta)
        case _Done():
            wire = event.usage or _Usage()
            usage = Usage(wire.prompt_tokens, wire.completion_tokens or 0, wire.audio_seconds)
            return UtteranceDone(0, event.text, usage)
        case _Error():
            return ErrorOccurred(event.code or "processing_error", event.error)
        case _:
            return SessionCreated(event.id, event.created)


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
