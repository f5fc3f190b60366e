"""What a session is set to, in the words of OpenAI's Realtime API.

Do no harm: clients such as LiveKit and pipecat take an `error` as the end, so what concerns only
the quality of a transcript (language, prompt, keywords, delay, noise reduction) is accepted and
echoed in the session object. Language, prompt and keywords have an effect where the model takes
them, the others have none. What is echoed of
turn detection and of the audio's format is what holds: `semantic_vad` is served as `server_vad`
with its defaults, and values beyond the limits served are drawn to them.

Only what is present changes, member by member; `null` clears, or brings the default back.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from realtimed.errors import ModelNotFound, UnsupportedOption
from realtimed.wire import events
from realtimed.wire.codec import Opening
from realtimed.wire.events import AudioFormat, Configure, Guidance, ServerVad
from realtimed.wire.guidance import wished
from realtimed.wire.vllm_options import shown

LOGPROBS: Final = "item.input_audio_transcription.logprobs"
"""What `include` may name."""
LIFETIME_S: Final = 24 * 3_600
"""`expires_at` has to be a number (seconds since the epoch), but sessions do not expire."""
PCM: Final = AudioFormat("pcm_s16le", 24_000)

_NO_VAD_MODELS: Final = ("gpt-realtime-whisper", "gpt-live-transcribe")
_G711: Final = {
    "audio/pcmu": AudioFormat("pcm_mulaw", 8_000),
    "audio/pcma": AudioFormat("pcm_alaw", 8_000),
}
_LONGEST_ECHO: Final = 4_096
_MOST_ECHOED: Final = 100

_Text = str | UnsetType | None
_Texts = tuple[str, ...] | UnsetType | None
_Milliseconds = Annotated[float, Meta(ge=0)]


# --- a change, as it stands on the wire ----------------------------------------------------


class Transcription(Struct, frozen=True):
    """`audio.input.transcription`; only the model matters, the rest is echoed."""

    model: _Text = UNSET
    language: _Text = UNSET
    languages: _Texts = UNSET
    prompt: _Text = UNSET
    keywords: _Texts = UNSET
    delay: _Text = UNSET


class NoiseReduction(Struct, frozen=True):
    """`audio.input.noise_reduction`; it is echoed and has no effect."""

    type: _Text = UNSET
    strength: float | UnsetType | None = UNSET


class Format(Struct, frozen=True):
    """`audio.input.format`. `rate` is in Hz, and there for `audio/pcm` only."""

    type: str | None = None
    rate: float | None = None
    channels: int | None = None
    """Not one of the API's; whoever sends it must not be misheard."""


class TurnDetection(Struct, frozen=True):
    """`audio.input.turn_detection`; members of no concern to a transcription are left out."""

    type: str | None = None
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    prefix_padding_ms: _Milliseconds | None = None
    silence_duration_ms: _Milliseconds | None = None


class AudioInput(Struct, frozen=True):
    """`audio.input`."""

    format: Format | UnsetType | None = UNSET
    noise_reduction: NoiseReduction | UnsetType | None = UNSET
    transcription: Transcription | UnsetType | None = UNSET
    turn_detection: TurnDetection | UnsetType | None = UNSET


class Audio(Struct, frozen=True):
    """`audio`; only its input concerns a transcription."""

    input: AudioInput | None = None


class SessionPatch(Struct, frozen=True):
    """`session` of a `session.update`; members that are not known are passed over."""

    type: str | None = None
    include: tuple[str, ...] | UnsetType | None = UNSET
    audio: Audio | None = None


# --- what holds ---------------------------------------------------------------------------


class Settings(Struct, frozen=True):
    """What holds for a session, and what its client was told holds."""

    opening: Opening
    turn_detection: ServerVad | None
    chosen: bool = False
    """Whether the client ever said anything of turn detection."""
    audio_format: AudioFormat = PCM
    transcription: Transcription | None = Transcription()
    noise_reduction: NoiseReduction | None = None
    include: tuple[str, ...] | None = None

    @property
    def model(self) -> str:
        """The model that the client asked for, in the session or the URL; may be empty."""
        return (self.transcription and self.transcription.model) or self.opening.requested_model

    @property
    def strict_model(self) -> str:
        """The model to insist on: none, where every name is another name of what is served."""
        return self.model if self.opening.strict_model_names else ""

    def configure(self) -> Configure:
        """All of it, for the session."""
        return Configure(
            self.strict_model,
            turn_detection=self.turn_detection,
            include=frozenset({events.LOGPROBS} if self.include else ()),
            audio_format=self.audio_format,
            guidance=self._guidance(),
        )

    def _guidance(self) -> Guidance | UnsetType:
        """What of the client's wishes the model can follow."""
        wish = self.transcription or Transcription()
        language = wish.language
        if not language and wish.languages and len(wish.languages) == 1:
            [language] = wish.languages
        return wished(self.opening.served, language, wish.prompt, wish.keywords)

    def updated(self, patch: SessionPatch) -> "Settings":
        """What holds once the client's change is made.

        Raises: `UnsupportedOption`, `ModelNotFound`; nothing is to change then.
        """
        if patch.type is not None and patch.type != "transcription":
            raise UnsupportedOption(
                f"Unsupported option: a session of type `{shown(patch.type)}`."
                " Served here: transcription."
            )
        audio = (patch.audio and patch.audio.input) or AudioInput()
        new = structs.replace(
            self,
            audio_format=_or(audio.format, self.audio_format, _audio_format),
            transcription=_merged(self.transcription, audio.transcription, Transcription()),
            noise_reduction=_merged(self.noise_reduction, audio.noise_reduction, NoiseReduction()),
            include=_or(patch.include, self.include, _included),
        )
        if new.strict_model and new.strict_model not in self.opening.served_names:
            raise ModelNotFound(
                f"The model `{shown(new.strict_model)}` does not exist."
                f" Served here: {', '.join(_public(self.opening)) or 'the default'}."
            )
        return new._detecting(audio.turn_detection)

    def _detecting(self, given: TurnDetection | UnsetType | None) -> "Settings":
        if not isinstance(given, UnsetType):
            vad = _server_vad(given, self.turn_detection or ServerVad())
            return structs.replace(self, turn_detection=vad, chosen=True)
        if self.chosen:
            return self
        return structs.replace(self, turn_detection=_default_vad(self.model))


def settings(opening: Opening) -> Settings:
    """What holds before the client says anything."""
    return Settings(opening, _default_vad(opening.requested_model))


def session_id(opening: Opening) -> str:
    """The session's name as OpenAI's clients expect it: `sess_` and 16 hexadecimal digits."""
    return "sess_" + digits(opening)


def digits(opening: Opening) -> str:
    """What is the session's own in its name."""
    return opening.session_id.removeprefix("sess-")


def session_object(now: Settings) -> dict[str, Any]:
    """The session object of `session.created` and `session.updated`."""
    return {
        "id": session_id(now.opening),
        "object": "realtime.transcription_session",
        "type": "transcription",
        "audio": {
            "input": {
                "format": _format_to_wire(now.audio_format),
                "noise_reduction": now.noise_reduction,
                "transcription": transcription_to_wire(now),
                "turn_detection": turn_detection_to_wire(now.turn_detection),
            }
        },
        "expires_at": now.opening.created + LIFETIME_S,
        "include": now.include,
    }


def transcription_to_wire(now: Settings) -> Transcription | None:
    """The member `transcription`, with the name of the model by which it was asked for."""
    if now.transcription is None:
        return None
    return structs.replace(now.transcription, model=now.model or next(_public(now.opening), None))


def turn_detection_to_wire(vad: ServerVad | None) -> dict[str, Any] | None:
    """The member `turn_detection`, with its defaults spelt out."""
    return None if vad is None else {"type": "server_vad", **structs.asdict(vad)}


def _public(opening: Opening) -> Iterator[str]:
    """The served names; a model that has none is served by its path, which nobody is told."""
    return (name for name in opening.served_names if not name.startswith("/"))


# --- reading a change ---------------------------------------------------------------------

_Any = TypeVar("_Any")
_Echo = TypeVar("_Echo", Transcription, NoiseReduction)


def _or(given: Any, current: _Any, read: Any) -> _Any:
    """What is given, read; or what holds, if nothing is."""
    result: _Any = current if given is UNSET else read(given)
    return result


def _default_vad(model: str) -> ServerVad | None:
    return None if model.startswith(_NO_VAD_MODELS) else ServerVad()


def _server_vad(given: TurnDetection | None, current: ServerVad) -> ServerVad | None:
    if given is None:
        return None
    if given.type == "semantic_vad":
        return ServerVad()
    if given.type not in (None, "server_vad"):
        raise UnsupportedOption(
            f"Unsupported option: turn_detection of type `{shown(given.type)}`."
            " Served here: server_vad, or null for none."
        )
    return ServerVad(
        _within(given.threshold, current.threshold, 0.01, 0.99),
        int(_within(given.prefix_padding_ms, current.prefix_padding_ms, 0, 5_000)),
        int(_within(given.silence_duration_ms, current.silence_duration_ms, 100, 10_000)),
    )


def _within(given: float | None, current: float, low: float, high: float) -> float:
    return current if given is None else min(max(given, low), high)


def _audio_format(given: Format | None) -> AudioFormat:
    if given is not None and given.channels not in (None, 1):
        raise UnsupportedOption("Unsupported option: `channels`. Audio is mono: send one channel.")
    if given is None or given.type in (None, "audio/pcm"):
        rate = PCM.sample_rate if given is None or given.rate is None else given.rate
        if not 8_000 <= rate <= 48_000 or rate != int(rate):
            raise UnsupportedOption(
                "Unsupported option: `rate` of audio/pcm. Served here: 24000, and any whole"
                " number of Hz from 8000 to 48000."
            )
        return AudioFormat(PCM.encoding, int(rate))
    assert given.type is not None
    if given.type not in _G711:
        raise UnsupportedOption(
            f"Unsupported option: audio of type `{shown(given.type)}`."
            f" Served here: audio/pcm, {', '.join(_G711)}."
        )
    return _G711[given.type]


def _format_to_wire(audio_format: AudioFormat) -> dict[str, Any]:
    for kind, g711 in _G711.items():
        if audio_format == g711:
            return {"type": kind}
    return {"type": "audio/pcm", "rate": audio_format.sample_rate}


def _included(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names that are not known include nothing."""
    return None if names is None else ((LOGPROBS,) if LOGPROBS in names else ())


def _merged(current: _Echo | None, given: _Echo | UnsetType | None, nothing: _Echo) -> _Echo | None:
    if isinstance(given, UnsetType):
        return current
    if given is None:
        return None
    members = structs.asdict(given).items()
    said = {name: _short(value) for name, value in members if value is not UNSET}
    return structs.replace(current or nothing, **said)


def _short(value: Any) -> Any:
    """What of a member is kept to be echoed; what is kept must not grow with what is sent."""
    if isinstance(value, str):
        return value[:_LONGEST_ECHO]
    if isinstance(value, tuple):
        return tuple(item[:_MOST_ECHOED] for item in value[:_MOST_ECHOED])
    return value
