"""One client's connection: receive loop, generation task, outbox, and how they end together."""

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import trio
from msgspec import UNSET

from realtimed.config import Limits
from realtimed.errors import Draining, Ended, SlowReader, WireError
from realtimed.server.access import Identity
from realtimed.server.idle import IdleWatch
from realtimed.server.intake import AudioIntake
from realtimed.server.outbox import Outbox
from realtimed.server.pacing import KeyShare, Pace, budgets
from realtimed.server.tally import Tally, UtteranceTimes
from realtimed.server.turn_taking import TurnTaking
from realtimed.server.websocket import SocketClosed, WebSocket
from realtimed.session import Action, Begin, Cancel, Emit, End, Session, refuse
from realtimed.transcription.buffer import AudioBuffer
from realtimed.transcription.recognition import Recognition
from realtimed.transcription.recognizer import Listener, Outcome
from realtimed.transcription.segment import CutReason
from realtimed.transcription.transcriber import Transcriber
from realtimed.transcription.utterance import TimedText, Utterance
from realtimed.wire.codec import Codec, Opening
from realtimed.wire.events import (
    LOGPROBS,
    Append,
    Clear,
    ClientEvent,
    Commit,
    Configure,
    Finish,
    ServerEvent,
    SessionCreated,
)
from realtimed.wire.size import check_size
from realtimed.wire.undecided import Undecided

log = logging.getLogger("realtimed.server")

_RESUMED = {
    CutReason.STALL: "The engine stopped answering: recognition began again behind the last word.",
    CutReason.ENGINE_RESTART: "The engine is being restarted: recognition goes on behind the last "
    "word as soon as it is back.",
    CutReason.BLANKS: "Speech gave no words: recognition began again behind the last word.",
}
_VIOLATIONS = {
    1002: "protocol_error",
    1007: "invalid_utf8",
    1008: "message_too_slow",
    1009: "message_too_big",
}
"""Close codes with which a bad frame ends a connection."""
_Error = TypeVar("_Error", WireError, SocketClosed)


@dataclass(slots=True, eq=False)
class Connection:
    """Serves one accepted WebSocket until either side ends it."""

    socket: WebSocket
    codec: Codec | Undecided
    recognition: Recognition
    opening: Opening
    identity: Identity
    tally: Tally = field(default_factory=Tally)
    began: float = field(default_factory=trio.current_time)
    """Trio's time."""
    key_share: KeyShare | None = None
    """Its share in the audio that all sessions of its key may bring."""
    limits: Limits = field(init=False)
    session: Session = field(init=False)
    buffer: AudioBuffer = field(init=False)
    outbox: Outbox = field(init=False)
    outcome: str = field(init=False, default="client_left")
    _open: Utterance | None = field(init=False, default=None)
    _utterances: trio.MemorySendChannel[Utterance] = field(init=False)
    _receiving: trio.CancelScope = field(init=False, default_factory=trio.CancelScope)
    _fewer: trio.Event = field(init=False, default_factory=trio.Event)
    _transcriber: Transcriber = field(init=False)
    _times: UtteranceTimes = field(init=False)
    _leaving: bool = field(init=False, default=False)
    """To be drained as soon as no utterance is open."""
    _draining: bool = field(init=False, default=False)
    _finished: bool = field(init=False, default=False)
    """The client has said that no more audio comes."""
    _intake: AudioIntake = field(init=False)
    _failure: Exception | None = field(init=False, default=None)
    _ended_by: WireError | None = field(init=False, default=None)
    _all_tasks: trio.CancelScope = field(init=False)
    _turn_taking: TurnTaking = field(init=False)
    _idle_watch: IdleWatch = field(init=False)

    def __post_init__(self) -> None:
        info = self.recognition.engine.info
        self.limits = self.recognition.limits
        self.session = Session(info.served_names, sample_rate=info.sample_rate)
        self._idle_watch = IdleWatch(self.limits)
        self.buffer = self.recognition.buffer()
        self.buffer.hearing.on_failure = self._fail
        pace = Pace(budgets(self.limits, self.key_share), info.sample_rate)
        self._intake = AudioIntake(self.session, self.buffer, pace, self._perform)
        listens = self.recognition.recognizer.listens
        self._turn_taking = TurnTaking(self.session, self.buffer, self._perform, listens=listens)
        listener = Listener(
            self._on_text, self._on_done, self._on_failed, self._on_cut, self._on_queued
        )
        self._transcriber = self.recognition.transcriber(self.buffer, listener)
        self._times = UtteranceTimes(self.tally)
        self.outbox = Outbox(
            self._send_text,
            self._encode,
            bound=self.limits.outbox_events,
            slow_reader_s=self.limits.slow_reader_s,
        )

    async def run(self) -> None:
        """Serve the connection to its end; only cancellation and bugs escape."""
        close: WireError | None = None
        try:
            await self._converse()
        except* SocketClosed as group:
            self._note_violation(group)
        except* WireError as group:
            close = _first_leaf(group)
        if self._failure is not None:
            raise self._failure
        close = close or self._ended_by
        if close is not None:
            await self._end(close)

    def _note_violation(self, group: BaseExceptionGroup[SocketClosed]) -> None:
        """A frame that fails the connection (RFC 6455 section 7.1.7) is its outcome."""
        violation = _VIOLATIONS.get(_first_leaf(group).code)
        if violation is not None:
            self.outcome = violation
            self.tally.rejected[violation] += 1

    @property
    def id(self) -> str:
        """The session's name, in logs and for the client."""
        return self.opening.session_id

    @property
    def log_fields(self) -> dict[str, str]:
        """What every log line about this session says of it."""
        return {"session": self.id, **self.identity.log_fields}

    @property
    def audio_seconds(self) -> float:
        """Audio received, in seconds on the session's clock."""
        return self.session.received / self.session.sample_rate

    @property
    def lag_s(self) -> float:
        """Seconds of audio received that the engine has not answered for."""
        return self._transcriber.lag_samples / self.session.sample_rate

    @property
    def idle(self) -> bool:
        """Whether the client loses nothing if the session ends now."""
        return self.session.idle

    @property
    def state(self) -> str:
        """What the session does now, in one word."""
        return "draining" if self._draining else self.session.phase.name.lower()

    def announce_drain(self, within_s: float) -> None:
        """Tell the client that the daemon stops; drain when no utterance is open any more.

        `within_s`: seconds after which the caller will not wait for that.
        """
        self._leaving = True
        message = (
            f"The daemon is stopping: the session is closed behind the final that comes next, "
            f"within {within_s:g} s."
        )
        self._perform(self.session.warn("draining", message, deadline_s=within_s))

    def drain(self) -> None:
        """Stop reading, let the utterances finish, then close with 1001."""
        self._draining = True
        self._receiving.cancel()

    def end(self, error: WireError) -> None:
        """End the connection with this error, whatever it is doing."""
        self._ended_by = error
        self._all_tasks.cancel()

    # --- tasks ----------------------------------------------------------------------------

    async def _converse(self) -> None:
        """Run the three tasks; raises what ended them."""
        # Unbounded in itself: `_receive_one` reads nothing while too many are unfinished.
        self._utterances, utterances = trio.open_memory_channel[Utterance](math.inf)
        if not isinstance(self.codec, Undecided):
            self._adopt(self.codec)
        self.outbox.put(SessionCreated(self.id, self.opening.created))
        # Ends when the receive loop raises (the client left, a limit was hit), when the outbox
        # meets a slow reader, when the engine is gone, or when a drain has flushed everything.
        async with trio.open_nursery() as nursery:
            self._all_tasks = nursery.cancel_scope
            nursery.start_soon(self.outbox.run)
            nursery.start_soon(self._idle_watch.run)
            finished = trio.Event()
            nursery.start_soon(self._generate, utterances, finished)
            await self._receive_until_drained()
            self._utterances.close()
            await finished.wait()
            await self.outbox.flushed()
            if self._finished:
                raise Ended("All audio has been transcribed.")
            raise Draining("The daemon is stopping: connect again in a moment.")

    def _fail(self, error: Exception) -> None:
        """End the connection for a bug that shows in a callback, and no other connection."""
        self._failure = error
        self._all_tasks.cancel()

    async def _generate(
        self, utterances: trio.MemoryReceiveChannel[Utterance], finished: trio.Event
    ) -> None:
        await self._transcriber.run(utterances)
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
        self._idle_watch.waiting()
        message = await self.socket.receive()
        self._idle_watch.heard()
        if isinstance(self.codec, Undecided):
            await self._sort_out(self.codec, message)
        else:
            await self._read(self.codec, message)

    async def _read(self, codec: Codec, message: str | bytes) -> None:
        try:
            if isinstance(message, bytes):
                await self._intake.take(message)
            else:
                check_size(message)
                for event in codec.decode(message):
                    await self._handle(event)
        except WireError as error:
            if error.close_code is not None:
                raise
            self.tally.rejected[error.code] += 1
            self.outbox.put(refuse(error).event)

    # --- from the client ------------------------------------------------------------------

    async def _handle(self, event: ClientEvent) -> None:
        match event:
            case Append():
                await self._intake.take(event.audio)
            case Commit():
                await self._intake.flush()
                self._perform(self.session.commit(event))
            case Configure():
                self._configure(event)
            case Clear():
                self._perform(self.session.clear())
            case Finish():
                await self._intake.flush()
                self._perform(self.session.commit(Commit(final=True)))
                self._finished = True
                self._receiving.cancel()

    def _adopt(self, codec: Codec) -> None:
        """Let the dialect that is spoken say what holds from the beginning."""
        initial = codec.configuration()
        if initial is not None:
            self._configure(initial)
        self.session.by_buffer = codec.BEGINS_BY_AUDIO

    async def _sort_out(self, undecided: Undecided, message: str | bytes) -> None:
        """Read, once the client has shown its dialect, what came before as well."""
        messages, codec = undecided.sort_out(message), undecided.chosen
        if codec is not None:
            self.codec = codec
            self._adopt(codec)
            for one in messages:
                await self._read(codec, one)

    def _encode(self, event: ServerEvent) -> Sequence[bytes]:
        return self.codec.encode(event)

    def _configure(self, event: Configure) -> None:
        if event.audio_format is not UNSET:
            self._intake.choose(event.audio_format)
        self._perform(self.session.configure(event))
        self._turn_taking.follow()

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Emit():
                    self.outbox.put(action.event)
                case Begin():
                    self._times.began(action.utterance)
                    self._open = Utterance(
                        action.utterance,
                        action.at,
                        logprobs=LOGPROBS in self.session.include,
                        guidance=self.session.guidance,
                    )
                    self._utterances.send_nowait(self._open)
                case End():
                    assert self._open is not None
                    self._times.ended(action.utterance)
                    self._open.end = action.at
                    self._open = None
                    self.buffer.notify()
                case Cancel():
                    assert self._open is not None
                    self._open.end, self._open.cancelled = action.at, True
                    self._open = None
                    self._times.forget(action.utterance)
                    self._finish_one()
                    self.buffer.notify()

    # --- from recognition -----------------------------------------------------------------

    def _on_text(self, utterance: int, timed: TimedText) -> None:
        self._times.text(utterance)
        told = (timed.text, timed.start, timed.end, timed.logprobs)
        self._perform(self.session.text(utterance, *told))

    def _on_done(self, utterance: int, outcome: Outcome) -> None:
        self._times.done(utterance)
        self._perform(self.session.done(utterance, outcome.usage, outcome.words, outcome.language))
        self._finish_one()

    def _on_cut(self, utterance: int, reason: CutReason) -> None:
        self.recognition.cuts[reason] += 1
        if reason.restarts:
            log.warning("recognition restarted", extra={**self.log_fields, "reason": reason.value})
            self._perform(self.session.warn("resumed", _RESUMED[reason], utterance))

    def _on_queued(self, utterance: int) -> None:
        message = "Every engine slot is taken: this speech waits for its turn."
        self._perform(self.session.warn("queued", message, utterance))

    def _on_failed(self, utterance: int, error: WireError) -> None:
        self._perform(self.session.failed(utterance, error))
        self._times.forget(utterance)
        self._finish_one()

    def _finish_one(self) -> None:
        self._fewer.set()
        if self._leaving and self.session.idle:
            self.drain()

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
            if not isinstance(error, SlowReader | Draining | Ended):
                for message in self.codec.encode(refuse(error).event):
                    await self._send_text(message)
            await self.socket.close(error.close_code or 1011, error.message[:120])


def _first_leaf(group: BaseExceptionGroup[_Error]) -> _Error:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
