"""WebSocket frames of a client to messages (RFC 6455 section 5). Sans-IO.

wsproto knows the protocol and has the last word on all of it. But nearly every frame that a
speech client sends is a *plain* one: a whole masked message that does everything by the book. Those
are unmasked here, which takes a fifth of the time (docs/performance.md). Every other frame, and
everything from the first irregular byte on, goes through wsproto.
"""

from collections import deque
from enum import Enum
from typing import Final

import numpy as np
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)

Message = str | bytes
Control = Ping | Pong | CloseConnection


class Part(Enum):
    """What a frame was that says nothing by itself."""

    OF_MESSAGE = "of a message"


_TEXT: Final = 0x81
_BINARY: Final = 0x82
"""FIN, no reserved bit, and the opcode: the first byte of a plain frame."""
_FIN: Final = 0x80
_MASKED: Final = 0x80
_FIRST_CONTROL: Final = 0x8


class MessageTooBig(Exception):
    """The peer's message is longer than allowed."""


class FrameReader:
    """The server's end of one connection's framing, in both directions."""

    def __init__(self, max_message_bytes: int) -> None:
        """`max_message_bytes`: of one message, all its fragments together."""
        self._max = max_message_bytes
        self._wsproto = Connection(ConnectionType.SERVER)
        self._events: deque[Message | Control] = deque()
        self._parts: list[Message] = []
        self._parts_size = 0
        self.in_message = False
        """Whether a message has begun whose last fragment is not there yet."""
        self._data: bytes | bytearray = b""
        self._at = 0
        self._irregular = False
        """From here on wsproto alone reads: it will fail the connection, or has."""

    @property
    def open(self) -> bool:
        """Whether neither side has said that it closes."""
        return self._wsproto.state is ConnectionState.OPEN

    @property
    def closed(self) -> bool:
        """Whether both sides have said that they close."""
        return self._wsproto.state is ConnectionState.CLOSED

    def encode(self, event: Event) -> bytes:
        """Bytes to send for a wsproto event.

        Raises: `wsproto.utilities.LocalProtocolError` if it may not be sent any more.
        """
        return self._wsproto.send(event)

    def feed(self, data: bytes | bytearray) -> None:
        """Add received bytes; `next_event` tells what they say."""
        if self._at == len(self._data):
            self._data, self._at = data, 0
            return
        rest = self._data
        if not isinstance(rest, bytearray):
            rest = bytearray(rest)
        del rest[: self._at]
        rest += data
        self._data, self._at = rest, 0

    @property
    def partial(self) -> bool:
        """Whether a message or a frame has begun whose end is not there yet."""
        return self.in_message or self._at < len(self._data)

    def next_event(self) -> Message | Control | Part | None:
        """What the next frame says; `None` if more bytes are needed.

        One frame a call, so that the caller can let others have their turn between them.

        Raises: `MessageTooBig`.
        """
        if self._events:
            return self._events.popleft()
        frame = self._header()
        if frame is None or sum(frame) > len(self._data):
            return None
        plain = self._data[self._at] in (_TEXT, _BINARY) and not self.in_message
        if plain and not self._irregular:
            message = self._plain(*frame)
            if message is not None:
                return message
        self._judge(sum(frame))
        return self._events.popleft() if self._events else Part.OF_MESSAGE

    def _header(self) -> tuple[int, int] | None:
        """Where the next frame's payload begins, and its length; `None` if bytes are missing.

        Raises: `MessageTooBig`, before the message has been received.
        """
        data, at = self._data, self._at
        have = len(data) - at
        if self._irregular:
            return (len(data), 0) if have else None
        if have < 2:
            return None
        length = data[at + 1] & 0x7F
        size = 2
        if length > 125:
            size = 4 if length == 126 else 10
            if have < size:
                return None
            length = int.from_bytes(data[at + 2 : at + size], "big")
        if self._breaks_rules(length, size):
            self._irregular = True
            return len(data), 0
        if length + self._parts_size > self._max:
            raise MessageTooBig
        return at + size + 4, length

    def _breaks_rules(self, length: int, size: int) -> bool:
        """Whether the header alone is against the protocol, so that no payload need be awaited."""
        first, second = self._data[self._at], self._data[self._at + 1]
        control = first & 0x0F >= _FIRST_CONTROL
        not_minimal = size > 2 and length < (126 if size == 4 else 65_536)
        reserved = first & 0x70 or first & 0x0F not in (0, 1, 2, 8, 9, 10)
        too_long = length >> 63 or (control and (size > 2 or not first & _FIN))
        return bool(not second & _MASKED or not_minimal or reserved or too_long)

    def _plain(self, payload: int, length: int) -> Message | None:
        """Unmask a whole message; `None` if its text is no UTF-8, which wsproto shall judge."""
        data = self._data
        key = int.from_bytes(data[payload - 4 : payload], "little")
        padded = np.empty((length + 3) // 4, np.uint32)
        octets = padded.view(np.uint8)
        octets[:length] = np.frombuffer(data, np.uint8, length, payload)
        padded ^= np.uint32(key)
        message = octets[:length].tobytes()
        if data[self._at] == _BINARY:
            self._at = payload + length
            return message
        try:
            text = message.decode()
        except UnicodeDecodeError:
            return None
        self._at = payload + length
        return text

    def _judge(self, end: int) -> None:
        """Let wsproto read up to `end`.

        Raises: `MessageTooBig`.
        """
        data = bytes(self._data[self._at : end])
        self._at = end
        if self.closed:
            return
        self._wsproto.receive_data(data)
        for event in self._wsproto.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._collect(event)
            elif isinstance(event, Ping | Pong | CloseConnection):
                self._events.append(event)

    def _collect(self, event: TextMessage | BytesMessage) -> None:
        if event.data:
            # An empty fragment must not cost memory: there can be any number of them.
            self._parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
        self._parts_size += len(event.data)
        if self._parts_size > self._max:
            raise MessageTooBig
        self.in_message = not event.message_finished
        if event.message_finished:
            empty: Message = "" if isinstance(event, TextMessage) else b""
            self._events.append(empty.join(self._parts))  # type: ignore[arg-type]
            self._parts, self._parts_size = [], 0
