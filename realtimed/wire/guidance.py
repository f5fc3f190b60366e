"""What a client tells the recogniser of its speech: language, prompt, hotwords, temperature.

Which of them there are depends on the loaded model (`Served`). vLLM's dialect is honest about
options and refuses the others by name (`changed`). Clients of OpenAI and Mistral send such wishes
unasked, so there one that cannot be met has no effect (`wished`). The functions take JSON as Python
objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType, structs

from realtimed.errors import InvalidEvent, UnsupportedOption
from realtimed.wire.events import NO_GUIDANCE, WORDS, Guidance

_LONGEST_PROMPT: Final = 4_096
_MOST_HOTWORDS: Final = 100
_Prompt = Annotated[str, Meta(max_length=_LONGEST_PROMPT)]
_Hotword = Annotated[str, Meta(min_length=1, max_length=100)]
_Hotwords = Annotated[tuple[_Hotword, ...], Meta(max_length=_MOST_HOTWORDS)]
_KINDS: Final[dict[str, tuple[Any, str]]] = {
    "language": (str, "an ISO 639-1 code"),
    "prompt": (_Prompt, f"a string of at most {_LONGEST_PROMPT} characters"),
    "hotwords": (
        _Hotwords,
        f"a list of at most {_MOST_HOTWORDS} strings of 1 to 100 characters",
    ),
    "temperature": (Annotated[float, Meta(ge=0, le=2)], "a number from 0 to 2"),
}
NAMES: Final = tuple(_KINDS)
"""Fields of `Guidance`, and what a model has to take for each."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the loaded model can be asked for."""

    options: frozenset[str] = frozenset({WORDS})
    """Of `NAMES`, and `WORDS`."""
    languages: frozenset[str] = frozenset()
    """ISO 639-1 codes."""

    @property
    def names(self) -> list[str]:
        """The fields of a guidance that the model takes, in the order of `NAMES`."""
        return [name for name in NAMES if name in self.options]


ONLY_WORDS: Final = Served()


def changed(now: Guidance, fields: Mapping[str, Any], served: Served) -> Guidance:
    """What holds after those of `fields` that are `served`; null and empty bring defaults back.

    Raises: `InvalidEvent`, `UnsupportedOption`.
    """
    members = {name: _member(name, fields[name], served) for name in served.names if name in fields}
    return structs.replace(now, **members)


def to_wire(told: Guidance | UnsetType) -> dict[str, Any]:
    """The fields that make `changed` give `told`, whatever held before; none for `UNSET`."""
    if isinstance(told, UnsetType):
        return {}
    members = structs.asdict(told).items()
    return {name: None if value == getattr(NO_GUIDANCE, name) else value for name, value in members}


def wished(
    served: Served, language: Any = None, prompt: Any = None, hotwords: Any = None
) -> Guidance | UnsetType:
    """What of a client's wishes the model can follow; the rest has no effect.

    Of a language tag such as `en-US`, that is the language.
    """
    if not served.names:
        return UNSET
    code = language.replace("_", "-").partition("-")[0].lower() if language else None
    wishes = {
        "language": code if code in served.languages else None,
        "prompt": prompt,
        "hotwords": hotwords,
    }
    members = {name: wish for name, wish in wishes.items() if wish and name in served.options}
    return structs.replace(NO_GUIDANCE, **members)


def _member(name: str, value: Any, served: Served) -> Any:
    if value in (None, "", [], {}):
        return getattr(NO_GUIDANCE, name)
    if name == "hotwords" and isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    kind, words = _KINDS[name]
    try:
        member = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise InvalidEvent(f"Invalid field: `{name}` must be {words}.") from None
    if name == "language" and member not in served.languages:
        known = ", ".join(sorted(served.languages))
        raise UnsupportedOption(
            f"Unsupported option: a `{name}` that the model does not know. Served here: {known}."
        )
    return member
