"""What a dialect is: bytes of one connection to and from the neutral events. Sans-IO."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from realtimed.wire.events import ClientEvent, Configure, ServerEvent
from realtimed.wire.guidance import ONLY_WORDS, Served


@dataclass(frozen=True, slots=True)
class Opening:
    """What a dialect may want to know of the connection it speaks on."""

    session_id: str
    """`sess-` and 16 hexadecimal digits."""
    created: int
    """Seconds since the epoch."""
    served_names: tuple[str, ...]
    """Names of the served model; the first is its proper one."""
    requested_model: str = ""
    """`model` of the URL's query, or empty."""
    strict_model_names: bool = False
    """Whether a name that is not served is an error, rather than another name of what is."""
    served: Served = ONLY_WORDS
    """What the model can be asked for."""


class Codec(Protocol):
    """One connection's dialect: it keeps what its wire format needs to remember, and no rules."""

    NAME: ClassVar[str]
    BEGINS_BY_AUDIO: ClassVar[bool]
    """Whether audio begins an utterance without being told to, where speech does not."""

    def configuration(self) -> Configure | None:
        """What holds before the client says anything; `None`: it has to say something first."""

    def decode(self, message: str | bytes) -> Sequence[ClientEvent]:
        """What one message asks for, in order.

        Raises: a `WireError` for what is wrong with it; `encode` spells that as well.
        """

    def encode(self, event: ServerEvent) -> Sequence[bytes]:
        """The messages that tell the client of an event; none if its dialect has no words."""
