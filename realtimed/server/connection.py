"""One client's connection: receive loop, generation task, outbox, and how they end together."""

import math
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import trio
from numpy.typing import NDArray

from realtimed.audio.pcm import decode_pcm16
from realtimed.config import Limits
from realtimed.engine.core import Engine
from realtimed.errors import Draining, IdleTimeout, InvalidAudio, SlowReader, WireError
from realtimed.server.outbox import Outbox
from realtimed.server.websocket import SocketClosed, WebSocket
from realtimed.session import Action, Begin, Emit, End, Phase, Session, refuse
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.transcriber import Listener, Transcriber
from realtimed.transcription.utterance import Utterance
from realtimed.wire.events import (
    Append,
    ClientEvent,
    Commit,
    Configure,
    ServerEvent,
    SessionCreated,
    Usage,
)


class Dialect(Protocol):
    """What a connection needs of a dialect module in `wire/`."""

    NAME: str

    @staticmethod
    def decode_client(message: str | bytes) -> ClientEvent:
        """Parse one text message."""

    @staticmethod
    def encode_server(event: ServerEvent) -> bytes:
        """Spell one event."""


@dataclass(slots=True, eq=False)
class Connection:
    """Serves one accepted WebSocket until either side ends it."""

    socket: WebSocket
    dialect: Dialect
    engine: Engine
    limits: Limits
    id: str = field(default_factory=lambda: f"sess-{uuid.uuid4().hex[:16]}")
    session: Session = field(init=False)
    buffer: AudioBuffer = field(init=False)
    outbox: Outbox = field(init=False)
    outcome: str = field(init=False, default="client_left")
    _open: Utterance | None = field(init=False, default=None)
    _utterances: trio.MemorySendChannel[Utterance] = field(init=False)
    _receiving: trio.CancelScope = field(init=False, default_factory=trio.CancelScope)
    _fewer: trio.Event = field(init=False, default_factory=trio.Event)
    _draining: bool = field(init=False, default=False)
    _waiting_since: float = field(init=False, default=math.inf)
    """Trio's time when the receive loop began to wait for a message; infinite if it does not."""

    def __post_init__(self) -> None:
        info = self.engine.info
        capacity = math.ceil(self.limits.ring_s * info.geometry.sample_rate)
        self.session = Session(info.served_names)
        self.buffer = AudioBuffer(capacity, self.limits.overflow_s)
        self.outbox = Outbox(
            self._send_text,
            self.dialect.encode_server,
            bound=self.limits.outbox_events,
            slow_reader_s=self.limits.slow_reader_s,
        )

    async def run(self) -> None:
        """Serve the connection to its end; only cancellation escapes."""
        close: WireError | None = None
        try:
            await self._converse()
        except* SocketClosed:
            pass
        except* WireError as group:
            close = _first_leaf(group)
        if close is not None:
            await self._end(close)

    @property
    def audio_seconds(self) -> float:
        """Audio received, in seconds on the session's clock."""
        return self.session.received / self.engine.info.geometry.sample_rate

    def drain(self) -> None:
        """Stop reading, let the utterances finish, then close with 1001."""
        self._draining = True
        self._receiving.cancel()

    # --- tasks ----------------------------------------------------------------------------

    async def _converse(self) -> None:
        """Run the three tasks; raises what ended them."""
        # Unbounded in itself: `_receive_one` reads nothing while too many are unfinished.
        self._utterances, utterances = trio.open_memory_channel[Utterance](math.inf)
        listener = Listener(self._on_text, self._on_done, self._on_failed)
        transcriber = Transcriber(self.engine, self.buffer, listener, self.limits.stall_s)
        self.outbox.put(SessionCreated(self.id, int(time.time())))
        # Ends when the receive loop raises (the client left, a limit was hit), when the outbox
        # meets a slow reader, when the engine is gone, or when a drain has flushed everything.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.outbox.run)
            nursery.start_soon(self._watch_idle)
            finished = trio.Event()
            nursery.start_soon(self._generate, transcriber, utterances, finished)
            await self._receive_until_drained()
            self._utterances.close()
            await finished.wait()
            await self.outbox.flushed()
            raise Draining("The daemon is stopping: connect again in a moment.")

    async def _generate(
        self,
        transcriber: Transcriber,
        utterances: trio.MemoryReceiveChannel[Utterance],
        finished: trio.Event,
    ) -> None:
        await transcriber.run(utterances)
        finished.set()

    async def _receive_until_drained(self) -> None:
        with self._receiving:
            if self._draining:
                self._receiving.cancel()
            while True:
                await self._receive_one()
        self._perform(self.session.drain())

    async def _receive_one(self) -> None:
        await self.outbox.room()
        while self.session.unfinished >= self.limits.pending_utterances:
            self._fewer = trio.Event()
            await self._fewer.wait()
        self._waiting_since = trio.current_time()
        message = await self.socket.receive()
        self._waiting_since = math.inf
        try:
            event = (
                Append(message)
                if isinstance(message, bytes)
                else self.dialect.decode_client(message)
            )
            await self._handle(event)
        except WireError as error:
            if error.close_code is not None:
                raise
            self.outbox.put(refuse(error).event)

    async def _watch_idle(self) -> None:
        """End a session that says nothing. A deadline around each receive would cost every one."""
        idle_s = self.limits.idle_s
        due = trio.current_time() + idle_s
        while due > trio.current_time():
            await trio.sleep_until(due)
            due = min(self._waiting_since, trio.current_time()) + idle_s
        raise IdleTimeout(
            f"Nothing was received for {self.limits.idle_s:g} s: the session was ended. "
            "Connect again when there is audio."
        )

    # --- from the client ------------------------------------------------------------------

    async def _handle(self, event: ClientEvent) -> None:
        match event:
            case Append():
                await self._store(_samples(event.audio))
            case Commit():
                self._perform(self.session.commit(event))
            case Configure():
                self._perform(self.session.configure(event))

    async def _store(self, samples: NDArray[np.float32]) -> None:
        """Put audio into the ring, in pieces if it has to wait for room."""
        while len(samples):
            piece = samples[: await self.buffer.room()]
            self._perform(self.session.audio(len(piece)))
            self.buffer.append(piece)
            if self.session.phase is Phase.FAILED:
                # No utterance will read it, and every earlier one has finished.
                self.buffer.release(self.buffer.ring.end)
            samples = samples[len(piece) :]

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Emit():
                    self.outbox.put(action.event)
                case Begin():
                    self._open = Utterance(action.utterance, action.at)
                    self._utterances.send_nowait(self._open)
                case End():
                    assert self._open is not None
                    self._open.end = action.at
                    self._open = None
                    self.buffer.notify()

    # --- from recognition -----------------------------------------------------------------

    def _on_text(self, utterance: int, text: str) -> None:
        self._perform(self.session.text(utterance, text))

    def _on_done(self, utterance: int, usage: Usage) -> None:
        self._perform(self.session.done(utterance, usage))
        self._fewer.set()

    def _on_failed(self, utterance: int, error: WireError) -> None:
        self._perform(self.session.failed(utterance, error))
        self._fewer.set()

    # --- to the client --------------------------------------------------------------------

    async def _send_text(self, message: bytes) -> None:
        await self.socket.send(message.decode())

    async def _end(self, error: WireError) -> None:
        """Send what is waiting, say why, and close, all within a bound."""
        self.outcome = error.code
        with trio.move_on_after(self.limits.close_s), suppress(SocketClosed):
            if not isinstance(error, SlowReader):
                for message in self.outbox.unsent():
                    await self._send_text(message)
            if not isinstance(error, SlowReader | Draining):
                await self._send_text(self.dialect.encode_server(refuse(error).event))
            await self.socket.close(error.close_code or 1011, error.message[:120])


def _samples(audio: bytes) -> NDArray[np.float32]:
    """Decode PCM16.

    Raises: `InvalidAudio` for an empty chunk or half a sample.
    """
    if not audio or len(audio) % 2:
        raise InvalidAudio(
            "Invalid audio data: expected a whole, non-zero number of 16-bit samples; "
            "the chunk was dropped."
        )
    return decode_pcm16(audio)


def _first_leaf(group: BaseExceptionGroup[WireError]) -> WireError:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
