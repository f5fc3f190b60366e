"""Finding out which dialect is spoken, where the upgrade does not say. Sans-IO.

`/v1/realtime` is the path of vLLM's dialect and of OpenAI's, and some clients of either give no
sign in their upgrade. So the first message goes out as a `session.created` that all of them take,
and the client's first decisive message chooses. Audio that comes before is held: which format it
has depends on the choice.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import msgspec

from realtimed.errors import BufferOverflow
from realtimed.wire.codec import Codec, Opening
from realtimed.wire.events import ServerEvent, SessionCreated

_HELD_BYTES: Final = 5 * 24_000 * 2 * 2
"""Five seconds of audio at 24 kHz, in base64 and then some."""

_LEAST_BYTES: Final = 512
"""What a held message counts at least: a flood of empty ones must not be handled at once."""

MakeCodec = Callable[[Opening], Codec]
"""Makes the codec of one connection."""


class _Peek(msgspec.Struct, gc=False):
    """Of what may be of any size, nothing is built."""

    type: str = ""
    session: msgspec.Raw = msgspec.Raw(b"")
    model: msgspec.Raw = msgspec.Raw(b"null")


_PEEK = msgspec.json.Decoder(_Peek)


class Undecided:
    """The dialect of a connection until it is known; `chosen` is set by the message that tells."""

    NAME: ClassVar = "undecided"

    def __init__(
        self, opening: Opening, vllm: MakeCodec, openai: MakeCodec, openai_beta: MakeCodec
    ) -> None:
        self._opening = opening
        self._vllm, self._openai, self._openai_beta = vllm, openai, openai_beta
        self._held: list[str | bytes] = []
        self._held_bytes = 0
        self.chosen: Codec | None = None

    def sort_out(self, message: str | bytes) -> Sequence[str | bytes]:
        """The messages to read in the dialect that is `chosen` now, in order; none before that.

        `message` is text, or raw audio. Raises: `BufferOverflow` for too much audio before any
        other message.
        """
        choice = None if isinstance(message, bytes) else self._choice(message)
        if choice is None:
            self._hold(message)
            return ()
        self.chosen = choice(self._opening)
        held, self._held = self._held, []
        return [*held, message]

    def encode(self, event: ServerEvent) -> Sequence[bytes]:
        """A hello with the fields of both dialects; anything else as vLLM's has it."""
        if not isinstance(event, SessionCreated):
            return self._vllm(self._opening).encode(event)
        (theirs,) = self._openai(self._opening).encode(event)
        hello = msgspec.json.decode(theirs)
        return (msgspec.json.encode({**hello, "id": event.id, "created": event.created}),)

    def _choice(self, message: str) -> MakeCodec | None:
        """The dialect that a message belongs to; `None` for audio, which may be of either."""
        try:
            peek = _PEEK.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self._vllm
        if peek.type == "input_audio_buffer.append":
            return None
        if peek.type == "transcription_session.update":
            return self._openai_beta
        nested = peek.type == "session.update" and bytes(peek.session).startswith(b"{")
        if nested and bytes(peek.model) == b"null":
            return self._openai
        return self._openai if peek.type == "input_audio_buffer.clear" else self._vllm

    def _hold(self, message: str | bytes) -> None:
        self._held_bytes += max(len(message), _LEAST_BYTES)
        if self._held_bytes > _HELD_BYTES:
            raise BufferOverflow(
                "Five seconds of audio came before anything that says how to read it: send "
                "session.update first."
            )
        self._held.append(message)
