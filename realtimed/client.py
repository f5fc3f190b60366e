"""The client library: one WebSocket session with a daemon that speaks vLLM's dialect.

A thin Trio shell around `realtimed.wire`; it works against this daemon and against vLLM's own
`/v1/realtime`.

    async with connect("ws://127.0.0.1:8000") as session:
        async with session.transcribe(chunks, pace=1.0) as events:
            async for event in events:
                ...

`transcribe` does a whole utterance. Its parts are there too: `begin`, `append`, `end` from one
task, and `events` in another. Read events while you send: up to `EVENTS_WAITING` of them wait
for you, after that the socket is not read, and a server closes on a reader that slow.

With `turn_detection` the daemon finds the utterances itself, where somebody speaks: only
`append`, and read `events`. It also tells when speech starts and stops:

    async with connect("ws://127.0.0.1:8000", turn_detection=ServerVad()) as session:
        nursery.start_soon(send, session)
        async for event in session.events():
            ...

Every wait has a deadline. A server that falls silent is pinged and has to answer; one that owes
the final text of an utterance has to make progress. All errors are `ClientError`s: one line,
with the exit code that `realtimed transcribe` gives for it.
"""

import math
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import trio
from msgspec import UNSET
from numpy.typing import NDArray
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

from realtimed.audio.pcm import encode_pcm16
from realtimed.client_access import authorisation, no_tls, tls_trust
from realtimed.client_errors import (
    ClientError,
    ConnectionLost,
    InvalidUrl,
    ModelUnknown,
    NotReachable,
    OptionRefused,
    ProtocolError,
    Refused,
    ServerError,
    Unauthorised,
    Unavailable,
    connection_lost,
    error_from,
    raise_unopened,
    unanswered,
)
from realtimed.client_events import Events, Numbering, Utterance, decode
from realtimed.wire import vllm
from realtimed.wire.events import (
    NO_GUIDANCE,
    Append,
    ClientEvent,
    Commit,
    Configure,
    ErrorOccurred,
    Guidance,
    ServerEvent,
    ServerVad,
    SessionCreated,
    UtteranceDone,
)

__all__ = [
    "Audio",
    "ClientError",
    "ConnectionLost",
    "Events",
    "Guidance",
    "InvalidUrl",
    "ModelUnknown",
    "NotReachable",
    "OptionRefused",
    "ProtocolError",
    "Refused",
    "ServerError",
    "ServerVad",
    "Session",
    "Unauthorised",
    "Unavailable",
    "Utterance",
    "connect",
    "error_from",
    "realtime_url",
]

Audio = NDArray[np.float32] | bytes
"""A piece of sound at 16 kHz, mono: 1-d float32 in [-1, 1], or signed 16-bit LE PCM bytes."""

SAMPLE_RATE: Final = vllm.SAMPLE_RATE
DEFAULT_PATH: Final = "/v1/realtime"
EVENTS_WAITING: Final = 4_096
MAX_MESSAGE_BYTES: Final = 16 * 2**20

# One append stays below the 1 MiB that WebSocket servers take in one message unless they are
# told otherwise: 512 KiB of PCM is 16 s of sound and 700 KiB of base64.
_MAX_APPEND_BYTES: Final = 2**19
_PING_AFTER_S: Final = 20.0
_PONG_WITHIN_S: Final = 20.0
_CLOSE_WITHIN_S: Final = 2.0


# --- addresses ---------------------------------------------------------------------------


def realtime_url(url: str) -> str:
    """Complete an address: `ws://` where no scheme is given, `/v1/realtime` where no path is.

    `http` and `https` stand for `ws` and `wss`; a path of `/v1` alone, as OpenAI's libraries
    take it, is completed as well. Anything else, the query included, is left as it is.

    Raises: `InvalidUrl`.
    """
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        valid = scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise InvalidUrl("The URL is not valid. Expected something like ws://127.0.0.1:8000.")
    if parts.username is not None:
        raise InvalidUrl("The URL holds credentials. Pass the key as an API key instead.")
    path = parts.path.rstrip("/")
    path = DEFAULT_PATH if path in ("", "/v1") else parts.path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


# --- the session -------------------------------------------------------------------------


class Session:
    """An open conversation. One task may send while another reads; not two of either."""

    def __init__(
        self,
        ws: WebSocketConnection,
        session_id: str,
        *,
        detects_turns: bool,
        send_timeout_s: float,
        final_timeout_s: float,
    ) -> None:
        self.id: Final = session_id
        self._detects_turns = detects_turns
        self._ws = ws
        self._send_timeout_s = send_timeout_s
        self._final_timeout_s = final_timeout_s
        self._numbering = Numbering()
        self._finals_owed = 0
        self._end_sent = False

    async def begin(self) -> None:
        """Begin an utterance. Raises: `ConnectionLost`."""
        self._end_sent = False
        await self._send(Commit(final=False))

    async def append(self, audio: Audio) -> None:
        """Send sound of any length; nothing is sent for no sound.

        Waits while the server does not read: a daemon that is behind holds its clients back.

        Raises: `ConnectionLost`; `ValueError` for bytes that are not whole samples.
        """
        pcm = audio if isinstance(audio, bytes) else encode_pcm16(audio)
        if len(pcm) % 2:
            raise ValueError("PCM16 audio has to be a whole number of 2-byte samples.")
        for start in range(0, len(pcm), _MAX_APPEND_BYTES):
            await self._send(Append(pcm[start : start + _MAX_APPEND_BYTES]))

    async def end(self) -> None:
        """End the utterance; its `UtteranceDone` follows. Raises: `ConnectionLost`."""
        self._finals_owed += 1
        self._end_sent = True
        await self._send(Commit(final=True))

    def events(self) -> Events:
        """Iterate over `TextDelta`, `UtteranceDone` and `ErrorOccurred`, as they come.

        With turn detection there are `SpeechStarted` and `SpeechStopped` as well, and `Warned`
        where warnings are included. Utterances are numbered from 0 in the order in which they
        end. Ends when the server closes normally (1000) and owes nothing.

        Raises: `ConnectionLost`, `ProtocolError`.
        """
        return Events(self._next)

    @asynccontextmanager
    async def transcribe(
        self, audio: Iterable[Audio] | AsyncIterable[Audio], *, pace: float | None = None
    ) -> AsyncGenerator[Utterance, None]:
        """Send one utterance and give its text: deltas, then the one `UtteranceDone`.

        `pace` is the speed in multiples of that of speech: 1.0 sends each piece when its last
        sample would have been spoken, `None` sends as fast as the server takes it.

        Used as `async with session.transcribe(...) as events: async for event in events: ...`.

        Raises: `ServerError`, `ModelUnknown`, `OptionRefused`, `ConnectionLost`,
        `ProtocolError`, and whatever `audio` raises; `ValueError` with turn detection, where it
        is not for the client to say what is one utterance.
        """
        if self._detects_turns:
            raise ValueError("With turn detection the server ends utterances: read `events()`.")
        try:
            # Ends with the body: after the final the feeder is done, before it is cancelled.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, audio, pace)
                yield Utterance(self._expect, lambda: self._end_sent)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # The nursery is this method's own affair: one error is raised as itself.
            if len(group.exceptions) > 1:
                raise
            error = group.exceptions[0]
            raise error from error.__cause__

    async def _feed(
        self, audio: Iterable[Audio] | AsyncIterable[Audio], pace: float | None
    ) -> None:
        start, sent_samples = trio.current_time(), 0
        try:
            await self.begin()
            async with aclosing(_each(audio)) as pieces:
                async for piece in pieces:
                    sent_samples += len(piece) // 2 if isinstance(piece, bytes) else len(piece)
                    if pace is not None:
                        await trio.sleep_until(start + sent_samples / SAMPLE_RATE / pace)
                    await self.append(piece)
            await self.end()
        except ConnectionLost:
            # The reader knows better: an error event that explains the close may be waiting.
            # Only a server that is open and does not read is nobody else's to report.
            if self._ws.closed is None:
                raise

    async def _send(self, event: ClientEvent) -> None:
        message = vllm.encode_client(event).decode()
        try:
            with trio.fail_after(self._send_timeout_s):
                await self._ws.send_message(message)
        except ConnectionClosed as closed:
            raise connection_lost(closed) from None
        except trio.TooSlowError:
            raise ConnectionLost(
                f"The server has read nothing for {self._send_timeout_s:g} s. It is overloaded"
                " or stuck: try again, and look at its log if that does not help.",
                code=1006,
            ) from None

    async def _receive(self) -> str | bytes:
        """The next message. Raises: `ConnectionClosed`, `ConnectionLost`."""
        deadline = trio.current_time() + self._final_timeout_s
        while True:
            with trio.move_on_after(min(_PING_AFTER_S, self._final_timeout_s)):
                message: str | bytes = await self._ws.get_message()
                return message
            with trio.move_on_after(_PONG_WITHIN_S) as pong:
                await self._ws.ping()
            if pong.cancelled_caught:
                raise ConnectionLost(
                    f"The server has not answered a ping for {_PONG_WITHIN_S:g} s."
                    " The network or the server is gone: connect again.",
                    code=1006,
                )
            if not self._finals_owed:
                deadline = trio.current_time() + self._final_timeout_s
            elif trio.current_time() >= deadline:
                raise ConnectionLost(
                    f"The final text has not come within {self._final_timeout_s:g} s. The server"
                    " answers pings but its engine seems stuck: look at its log.",
                    code=1006,
                )

    async def _next(self) -> ServerEvent | None:
        """The next event that says something, or `None` after a normal close."""
        while True:
            try:
                message = await self._receive()
            except ConnectionClosed as closed:
                lost = connection_lost(closed)
                if lost.code == 1000 and not self._finals_owed:
                    return None
                raise lost from None
            event = self._numbering.take(decode(message))
            if isinstance(event, UtteranceDone):
                self._finals_owed = max(0, self._finals_owed - 1)
            if event is not None:
                return event

    async def _expect(self) -> ServerEvent:
        """The next event; there has to be one. Raises: `ConnectionLost`, `ProtocolError`."""
        event = await self._next()
        if event is None:
            raise connection_lost(ConnectionClosed(self._ws.closed))
        return event


@asynccontextmanager
async def connect(
    url: str,
    *,
    model: str = "",
    turn_detection: ServerVad | None = None,
    include: AbstractSet[str] = frozenset(),
    guidance: Guidance = NO_GUIDANCE,
    api_key: str | None = None,
    ca_file: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout_s: float = 10.0,
    send_timeout_s: float = 60.0,
    final_timeout_s: float = 120.0,
) -> AsyncGenerator[Session, None]:
    """Open a session with the server at `url` (see `realtime_url`) and choose its `model`.

    The empty `model` is the one that is served. `turn_detection` lets the server find utterances
    where somebody speaks. `include` asks for more: `"words"` for `start` and `end` of each
    `TextDelta` and `words` of each `UtteranceDone`, `"warnings"` for `Warned`, or
    `Utterance.warnings`. `guidance` tells the recogniser of the speech: its language, text that
    sets style and spelling, words to be expected, the temperature of sampling; which of them a
    model takes is in docs/protocol.md. A model or an option that is not served is reported by the
    first utterance, since this dialect confirms no choice; servers other than this daemon ignore
    the options. For `wss`, `ca_file` names a PEM file with the certificates to trust instead of the
    system's, and an `ssl_context` decides all of it. `final_timeout_s` bounds the silence, not
    the whole wait, of a server that owes a final.

    Raises: `InvalidUrl`, `NotReachable`, `Unauthorised`, `Unavailable`, `Refused`,
    `ServerError`, `ConnectionLost`, `ProtocolError`.
    """
    address = realtime_url(url)
    trust = tls_trust(address, ssl_context, ca_file)
    opened = False
    try:
        # Bounds what is left to do before and after the body. trio-websocket's own timeouts do
        # not: they wait for its reader, which goes on until the server closes TCP, and one that
        # is stuck or gone never does.
        with trio.CancelScope(deadline=trio.current_time() + connect_timeout_s) as scope:
            if trust is not None:
                trust.on_failure = scope.cancel
            async with open_websocket_url(
                address,
                trust,
                extra_headers=authorisation(api_key),
                connect_timeout=math.inf,
                message_queue_size=EVENTS_WAITING,
                max_message_size=MAX_MESSAGE_BYTES,
            ) as ws:
                opened, scope.deadline = True, math.inf
                try:
                    session_id = await _greeting(ws, connect_timeout_s)
                    session = Session(
                        ws,
                        session_id,
                        detects_turns=turn_detection is not None,
                        send_timeout_s=send_timeout_s,
                        final_timeout_s=final_timeout_s,
                    )
                    await session._send(
                        Configure(
                            model,
                            turn_detection or UNSET,
                            frozenset(include) or UNSET,
                            guidance=UNSET if guidance == NO_GUIDANCE else guidance,
                        )
                    )
                    yield session
                finally:
                    with trio.move_on_after(_CLOSE_WITHIN_S, shield=True):
                        await ws.aclose()
                    scope.deadline = trio.current_time() + _CLOSE_WITHIN_S
    except HandshakeError as error:
        raise_unopened(error, address)
    if trust is not None and trust.failure is not None:
        raise no_tls(trust.failure, address)
    if not opened:
        raise unanswered(address, connect_timeout_s)


# --- below the session -------------------------------------------------------------------


async def _greeting(ws: WebSocketConnection, timeout_s: float) -> str:
    """Wait for `session.created` and return the session's id."""
    try:
        with trio.fail_after(timeout_s):
            event = decode(await ws.get_message())
    except ConnectionClosed as closed:
        raise connection_lost(closed) from None
    except trio.TooSlowError:
        raise NotReachable(
            f"The server accepted the connection but has said nothing for {timeout_s:g} s."
            " Expected session.created: is this a realtime transcription server?"
        ) from None
    if isinstance(event, ErrorOccurred):
        raise error_from(event)
    if not isinstance(event, SessionCreated):
        raise ProtocolError(
            "The server's first message was not session.created."
            " Expected vLLM's realtime dialect: check the path of the URL."
        )
    return event.id


async def _each(audio: Iterable[Audio] | AsyncIterable[Audio]) -> AsyncGenerator[Audio, None]:
    if isinstance(audio, AsyncIterable):
        async for piece in audio:
            yield piece
    else:
        for piece in audio:
            yield piece
