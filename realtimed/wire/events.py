"""The neutral events: what a client can ask for and what a server can say, in no dialect.

`session.py` and everything above it speak only these. A dialect module (`vllm.py` and its
siblings to come) spells them as bytes. Units: seconds are floats, audio is raw bytes in the
format of the session until `audio/` has decoded it.
"""

import msgspec


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of all neutral events."""


# --- client to server --------------------------------------------------------------------


class Configure(Event, frozen=True, gc=False):
    """Choose the model of the session. The empty string means the served default."""

    model: str


class Append(Event, frozen=True, gc=False):
    """More audio: raw bytes in the session's format, never empty."""

    audio: bytes


class Commit(Event, frozen=True, gc=False):
    """`final=False`: an utterance begins. `final=True`: the utterance ends here."""

    final: bool = False


ClientEvent = Configure | Append | Commit


# --- server to client --------------------------------------------------------------------


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What an utterance cost, summed over its segments."""

    prompt_tokens: int
    completion_tokens: int
    audio_seconds: float


class SessionCreated(Event, frozen=True, gc=False):
    """The session exists. `created` is seconds since the epoch."""

    id: str
    created: int


class TextDelta(Event, frozen=True, gc=False):
    """Text to append to the utterance's; never empty, never retracted."""

    utterance: int
    text: str


class UtteranceDone(Event, frozen=True, gc=False):
    """The one good end of an utterance. `text` equals the joined deltas."""

    utterance: int
    text: str
    usage: Usage


class ErrorOccurred(Event, frozen=True, gc=False):
    """An error event. With `utterance` set it is that utterance's one bad end."""

    code: str
    message: str
    utterance: int | None = None


ServerEvent = SessionCreated | TextDelta | UtteranceDone | ErrorOccurred
