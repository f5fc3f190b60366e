"""Accepts connections, refuses what cannot be served, and keeps count of the sessions."""

import logging
from dataclasses import dataclass, field
from enum import Enum

import trio

from realtimed.config import Limits, Settings
from realtimed.errors import Refusal, WireError
from realtimed.server import dialects
from realtimed.server.access import AccessPolicy, Identity, site
from realtimed.server.connection import Connection
from realtimed.server.draining import let_go
from realtimed.server.half_open import HalfOpen
from realtimed.server.handshake import Upgrade, encode_accept, encode_refusal, read_upgrade
from realtimed.server.tally import Tally
from realtimed.server.tls import ServerTls
from realtimed.server.websocket import WebSocket
from realtimed.transcription.recognition import Recognition
from realtimed.wire.codec import Codec, Opening
from realtimed.wire.undecided import Undecided

log = logging.getLogger("realtimed.server")

_RECEIVE_BYTES = 65_536
_LINGER_S = 1.0


class State(Enum):
    """What the daemon answers to an upgrade."""

    LOADING = "loading"
    READY = "ready"
    ENGINE_DOWN = "engine_down"
    """The engine was lost and is being restarted; sessions wait for it, and nobody joins them."""
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class _Admitted:
    """An upgrade that shall become a session, which is counted already."""

    upgrade: Upgrade
    make_codec: dialects.MakeCodec
    identity: Identity


@dataclass(slots=True)
class Server:
    """All connections of one daemon."""

    limits: Limits
    recognition: Recognition | None = None
    """Set, with `max_sessions`, when the engine has said what it can run."""
    max_sessions: int = 0
    """Sessions at once, speaking or silent."""
    access: AccessPolicy = field(default_factory=lambda: AccessPolicy(Settings()))
    tls: ServerTls | None = None
    """Without it plain TCP is spoken."""
    strict_model_names: bool = False
    """Whether a model name that is not served is an error in every dialect."""
    state: State = State.LOADING
    sessions: set[Connection] = field(default_factory=set)
    connections: int = 0
    """Open TCP connections: sessions, handshakes, and refusals that are being read."""
    tally: Tally = field(default_factory=Tally)
    half_open: HalfOpen = field(default_factory=HalfOpen)
    """Those of them that are handshakes or refusals."""
    _reserved: int = 0
    _emptied: trio.Event = field(default_factory=trio.Event)

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled; cancelling drops the connections that are left."""
        # Ends by cancellation only: trio.serve_listeners never returns.
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._connection, listeners)
            task_status.started()

    async def drain(self) -> None:
        """Refuse new sessions, let the live ones go, return when the last is gone.

        The caller sets the deadline.
        """
        self.state = State.DRAINING
        spread_s = min(self.limits.drain_spread_s, self.limits.drain_s / 2)
        await let_go(self.sessions, spread_s, self.all_gone)
        await self.all_gone()

    @property
    def unready(self) -> Refusal | None:
        """Why a new session would be refused now, if it would."""
        if self.state is State.LOADING:
            return Refusal(503, "loading", "The model is still loading.", retry_after_s=10)
        if self.state is State.ENGINE_DOWN:
            message = "The engine is being restarted."
            return Refusal(503, "engine_down", message, retry_after_s=10)
        if self.state is State.DRAINING:
            return Refusal(503, "draining", "The daemon is stopping.", retry_after_s=30)
        if self._reserved >= self.max_sessions:
            message = f"All {self.max_sessions} sessions are taken."
            return Refusal(503, "full", message, retry_after_s=5)
        if self.recognition is not None and self.recognition.slots.crowded:
            message = "Every engine slot is taken, and as many utterances wait for one."
            return Refusal(503, "busy", message, retry_after_s=10)
        return None

    async def all_gone(self) -> None:
        """Return when no session is left."""
        while self._reserved:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def fail(self, error: WireError) -> None:
        """End every session with this error."""
        for connection in list(self.sessions):
            connection.end(error)

    # --- one connection -------------------------------------------------------------------

    async def _connection(self, transport: trio.SocketStream) -> None:
        stream: trio.abc.Stream = transport
        address = _address(transport)
        deadline = trio.current_time() + self.limits.handshake_s
        self.connections += 1
        self.access.connected(address)
        try:
            admitted: _Admitted | None = None
            with self.half_open.place(self.limits.handshakes, deadline):
                secured = await self._secured(transport, address)
                if secured is not None:
                    stream = secured
                    admitted = await self._handshake(stream, address)
            if admitted is not None:
                await self._session(stream, admitted)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer left; there is nobody to tell
        except Exception:
            # The root of this connection's task: a bug here must not end the other sessions.
            log.exception("connection failed")
        finally:
            self.connections -= 1
            self.access.disconnected(address)
            with trio.CancelScope(shield=True), trio.move_on_after(_LINGER_S):
                await stream.aclose()

    async def _secured(self, transport: trio.SocketStream, address: str) -> trio.abc.Stream | None:
        """The stream to speak HTTP on; `None` if there is none in time."""
        if self.tls is None:
            return transport
        try:
            self._check_capacity(address)
        except Refusal as refusal:
            # To say why would cost a TLS handshake, which is what a flood is after.
            self._note_refusal(refusal, Identity(address))
            return None
        return await self.tls.handshake(transport, self.limits.tls_handshake_s)

    async def _handshake(self, stream: trio.abc.Stream, address: str) -> _Admitted | None:
        """Read the upgrade and judge it; `None` if there is none, or it has been refused."""
        identity = Identity(address)
        try:
            self._check_capacity(address)
            upgrade = await read_upgrade(stream)
            if upgrade is None:
                return None
            identity = self.access.identify(upgrade, address)
            make_codec = self._admit(upgrade)
            # Nothing waits from here to `_session`, so what is counted now is given back there.
            self.access.begin_session(identity)
        except Refusal as refusal:
            self._note_refusal(refusal, identity)
            await self._refuse(stream, refusal)
            return None
        self._reserved += 1
        return _Admitted(upgrade, make_codec, identity)

    def _check_capacity(self, address: str) -> None:
        if self.connections > self.limits.connections:
            raise Refusal(503, "too_many_connections", "Too many connections.", retry_after_s=5)
        self.access.check_connections(address)

    def _admit(self, upgrade: Upgrade) -> dialects.MakeCodec:
        """The dialect to speak.

        Raises: `Refusal`, in the order in which a client can do something about it.
        """
        make_codec = dialects.choose(upgrade)
        if make_codec is None:
            paths = " or ".join(dialects.PATHS)
            raise Refusal(404, "not_found", f"No such path. Connect to {paths}.")
        if self.strict_model_names and self.state is State.READY and self.recognition is not None:
            dialects.check_model(upgrade, self.recognition.engine.info.served_names)
        if (refusal := self.unready) is not None:
            raise refusal
        return make_codec

    async def _refuse(self, stream: trio.abc.Stream, refusal: Refusal) -> None:
        with trio.move_on_after(_LINGER_S):
            await stream.send_all(encode_refusal(refusal))
            # TLS has no half-closed connections; its peers go by the length of the answer.
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            # Closing with unread bytes makes the kernel reset the connection, and the answer
            # would be lost with it; so read a little, within the linger.
            while await stream.receive_some(_RECEIVE_BYTES):
                pass

    async def _session(self, stream: trio.abc.Stream, admitted: _Admitted) -> None:
        upgrade = admitted.upgrade
        try:
            accepted = False
            with trio.move_on_after(self.limits.handshake_s):
                await stream.send_all(encode_accept(upgrade))
                accepted = True
            if accepted:
                socket = WebSocket(stream, upgrade.rest, self.limits)
                model = self.recognition.engine.info if self.recognition else None
                opening = dialects.opening(upgrade, model, strict=self.strict_model_names)
                codec = admitted.make_codec(opening)
                await self.converse(socket, codec, opening, admitted.identity)
        finally:
            self.access.end_session(admitted.identity)
            self._reserved -= 1
            self._emptied.set()

    async def converse(
        self, socket: WebSocket, codec: Codec | Undecided, opening: Opening, identity: Identity
    ) -> None:
        """Serve one accepted socket to its end."""
        assert self.recognition is not None
        with self.access.key_share(identity, trio.current_time()) as share:
            await self._serve(
                Connection(
                    socket, codec, self.recognition, opening, identity, self.tally, key_share=share
                )
            )

    async def _serve(self, connection: Connection) -> None:
        self.sessions.add(connection)
        log.info("session begins", extra=connection.log_fields)
        try:
            if self.state is State.DRAINING:
                connection.drain()
            await connection.run()
        except Exception:
            # The root of this session: a bug here must not end the others.
            connection.outcome = "internal_error"
            log.exception("session failed", extra={"session": connection.id})
        except BaseException:
            connection.outcome = "dropped"  # cancelled: the daemon would not wait any longer
            raise
        finally:
            self.sessions.discard(connection)
            connection.buffer.close()
            self._count(connection)
            log.info(
                "session ends",
                extra={
                    **connection.log_fields,
                    "dialect": connection.codec.NAME,
                    "outcome": connection.outcome,
                    "audio_s": round(connection.audio_seconds, 2),
                },
            )

    def _count(self, connection: Connection) -> None:
        """A session's own numbers outlive it here."""
        tally = self.tally
        tally.ended[connection.codec.NAME, connection.outcome] += 1
        tally.audio_s += connection.audio_seconds
        tally.received_bytes += connection.socket.received_bytes
        tally.sent_bytes += connection.socket.sent_bytes

    def _note_refusal(self, refusal: Refusal, identity: Identity) -> None:
        self.tally.refused[refusal.code] += 1
        fields = {"status": refusal.status, "code": refusal.code, "address": identity.address}
        log.info("refused", extra={**fields, **identity.log_fields})


def _address(transport: trio.SocketStream) -> str:
    """What the connection counts for; empty if the peer is gone already, or is no network's."""
    try:
        name = transport.socket.getpeername()
    except OSError:
        return ""
    return site(name[0]) if isinstance(name, tuple) else ""
