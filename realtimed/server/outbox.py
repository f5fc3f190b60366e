"""What goes out on one socket: bounded, in order, text merged while the socket is blocked."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from realtimed.errors import SlowReader
from realtimed.wire.events import ServerEvent, TextDelta

Send = Callable[[bytes], Awaitable[None]]


class Outbox:
    """A queue of server events and the task that sends them.

    `put` never blocks: text for the same utterance is merged into what is already waiting, so
    recognition cannot fill the queue; whatever a client causes waits for `room` first.
    """

    def __init__(
        self,
        send: Send,
        encode: Callable[[ServerEvent], Sequence[bytes]],
        *,
        bound: int,
        slow_reader_s: float,
    ) -> None:
        """`encode`: an event as the messages that tell of it; `bound`: waiting events;
        `slow_reader_s`: how long one event may take to be sent, in seconds.
        """
        self._send = send
        self._encode = encode
        self._bound = bound
        self._slow_reader_s = slow_reader_s
        self._waiting: deque[ServerEvent] = deque()
        self._more = trio.Event()
        self._less = trio.Event()
        self._idle = True

    def put(self, event: ServerEvent) -> None:
        """Queue an event; the sending task takes it."""
        last = self._waiting[-1] if self._waiting else None
        if (
            type(event) is TextDelta
            and type(last) is TextDelta
            and event.utterance == last.utterance
        ):
            start = event.start if last.start is None else last.start
            end = last.end if event.end is None else event.end
            told = (last.logprobs or ()) + (event.logprobs or ()) or None
            text = last.text + event.text
            self._waiting[-1] = TextDelta(event.utterance, text, start, end, told)
            return
        self._waiting.append(event)
        self._more.set()

    @property
    def full(self) -> bool:
        """Whether nothing that a client causes may be queued now."""
        return len(self._waiting) >= self._bound

    async def room(self) -> None:
        """Wait until the queue is below its bound; the sending task's deadline bounds this."""
        while self.full:
            self._less = trio.Event()
            await self._less.wait()

    async def flushed(self) -> None:
        """Wait until everything queued has been sent; the sending task's deadline bounds this."""
        while self._waiting or not self._idle:
            self._less = trio.Event()
            await self._less.wait()

    def unsent(self) -> list[bytes]:
        """Take what `run` had not begun to send; nothing if it was stopped inside a message."""
        waiting, self._waiting = self._waiting, deque()
        return [text for event in waiting for text in self._encode(event)] if self._idle else []

    async def run(self) -> None:
        """Send what is queued until cancelled.

        Raises: `SlowReader` if the client does not take one message within the deadline.
        """
        while True:
            if not self._waiting:
                self._more = trio.Event()
                await self._more.wait()
            await self._send_next()

    async def _send_next(self) -> None:
        messages = self._encode(self._waiting.popleft())
        self._idle = False
        with trio.move_on_after(self._slow_reader_s):
            for message in messages:
                await self._send(message)
            self._idle = True
            self._less.set()
            return
        raise SlowReader(
            f"The client read nothing for {self._slow_reader_s:g} s while text was waiting: "
            "connect again and keep reading."
        )
