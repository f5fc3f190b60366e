"""The options of a `session.update` in vLLM's dialect: what is served, and what is refused.

Options are honest: a client that asks for what this server does not do is told so instead of
being left to believe in it, with the name of the option and what is served in its place. A field
that asks for nothing, such as an empty `prompt`, is no question and gets no answer.

The names and defaults of `turn_detection` are those of OpenAI's Realtime API. The functions take
JSON as Python objects.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, UnsetType

from realtimed.errors import InvalidEvent, UnsupportedOption
from realtimed.wire import guidance
from realtimed.wire.events import WARNINGS, WORDS, ServerVad
from realtimed.wire.guidance import ONLY_WORDS, Served

INCLUDES: Final = (WORDS, WARNINGS)
"""What `include` may name."""

_SERVER_VAD: Final = "server_vad"
_FIELDS: Final = frozenset({"type", "event_id", "model", "turn_detection", "include"})
# Sent by clients of vLLM and of OpenAI whether or not they have something to put there.
_FIELDS_IF_EMPTY: Final = frozenset(
    {*guidance.NAMES, "timestamp_granularities", "timestamp_granularities[]"}
)
# OpenAI's clients send these with server_vad; they concern replies, and there are none.
_MEMBERS_IF_OFF: Final = frozenset({"create_response", "interrupt_response", "idle_timeout_ms"})
_MEMBERS: Final[dict[str, tuple[Any, str]]] = {
    "threshold": (Annotated[float, Meta(gt=0, lt=1)], "a number above 0 and below 1"),
    "prefix_padding_ms": (Annotated[int, Meta(ge=0, le=5_000)], "an integer from 0 to 5000"),
    "silence_duration_ms": (
        Annotated[int, Meta(ge=100, le=10_000)],
        "an integer from 100 to 10000",
    ),
}


def check_fields(fields: Mapping[str, Any], served: Served = ONLY_WORDS) -> None:
    """Look for fields of a `session.update` that ask for something unknown.

    Raises: `UnsupportedOption`.
    """
    for name, value in fields.items():
        if (
            name in _FIELDS
            or name in served.names
            or (name in _FIELDS_IF_EMPTY and value in (None, "", [], {}))
        ):
            continue
        raise UnsupportedOption(
            f"Unsupported option: `{shown(name)}`. Served here: "
            f"{_listed('model', 'turn_detection', 'include', *served.names)}; leave the rest out."
        )


def _listed(*names: str) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def turn_detection(value: Any) -> ServerVad | UnsetType | None:
    """Read the field `turn_detection`; `UNSET` stands for no such field.

    Raises: `InvalidEvent`, `UnsupportedOption`.
    """
    if isinstance(value, UnsetType) or value is None:
        return value
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise InvalidEvent(
            f"Invalid field: `turn_detection` must be null or an object of type {_SERVER_VAD}."
        )
    if kind != _SERVER_VAD:
        raise UnsupportedOption(
            f"Unsupported option: turn_detection of type `{shown(kind)}`."
            f" Served here: {_SERVER_VAD}, or null for none."
        )
    return ServerVad(**_vad_members(value))


def _vad_members(value: Mapping[str, Any]) -> dict[str, Any]:
    members = {}
    for name, given in value.items():
        if name in _MEMBERS:
            members[name] = _vad_member(name, given)
        elif name != "type" and not (name in _MEMBERS_IF_OFF and (given is None or given is False)):
            raise UnsupportedOption(
                f"Unsupported option: `turn_detection.{shown(name)}`."
                f" Served here: {', '.join(_MEMBERS)}."
            )
    return members


def _vad_member(name: str, given: Any) -> Any:
    kind, words = _MEMBERS[name]
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError:
        raise InvalidEvent(f"Invalid field: `turn_detection.{name}` must be {words}.") from None


def include(value: Any, served: Served = ONLY_WORDS) -> frozenset[str] | UnsetType:
    """Read the field `include`; `UNSET` stands for no such field, and null includes nothing.

    Raises: `InvalidEvent`, `UnsupportedOption`.
    """
    if isinstance(value, UnsetType):
        return value
    names: Any = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidEvent("Invalid field: `include` must be a list of strings.")
    known = [name for name in INCLUDES if name != WORDS or WORDS in served.options]
    for name in names:
        if name not in known:
            raise UnsupportedOption(
                f"Unsupported option: include `{shown(name)}`. Served here: {', '.join(known)}."
            )
    return frozenset(names)


def turn_detection_to_wire(value: ServerVad | UnsetType | None) -> Any:
    """The field as JSON, with its defaults spelt out."""
    if isinstance(value, ServerVad):
        return {"type": _SERVER_VAD, **msgspec.structs.asdict(value)}
    return value


def include_to_wire(value: frozenset[str] | UnsetType) -> Any:
    """The field as JSON, in an order that does not change."""
    return sorted(value) if isinstance(value, frozenset) else value


def shown(name: str) -> str:
    """A name that a client sent, fit for one line of a message."""
    plain = "".join(char if char.isprintable() else "�" for char in name[:64])
    return plain if len(name) <= 64 else plain[:-1] + "…"
