"""How long a message may be that is not audio. Sans-IO.

Audio is decoded into one `bytes` object, whatever its length. Everything else becomes objects of
Python, and 16 MiB of `[[],[],[],...` become 400 MiB of them in two seconds that no other
session gets.
"""

from typing import Final

import msgspec

from realtimed.errors import InvalidEvent

MAX_BYTES_BESIDES_AUDIO: Final = 65_536


class _Large(msgspec.Struct, gc=False):
    """Nothing of it is built: `Raw` is a view of the message."""

    audio: msgspec.Raw = msgspec.Raw(b"")


_LARGE = msgspec.json.Decoder(_Large)


def check_size(message: str | bytes) -> None:
    """Pass every message whose length is that of its audio.

    Raises: `InvalidEvent` for one with more than 64 KiB of anything else.
    """
    if len(message) <= MAX_BYTES_BESIDES_AUDIO:
        return
    try:
        audio = bytes(_LARGE.decode(message).audio)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        audio = b""
    # The audio is base64, so it has as many bytes as characters.
    besides = len(message) - len(audio) if audio.startswith(b'"') else len(message)
    if besides > MAX_BYTES_BESIDES_AUDIO:
        raise InvalidEvent("The event is too long: expected at most 64 KiB besides `audio`.")
