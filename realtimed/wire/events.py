"""The neutral events: what a client can ask for and what a server can say, in no dialect.

`session.py` and everything above it speak only these. A dialect module (`vllm.py` and its
siblings to come) spells them as bytes. Units: seconds are floats on the session's clock, which
counts the audio received; audio is raw bytes in the format of the session until `audio/` has
decoded it.
"""

from typing import Final

from msgspec import UNSET, Struct, UnsetType

WORDS: Final = "words"
"""Included: times on each `TextDelta`, and `UtteranceDone.words`."""
WARNINGS: Final = "warnings"
"""Included: `Warned` events."""
LOGPROBS: Final = "logprobs"
"""Included: `TextDelta.logprobs`, in the utterances that begin from then on."""
ENCODINGS: Final = ("pcm_s16le", "pcm_s32le", "pcm_f16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw")
"""How samples are encoded as bytes, in the names of FFmpeg."""


class Event(Struct, frozen=True, gc=False):
    """Base of all neutral events."""


# --- client to server --------------------------------------------------------------------


class ServerVad(Struct, frozen=True, gc=False):
    """Turns of speaking delimit the utterances; the Realtime API's names and defaults."""

    threshold: float = 0.5
    """Probability from which sound counts as speech."""
    prefix_padding_ms: int = 300
    """Audio before the onset of speech that belongs to the utterance."""
    silence_duration_ms: int = 500
    """Time without speech that ends the utterance."""


class AudioFormat(Struct, frozen=True, gc=False):
    """How the bytes of `Append` encode mono audio."""

    encoding: str = "pcm_s16le"
    """One of `ENCODINGS`."""
    sample_rate: int = 16_000
    """In Hz, 8,000 to 48,000."""


class Guidance(Struct, frozen=True, gc=False):
    """What a client tells the recogniser of its speech, as far as the model takes it."""

    language: str | None = None
    """ISO 639-1; `None`: the model is to find out."""
    prompt: str = ""
    """Text that sets the style, as if it had been said before."""
    hotwords: tuple[str, ...] = ()
    """Words to be expected."""
    temperature: float = 0.0
    """Of sampling; 0 is greedy."""


NO_GUIDANCE: Final = Guidance()


class Configure(Event, frozen=True, gc=False):
    """Choose the model of the session, and its options; `UNSET` leaves one as it is."""

    model: str
    """The empty string means the served default."""
    turn_detection: ServerVad | UnsetType | None = UNSET
    """`None`: commits alone delimit utterances."""
    include: frozenset[str] | UnsetType = UNSET
    """What to tell beyond text: names such as `WORDS`. Replaces what was included before."""
    audio_format: AudioFormat | UnsetType = UNSET
    """Of the audio that follows."""
    guidance: Guidance | UnsetType = UNSET
    """Of the utterances that begin from here on."""


class Append(Event, frozen=True, gc=False):
    """More audio: raw bytes in the session's format, never empty."""

    audio: bytes


class Commit(Event, frozen=True, gc=False):
    """`final=False`: an utterance begins. `final=True`: the utterance ends here."""

    final: bool = False


class Clear(Event, frozen=True, gc=False):
    """Forget the audio that no finished utterance has; the open utterance is given up unsaid."""


class Finish(Event, frozen=True, gc=False):
    """No more audio comes: the utterance ends here, and the connection once all is said."""


ClientEvent = Configure | Append | Commit | Clear | Finish


# --- server to client --------------------------------------------------------------------


class Usage(Struct, frozen=True, gc=False):
    """What an utterance cost, summed over its segments."""

    prompt_tokens: int
    completion_tokens: int
    audio_seconds: float
    lag_seconds: float = 0.0
    """Audio received but not yet recognised when the utterance was done."""


class Word(Struct, frozen=True, gc=False):
    """A recognised word and when it was spoken, in seconds on the session's clock."""

    word: str
    start: float
    end: float


class TokenLogprob(Struct, frozen=True, gc=False):
    """A token and the natural logarithm of its probability; tokens of one character are one."""

    token: str
    logprob: float


class SessionCreated(Event, frozen=True, gc=False):
    """The session exists. `created` is seconds since the epoch."""

    id: str
    created: int


class SessionUpdated(Event, frozen=True, gc=False):
    """A `Configure` has been carried out."""


class Committed(Event, frozen=True, gc=False):
    """The utterance takes no more audio; its text may go on."""

    utterance: int


class Cleared(Event, frozen=True, gc=False):
    """A `Clear` has been carried out."""


class TextDelta(Event, frozen=True, gc=False):
    """Text to append to the utterance's; never empty, never retracted."""

    utterance: int
    text: str
    start: float | None = None
    """When its first word was spoken; only where `WORDS` is included."""
    end: float | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Tokens that joined are the text; only where `LOGPROBS` is included."""


class UtteranceDone(Event, frozen=True, gc=False):
    """The one good end of an utterance. `text` equals the joined deltas."""

    utterance: int
    text: str
    usage: Usage
    words: tuple[Word, ...] | None = None
    """Only where `WORDS` is included."""
    language: str | None = None
    """The language that was detected or asked for, ISO 639-1, where the model tells it."""


class SpeechStarted(Event, frozen=True, gc=False):
    """With turn detection: somebody began to speak, `at` seconds on the session's clock."""

    utterance: int
    at: float


class SpeechStopped(Event, frozen=True, gc=False):
    """With turn detection: speech ended, `at` seconds on the session's clock."""

    utterance: int
    at: float


class Warned(Event, frozen=True, gc=False):
    """Something that a client may want to know and need not act on."""

    code: str
    message: str
    utterance: int | None = None
    deadline_s: float | None = None
    """Seconds until what is warned of happens, where that is known."""


class ErrorOccurred(Event, frozen=True, gc=False):
    """An error event. With `utterance` set it is that utterance's one bad end."""

    code: str
    message: str
    utterance: int | None = None


ServerEvent = (
    SessionCreated
    | SessionUpdated
    | Committed
    | Cleared
    | TextDelta
    | UtteranceDone
    | SpeechStarted
    | SpeechStopped
    | Warned
    | ErrorOccurred
)
