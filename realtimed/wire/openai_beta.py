"""The beta shape of OpenAI's dialect, which older SDKs and agents still speak; the server's end.

Chosen by the header `OpenAI-Beta: realtime=v1`. The session is flat, three events have other
names, and there is no `conversation.item.done`; all else is as in `openai.py`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from realtimed.errors import UnsupportedOption
from realtimed.wire import openai_events as wire
from realtimed.wire import openai_session as options
from realtimed.wire.events import ServerEvent
from realtimed.wire.openai import (
    AppendEvent,
    ClearEvent,
    CommitEvent,
    OpenAICodec,
    SessionUpdateEvent,
)
from realtimed.wire.openai_session import Format, SessionPatch, Settings
from realtimed.wire.vllm_options import shown

_FORMATS: Final = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_ENCODINGS: Final = {
    "pcm_s16le": "pcm16",
    "pcm_mulaw": "g711_ulaw",
    "pcm_alaw": "g711_alaw",
}


class FlatSession(Struct, frozen=True):
    """`session` of a `transcription_session.update`."""

    input_audio_format: str | UnsetType | None = UNSET
    input_audio_transcription: options.Transcription | UnsetType | None = UNSET
    input_audio_noise_reduction: options.NoiseReduction | UnsetType | None = UNSET
    turn_detection: options.TurnDetection | UnsetType | None = UNSET
    include: tuple[str, ...] | UnsetType | None = UNSET


class TranscriptionSessionUpdateEvent(Struct, tag_field="type", tag="transcription_session.update"):
    session: FlatSession
    event_id: Any = None


class OpenAIBetaCodec(OpenAICodec):
    """The dialect on one connection. An update of the GA shape is understood as well."""

    NAME: ClassVar[str] = "openai_beta"
    CLIENT: ClassVar[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(
        TranscriptionSessionUpdateEvent
        | SessionUpdateEvent
        | AppendEvent
        | CommitEvent
        | ClearEvent
    )
    CLIENT_TYPES: ClassVar[tuple[str, ...]] = (
        "transcription_session.update",
        *OpenAICodec.CLIENT_TYPES,
    )

    def patch(self, event: Any) -> SessionPatch:
        """See `OpenAICodec.patch`."""
        if type(event) is not TranscriptionSessionUpdateEvent:
            return super().patch(event)
        flat = event.session
        audio = options.AudioInput(
            format=_format(flat.input_audio_format),
            noise_reduction=flat.input_audio_noise_reduction,
            transcription=flat.input_audio_transcription,
            turn_detection=flat.turn_detection,
        )
        return SessionPatch(include=flat.include, audio=options.Audio(audio))

    def session_created(self, event_id: str, now: Settings) -> Struct:
        """See `OpenAICodec.session_created`."""
        return wire.TranscriptionSessionCreated(event_id, session_object(now))

    def session_updated(self, event_id: str, now: Settings) -> Struct:
        """See `OpenAICodec.session_updated`."""
        return wire.TranscriptionSessionUpdated(event_id, session_object(now))

    def messages(self, event: ServerEvent) -> Sequence[Struct]:
        """See `OpenAICodec.messages`."""
        return [
            _older(message)
            for message in super().messages(event)
            if not isinstance(message, wire.ItemDone)
        ]


def session_object(now: Settings) -> dict[str, Any]:
    """The flat session object."""
    return {
        "id": options.session_id(now.opening),
        "object": "realtime.transcription_session",
        "input_audio_format": _ENCODINGS[now.audio_format.encoding],
        "input_audio_transcription": options.transcription_to_wire(now),
        "input_audio_noise_reduction": now.noise_reduction,
        "turn_detection": options.turn_detection_to_wire(now.turn_detection),
        "expires_at": now.opening.created + options.LIFETIME_S,
        "include": now.include,
    }


def _older(message: Struct) -> Struct:
    if isinstance(message, wire.ItemAdded):
        return wire.ItemCreated(message.event_id, message.previous_item_id, message.item)
    return message


def _format(name: str | UnsetType | None) -> Format | UnsetType | None:
    if name is None or isinstance(name, UnsetType):
        return name
    if name not in _FORMATS:
        raise UnsupportedOption(
            f"Unsupported option: input_audio_format `{shown(name)}`."
            f" Served here: {', '.join(_FORMATS)}."
        )
    return Format(_FORMATS[name])
