"""The dialect of Mistral's realtime transcription, the server's end.

Wire format: `mistralai/extra/realtime` and the models it names, of mistralai 3.7.0. Its clients
lose an event that their models do not take without a word, so the fields here are exactly those,
and integers where those are integers.

Utterances have no names on the wire; a client knows them by their order. `input_audio.flush` ends
one and the session goes on; `input_audio.end` ends the last, and the connection after it. Each is
told in one `transcription.done`, with the text since the one before: the text of an utterance
begins without a space, and so does its first delta.

With `turn_detection`, speech delimits utterances as well, but the SDK's `transcribe_stream` takes
the first `transcription.done` for the end of everything. So a turn that is complete is told in a
`transcription.segment`, and its text and usage are in the `done` of the next flush or end.

Errors have integer codes. The service documents 3051 (invalid arguments) and answers 3804 where
it waited too long; the others are ours, in the same two ranges: 305x is what the client did, and
380x what happened to the server.

====================  ====  ======================================================
invalid_event         3051  also: a session field that changes after audio started
unsupported_option    3051  an argument that is not served
invalid_json          3052
unknown_event         3053
invalid_audio         3054
model_not_found       3055
model_not_validated   3056
message_too_big       3057
processing_error      3800  and any code that is not in this table
engine_error          3801
engine_busy           3802
engine_unavailable    3803
idle_timeout          3804
buffer_overflow       3805
slow_reader           3806
draining              3807
====================  ====  ======================================================

Decoding is strict and happens in one pass, as in `vllm.py`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET

from realtimed.errors import InvalidAudio, InvalidEvent, InvalidJson, UnknownEvent, WireError
from realtimed.wire import mistral_session
from realtimed.wire.codec import Opening
from realtimed.wire.events import (
    NO_GUIDANCE,
    Append,
    AudioFormat,
    Cleared,
    ClientEvent,
    Commit,
    Committed,
    Configure,
    ErrorOccurred,
    Finish,
    ServerEvent,
    ServerVad,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    UtteranceDone,
    Warned,
)
from realtimed.wire.mistral_text import Stretch
from realtimed.wire.vllm_options import shown

MAX_APPEND_BYTES: Final = 262_144
"""The most that one `input_audio.append` may hold, once decoded."""
ERROR_CODES: Final = {
    "invalid_event": 3051,
    "unsupported_option": 3051,
    "invalid_json": 3052,
    "unknown_event": 3053,
    "invalid_audio": 3054,
    "model_not_found": 3055,
    "model_not_validated": 3056,
    "message_too_big": 3057,
    "processing_error": 3800,
    "engine_error": 3801,
    "engine_busy": 3802,
    "engine_unavailable": 3803,
    "idle_timeout": 3804,
    "buffer_overflow": 3805,
    "slow_reader": 3806,
    "draining": 3807,
}
"""From the codes of `errors.py` to those on the wire."""

# --- structs as they stand on the wire ----------------------------------------------------


class _SessionUpdate(msgspec.Struct, tag_field="type", tag="session.update", gc=False):
    session: dict[str, Any]


class _Append(msgspec.Struct, tag_field="type", tag="input_audio.append", gc=False):
    audio: bytes


class _Flush(msgspec.Struct, tag_field="type", tag="input_audio.flush", gc=False):
    pass


class _End(msgspec.Struct, tag_field="type", tag="input_audio.end", gc=False):
    pass


class _Session(msgspec.Struct, gc=False):
    request_id: str
    model: str
    audio_format: AudioFormat
    turn_detection: dict[str, Any] | None


class _SessionCreated(msgspec.Struct, tag_field="type", tag="session.created", gc=False):
    session: _Session


class _SessionUpdated(msgspec.Struct, tag_field="type", tag="session.updated", gc=False):
    session: _Session


class _Delta(msgspec.Struct, tag_field="type", tag="transcription.text.delta", gc=False):
    text: str


class _Language(msgspec.Struct, tag_field="type", tag="transcription.language", gc=False):
    audio_language: str


class _TurnStart(msgspec.Struct, tag_field="type", tag="turn.start", gc=False):
    time_s: float


class _TurnEnd(msgspec.Struct, tag_field="type", tag="turn.end", gc=False):
    time_s: float
    end_reason: Literal["threshold", "timeout"] = "threshold"


class _ErrorDetail(msgspec.Struct, gc=False):
    message: str
    code: int


class _Error(msgspec.Struct, tag_field="type", tag="error", gc=False):
    error: _ErrorDetail


class _Peek(msgspec.Struct, gc=False):
    """What is needed to say why a message failed."""

    type: Any = None
    audio: Any = None


_CLIENT = msgspec.json.Decoder(_SessionUpdate | _Append | _Flush | _End)
_PEEK = msgspec.json.Decoder(_Peek)
_ENCODER = msgspec.json.Encoder()
_CLIENT_TYPES: Final = (
    "session.update",
    "input_audio.append",
    "input_audio.flush",
    "input_audio.end",
)
_TOO_DEEP: Final = "The event is nested too deeply."
_NO_JSON: Final = "Invalid JSON: expected one JSON object per text message."
_TOO_LATE: Final = "Session fields cannot be changed after audio has started."

# --- the codec ----------------------------------------------------------------------------


class MistralCodec:
    """The dialect on one connection: what the session is set to, and what is yet to be told."""

    NAME: ClassVar = "mistral"
    BEGINS_BY_AUDIO: ClassVar = True

    def __init__(self, opening: Opening) -> None:
        """`opening`: its `session_id` is the `request_id`."""
        self._opening = opening
        self._model = _shown_model(opening)
        self._format = AudioFormat()
        self._turn_detection: ServerVad | None = None
        self._guidance = NO_GUIDANCE
        self._language: str | None = None
        """The language that the client has been told."""
        self._heard = False
        """Whether audio has come."""
        self._stretch = Stretch()
        self._committed: int | None = None
        """The utterance that ended last: a turn that stops after it was ended by a flush."""

    def configuration(self) -> Configure:
        """Everything holds without being asked for; many clients never send `session.update`.

        The model is chosen in the URL. Only where names are strict does it matter which.
        """
        named = self._opening.requested_model if self._opening.strict_model_names else ""
        return Configure(named, turn_detection=None, audio_format=AudioFormat())

    def decode(self, message: str | bytes) -> Sequence[ClientEvent]:
        """What one message asks for; an append without audio asks for nothing.

        Raises: `InvalidJson`, `InvalidEvent`, `UnknownEvent`, `InvalidAudio` or
        `UnsupportedOption`; nothing has been changed then.
        """
        try:
            event = _CLIENT.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _explain(message) from error
        if type(event) is _Append:
            return self._append(event.audio)
        if type(event) is _Flush:
            return (Commit(final=True),)
        if type(event) is _End:
            return (Finish(),)
        assert type(event) is _SessionUpdate
        return self._update(event.session)

    def encode(self, event: ServerEvent) -> Sequence[bytes]:
        """The messages that tell of an event, as the UTF-8 JSON of text messages."""
        return [_ENCODER.encode(one) for one in self._to_wire(event)]

    def _append(self, audio: bytes) -> Sequence[ClientEvent]:
        if not audio:
            return ()
        if len(audio) > MAX_APPEND_BYTES:
            raise InvalidAudio(
                f"Invalid audio data: at most {MAX_APPEND_BYTES} bytes per append, decoded; "
                "the chunk was dropped."
            )
        self._heard = True
        return (Append(audio),)

    def _update(self, session: dict[str, Any]) -> Sequence[ClientEvent]:
        asked = mistral_session.read(session, self._opening.served, self._guidance)
        audio_format = self._format if asked.audio_format is UNSET else asked.audio_format
        turns = self._turn_detection if asked.turn_detection is UNSET else asked.turn_detection
        now = (self._format, self._turn_detection, self._guidance)
        if self._heard and (audio_format, turns, asked.guidance) != now:
            raise InvalidEvent(_TOO_LATE)
        self._format, self._turn_detection = audio_format, turns
        told, self._guidance = self._guidance, asked.guidance
        return (
            Configure(
                "",
                turn_detection=asked.turn_detection,
                audio_format=asked.audio_format,
                guidance=UNSET if asked.guidance == told else asked.guidance,
            ),
        )

    def _to_wire(self, event: ServerEvent) -> Sequence[msgspec.Struct]:
        match event:
            case TextDelta():
                text = self._stretch.delta(event)
                return [_Delta(text)] if text else []
            case UtteranceDone():
                return [*self._of_language(event.language), *self._done(event)]
            case SpeechStarted() | SpeechStopped():
                return [self._turn(event)]
            case ErrorOccurred():
                return [self._error(event)]
            case SessionCreated():
                return [_SessionCreated(self._session(AudioFormat(), None))]
            case SessionUpdated():
                return [_SessionUpdated(self._session(self._format, self._turn_detection))]
            case Committed():
                self._committed = event.utterance
                return []
            case Cleared() | Warned():
                return []

    def _turn(self, event: SpeechStarted | SpeechStopped) -> msgspec.Struct:
        at = round(event.at, 3)
        if isinstance(event, SpeechStarted):
            self._stretch.started[event.utterance] = event.at
            return _TurnStart(at)
        if event.utterance != self._committed:
            self._stretch.stopped[event.utterance] = event.at
        return _TurnEnd(at)

    def _session(self, audio_format: AudioFormat, turns: ServerVad | None) -> _Session:
        spelt = mistral_session.turn_detection_to_wire(turns)
        return _Session(self._opening.session_id, self._model, audio_format, spelt)

    def _of_language(self, language: str | None) -> Sequence[msgspec.Struct]:
        """Told before the text that is in it, whenever it is another one."""
        if language is None or language == self._language:
            return []
        self._language = language
        return [_Language(language)]

    def _done(self, event: UtteranceDone) -> Sequence[msgspec.Struct]:
        of_a_turn = event.utterance in self._stretch.stopped
        segment = self._stretch.add(event)
        if of_a_turn:
            return [segment] if segment.text else []
        stretch, self._stretch = self._stretch, self._stretch.following()
        return [stretch.done(self._model, event.language)]

    def _error(self, event: ErrorOccurred) -> _Error:
        if event.utterance is not None:
            self._stretch.drop(event.utterance)
        code = ERROR_CODES.get(event.code, ERROR_CODES["processing_error"])
        return _Error(_ErrorDetail(event.message, code))


def _shown_model(opening: Opening) -> str:
    """The name to tell: the one asked for where it is served, and never a path of the server."""
    if opening.requested_model in opening.served_names:
        return opening.requested_model
    public = (name for name in opening.served_names if not name.startswith("/"))
    return next(public, opening.requested_model or "default")


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
        kind = shown(peek.type) if isinstance(peek.type, str) else "(no string)"
        return UnknownEvent(f"Unknown event type: {kind}. Expected {', '.join(_CLIENT_TYPES)}.")
    if peek.type == "input_audio.append":
        if isinstance(peek.audio, str):
            return InvalidAudio("Invalid audio data: `audio` is not strict standard base64.")
        return InvalidEvent("Invalid field: `audio` must be a base64 string.")
    if peek.type == "session.update":
        return InvalidEvent("Invalid field: `session` must be an object of JSON values.")
    return InvalidEvent("The event is malformed.")
