"""One accepted WebSocket over a Trio stream: messages in, messages out, pings answered.

The same task that handles a message has read it: no reader task, no queue between. So a session
that is paced reads nothing, not even pings, until it goes on; its limits bound how long.
"""

import math
from contextlib import suppress
from typing import Final, NoReturn

import trio
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from realtimed.config import Limits
from realtimed.server.frames import FrameReader, Message, MessageTooBig

_RECEIVE_BYTES: Final = 65_536
_ABNORMAL: Final = 1006
_POLICY: Final = 1008
_TOO_BIG: Final = 1009
_LINGER_S: Final = 1.0


class SocketClosed(Exception):
    """The WebSocket is closed, or was lost; `code` is the close code of RFC 6455."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the WebSocket is closed ({code})")
        self.code = code


class WebSocket:
    """The server's end of one connection. One task receives; any may send."""

    def __init__(self, stream: trio.abc.Stream, rest: bytes, limits: Limits) -> None:
        """`rest`: what the peer sent right behind its upgrade request."""
        self._stream = stream
        self._max = limits.message_bytes
        self._message_s = limits.message_s
        self._reader = FrameReader(limits.message_bytes)
        self._reader.feed(rest)
        self._sending = trio.StrictFIFOLock()
        self.received_bytes = len(rest)
        self.sent_bytes = 0
        self._torn = False
        """A frame was sent in part: nothing can follow it."""

    async def receive(self) -> Message:
        """The next message: str for text, bytes for binary.

        Raises: `SocketClosed` when the peer closes, breaks the protocol, sends a message over
        the limit, or is gone; the close has been answered then.
        """
        waited = False
        due = math.inf
        while True:
            try:
                event = self._reader.next_event()
            except MessageTooBig:
                await self._refuse_message()
            if isinstance(event, str | bytes):
                if not waited:  # a burst in one packet must not keep the thread to itself
                    await trio.lowlevel.checkpoint()
                return event
            if event is None:
                if self._reader.partial:
                    due = min(due, trio.current_time() + self._message_s)
                    await self._read_rest(due)
                else:
                    await self._read_more()
                waited = True
                continue
            if not self._reader.in_message:
                due = math.inf  # what was under way was a control frame
            await trio.lowlevel.checkpoint()
            if isinstance(event, Ping):
                await self._send(event.response())
            elif isinstance(event, CloseConnection):
                await self._fail(event.code, event.reason)

    async def send(self, message: Message) -> None:
        """Send one message: text for str, binary for bytes.

        Raises: `SocketClosed`.
        """
        if isinstance(message, str):
            await self._send(TextMessage(data=message))
        else:
            await self._send(BytesMessage(data=message))

    async def close(self, code: int, reason: str) -> None:
        """Say that the connection ends and wait until the peer has said so too.

        The caller sets the deadline and closes the stream.
        """
        try:
            if self._reader.open:
                await self._send(CloseConnection(code=code, reason=reason))
            while not self._reader.closed:
                if self._reader.next_event() is None:
                    await self._read_more()
                else:
                    await trio.lowlevel.checkpoint()
        except (SocketClosed, MessageTooBig):
            pass  # nobody is left to wait for

    async def _refuse_message(self) -> NoReturn:
        """Close without having read the message.

        Raises: `SocketClosed`, always.
        """
        with suppress(SocketClosed):
            await self._fail(_TOO_BIG, f"The message is over the limit of {self._max} bytes.")
        # Closing with unread bytes makes the kernel reset the connection, and the close frame
        # would be lost with it; so read on for a moment.
        with trio.move_on_after(_LINGER_S), suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(_RECEIVE_BYTES):
                pass
        raise SocketClosed(_TOO_BIG)

    async def _fail(self, code: int, reason: str | None) -> NoReturn:
        """Send a close frame, if the peer has not had one yet, and be closed.

        Raises: `SocketClosed`, always.
        """
        await self._send(CloseConnection(code=code, reason=reason))
        raise SocketClosed(code)

    async def _read_rest(self, due: float) -> None:
        """Read more of a message that has begun.

        Raises: `SocketClosed` also if it is not there in time.
        """
        with trio.move_on_at(due):
            await self._read_more()
            return
        reason = f"The message was not complete within {self._message_s:g} s."
        await self._fail(_POLICY, reason)

    async def _read_more(self) -> None:
        try:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise SocketClosed(_ABNORMAL)
        self.received_bytes += len(data)
        self._reader.feed(data)

    async def _send(self, event: Event) -> None:
        async with self._sending:
            if self._torn:
                raise SocketClosed(_ABNORMAL)
            try:
                data = self._reader.encode(event)
                # Cancelled from here on means that sending had begun.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._torn = True
                await self._stream.send_all(data)
                self._torn = False
                self.sent_bytes += len(data)
            except (LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
                raise SocketClosed(_ABNORMAL) from None
