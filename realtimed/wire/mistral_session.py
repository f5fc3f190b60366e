"""The options of a `session.update` in Mistral's dialect: what is served, and what is refused.

What would change the events is honest, as in `vllm_options.py`: asking for something that is not
served is an error that names it, and asking for nothing (null, false, empty) gets no answer. Hints
that concern only the quality of a transcript are taken without effect, since agents take an error
as the end; the session that they are told does not have them.

`turn_detection` is Mistral's own: `start_threshold` and `min_silence_ms` are served. The other
members can only be what they are by default here, which is what the SDK fills in: the detector
has its own hysteresis in place of `end_threshold`, and neither ends a turn eagerly nor by
timeout. The functions take JSON as Python objects.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from realtimed.errors import InvalidEvent, UnsupportedOption
from realtimed.wire.events import ENCODINGS, NO_GUIDANCE, AudioFormat, Guidance, ServerVad
from realtimed.wire.guidance import ONLY_WORDS, Served, wished
from realtimed.wire.vllm_options import shown

MIN_RATE: Final = 8_000
MAX_RATE: Final = 48_000
"""Sample rates that are served, in Hz."""

_SERVED: Final = ("audio_format", "turn_detection")
_HINTS: Final = ("language", "context_bias", "target_streaming_delay_ms")
_THRESHOLD: Final = Annotated[float, Meta(gt=0, lt=1)]
_SILENCE: Final = Annotated[int, Meta(ge=100, le=10_000)]
_UNSERVED_DEFAULTS: Final[dict[str, float | None]] = {
    "eager_end_threshold": 0.5,
    "end_threshold": 0.33,
    "end_timeout_ms": None,
}


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a valid `session.update` asks for; `UNSET` leaves a thing as it is."""

    audio_format: AudioFormat | UnsetType = UNSET
    turn_detection: ServerVad | UnsetType | None = UNSET
    guidance: Guidance = NO_GUIDANCE


def read(
    session: Mapping[str, Any], served: Served = ONLY_WORDS, guidance: Guidance = NO_GUIDANCE
) -> Asked:
    """Read the `session` of a `session.update`, whose `guidance` has been so far what is given.

    Raises: `InvalidEvent`, `UnsupportedOption`.
    """
    for name, value in session.items():
        if name not in (*_SERVED, *_HINTS) and not _asks_nothing(value):
            raise UnsupportedOption(
                f"Unsupported option: `{shown(name)}`. Served here: {' and '.join(_SERVED)}; "
                "leave the rest out."
            )
    return Asked(
        audio_format=_audio_format(session.get("audio_format")),
        turn_detection=_turn_detection(session.get("turn_detection", UNSET)),
        guidance=_guidance(session, served, guidance),
    )


def _guidance(session: Mapping[str, Any], served: Served, now: Guidance) -> Guidance:
    """What holds of the hints that the model can follow; the others have no effect."""
    language = session.get("language", now.language)
    words = session.get("context_bias", now.hotwords) or ()
    if not isinstance(language, str):
        language = None
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        words = ()
    told = wished(served, language, hotwords=tuple(words))
    return now if isinstance(told, UnsetType) else told


def turn_detection_to_wire(value: ServerVad | None) -> dict[str, Any] | None:
    """What holds, in Mistral's names and with its defaults spelt out; `None`: off."""
    if value is None:
        return None
    return {
        "start_threshold": value.threshold,
        "min_silence_ms": value.silence_duration_ms,
        **_UNSERVED_DEFAULTS,
    }


def _asks_nothing(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _audio_format(value: Any) -> AudioFormat | UnsetType:
    if value is None:
        return UNSET
    if not isinstance(value, dict):
        raise InvalidEvent("Invalid field: `audio_format` must be an object.")
    for name, given in value.items():
        if name == "channels" and given == 1 and given is not True:
            continue
        if name not in ("encoding", "sample_rate") and not _asks_nothing(given):
            raise UnsupportedOption(
                f"Unsupported option: `audio_format.{shown(name)}`. Audio is mono, and "
                "served here are encoding and sample_rate."
            )
    return AudioFormat(_encoding(value.get("encoding")), _sample_rate(value.get("sample_rate")))


def _encoding(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidEvent("Invalid field: `audio_format.encoding` must be a string.")
    if value not in ENCODINGS:
        raise UnsupportedOption(
            f"Unsupported option: audio_format.encoding `{shown(value)}`."
            f" Served here: {', '.join(ENCODINGS)}."
        )
    return value


def _sample_rate(value: Any) -> int:
    rate = _convert(value, int, "audio_format.sample_rate", "an integer number of Hz")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UnsupportedOption(
            f"Unsupported option: audio_format.sample_rate {rate}."
            f" Served here: {MIN_RATE} to {MAX_RATE} Hz."
        )
    return int(rate)


def _turn_detection(value: Any) -> ServerVad | UnsetType | None:
    if isinstance(value, UnsetType) or value is None:
        return value
    if not isinstance(value, dict):
        raise InvalidEvent("Invalid field: `turn_detection` must be null or an object.")
    vad = ServerVad()
    threshold, silence_ms = vad.threshold, vad.silence_duration_ms
    for name, given in value.items():
        where = f"turn_detection.{shown(name)}"
        if given is None:
            continue
        if name == "start_threshold":
            threshold = _convert(given, _THRESHOLD, where, "a number above 0 and below 1")
        elif name == "min_silence_ms":
            silence_ms = _convert(given, _SILENCE, where, "an integer from 100 to 10000")
        elif name not in _UNSERVED_DEFAULTS or given != _UNSERVED_DEFAULTS[name]:
            raise _not_served(name, where)
    return ServerVad(threshold=threshold, silence_duration_ms=silence_ms)


def _not_served(name: str, where: str) -> UnsupportedOption:
    default = _UNSERVED_DEFAULTS.get(name)
    leave = "leave it out" if default is None else f"leave it out or at {default}"
    return UnsupportedOption(
        f"Unsupported option: `{where}`: {leave}. Served here: start_threshold and min_silence_ms."
    )


def _convert(value: Any, kind: Any, where: str, words: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise InvalidEvent(f"Invalid field: `{where}` must be {words}.") from None
