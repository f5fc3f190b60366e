"""The daemon: its nursery tree, its signals, and the order in which it starts and stops."""

import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from realtimed import demo
from realtimed.audio.vad import SpeechModel
from realtimed.config import Settings
from realtimed.engine.args import BUNDLED_ARGS, BUNDLED_ENVIRONMENT
from realtimed.engine.core import Engine, EngineSpec
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.errors import EngineDeadError, EngineUnavailable, RealtimedError, StartError
from realtimed.observer import Observer
from realtimed.ops import admin, logs
from realtimed.ops.systemd import ServiceManager
from realtimed.reload import Reloader
from realtimed.server.access import AccessPolicy, is_loopback
from realtimed.server.listener import Server, State
from realtimed.server.tls import server_tls
from realtimed.transcription.canary import recognise_silence
from realtimed.transcription.detection import SpeechDetection
from realtimed.transcription.recognition import Recognition
from realtimed.transcription.segment import CutReason

log = logging.getLogger("realtimed.daemon")

_GONE = "The engine is gone: connect again when the daemon is ready."
_PROGRESS_S = 5.0
_NO_PROGRESS_S = 60.0
"""The service manager gives up this long after the last sign of progress while loading."""
_ENGINE_STOP_S = 10.0
_SESSIONS_PER_SLOT = 4
"""Sessions that are admitted for each engine slot, where silence costs none: people speak less
than half of the time."""


@dataclass(slots=True)
class Daemon:
    """One listener, one engine, and the sessions between them."""

    settings: Settings
    reload: Callable[[], Settings] | None = None
    """Reads the settings again, for SIGHUP."""
    manager: ServiceManager = field(default_factory=ServiceManager)
    inherited: Sequence[socket.socket] = ()
    """Sockets to listen on instead of the settings' host and port."""
    engine: EngineSupervisor = field(init=False)
    server: Server = field(init=False)
    observer: Observer = field(init=False)
    ready: trio.Event = field(init=False, default_factory=trio.Event)
    """Set once a real inference has come back."""
    port: int = field(init=False, default=0)
    _host: str = field(init=False, default="")
    _open: bool = field(init=False, default=False)
    """Whether it listens beyond this machine."""
    admin_port: int = field(init=False, default=0)
    _stop: trio.Event = field(init=False, default_factory=trio.Event)
    _engine_gone: trio.Event = field(init=False, default_factory=trio.Event)
    _failure: RealtimedError | None = field(init=False, default=None)
    _phase: str = field(init=False, default="")
    _phase_began: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        settings = self.settings
        self.engine = EngineSupervisor(_spec(settings), settings.limits, self._engine_changed)
        self.server = Server(
            settings.limits,
            access=AccessPolicy(settings),
            tls=server_tls(settings),
            strict_model_names=settings.strict_model_names,
        )
        self.observer = Observer(self.engine, self.server)

    def stop(self) -> None:
        """Drain and end; `run` returns."""
        self._stop.set()

    async def run(self, *, on_signal: bool = True) -> int:
        """Serve until stopped; the exit code of the process: 0 for a clean stop only.

        Raises: `StartError` if the daemon cannot start, `EngineDeadError` if the engine was lost
        for good.
        """
        listeners = await self._listen()
        admin_socket = self._listen_for_admin() if self.settings.admin else None
        detection = SpeechDetection(await trio.to_thread.run_sync(SpeechModel))
        # Ends when the engine is gone and the sessions are drained, or at a second signal.
        async with trio.open_nursery() as nursery:
            if on_signal:
                nursery.start_soon(self._watch_signals, nursery.cancel_scope)
                nursery.start_soon(self._tell_state)
                nursery.start_soon(self._reload_on_sighup)
            nursery.start_soon(self.observer.run)
            nursery.start_soon(self._watch_for_manager)
            if admin_socket is not None:
                nursery.start_soon(self._serve_admin, admin_socket)
            await nursery.start(self.server.serve, listeners)
            nursery.start_soon(detection.run)
            nursery.start_soon(self._run_engine, detection)
            await self._stop.wait()
            await self._drain()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        if not self._engine_gone.is_set():
            log.warning("stopped at once")
            return 1
        log.info("stopped")
        return 0

    # --- start ----------------------------------------------------------------------------

    async def _listen(self) -> list[trio.SocketListener]:
        if self.inherited:
            from_stdlib = trio.socket.from_stdlib_socket
            listeners = [trio.SocketListener(from_stdlib(each)) for each in self.inherited]
        else:
            listeners = await self._open_listeners(self.settings.host, self.settings.port)
        names = [listener.socket.getsockname() for listener in listeners]
        # A Unix socket has a path, which is no place for a client's URL.
        addresses = [name[:2] for name in names if isinstance(name, tuple)]
        host, self.port = addresses[0] if addresses else ("", 0)
        self._host = host if self.inherited else self.settings.host
        log.info("listening on %s, not ready yet", self._url)
        self._open = not all(is_loopback(host) for host, _ in addresses)
        self._warn_if_open()
        return listeners

    async def _open_listeners(self, host: str, port: int) -> list[trio.SocketListener]:
        try:
            return await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise StartError(
                f"Cannot listen on {host}:{port}: {reason}. Choose another with --host or --port."
            ) from error

    def _listen_for_admin(self) -> socket.socket:
        listener = admin.listen(self.settings.admin_host, self.settings.admin_port)
        self.admin_port = int(listener.getsockname()[1])
        log.info("admin listener on http://%s:%d", self.settings.admin_host, self.admin_port)
        return listener

    async def _serve_admin(self, listener: socket.socket) -> None:
        shown = admin.Admin(
            read=self.observer.read,
            served_models=lambda: self.engine.served_names,
            drain=self.stop,
            drain_s=lambda: self.settings.limits.drain_s,
            issue_secret=self.server.access.issue_secret,
        )
        # Until the last session has gone: how far a drain has come is seen there.
        await admin.serve_admin(shown, listener, self._engine_gone.wait)

    @property
    def _url(self) -> str:
        scheme = "ws" if self.server.tls is None else "wss"
        return f"{scheme}://{self._host}:{self.port}/v1/realtime"

    def _warn_if_open(self) -> None:
        keys = self.server.access.key_count
        if keys == 0:
            log.warning("api_keys_file names no key: every client will be refused")
        elif keys is None and self._open:
            log.warning(
                "everybody who reaches this address may connect: "
                "set api_keys_file (realtimed hash-key), or listen on 127.0.0.1"
            )

    async def _run_engine(self, detection: SpeechDetection) -> None:
        try:
            # Ends with the engine: stopped, lost for good, or never started.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report_progress)

                async def infer(engine: Engine) -> bool:
                    return await recognise_silence(self._recognition(detection), engine)

                await nursery.start(self.engine.run, self._progress, infer)
                self._begin_to_serve()
        except* EngineDeadError as group:
            self._failure = _first(group)
            self.server.fail(EngineUnavailable(_GONE))
        except* StartError as group:
            if not self._stop.is_set():
                self._failure = _first(group)
        finally:
            self._engine_gone.set()
            self._stop.set()

    def _progress(self, phase: str) -> None:
        self._phase, self._phase_began = phase, trio.current_time()
        log.info("loading: %s", phase)
        self.manager.loading(phase, _NO_PROGRESS_S)

    async def _report_progress(self) -> None:
        while not self.ready.is_set() and not self._stop.is_set():
            with trio.move_on_after(_PROGRESS_S):
                await self.ready.wait()
            if not self.ready.is_set() and not self._stop.is_set():
                seconds = trio.current_time() - self._phase_began
                log.info("loading: %s, %.0f s so far", self._phase, seconds)
                self.manager.loading(self._phase, _NO_PROGRESS_S)

    def _recognition(self, detection: SpeechDetection) -> Recognition:
        """What all sessions share, made when the first engine has said what it can run."""
        if self.server.recognition is None:
            settings = self.settings
            self.server.recognition = Recognition.build(
                self.engine, detection, settings.limits, gate=settings.silence_gate
            )
        return self.server.recognition

    def _engine_changed(self) -> None:
        """The engine was lost, or is back."""
        if self.ready.is_set() and self.server.state is not State.DRAINING:
            up = self.engine.availability.up
            self.server.state = State.READY if up else State.ENGINE_DOWN

    def _begin_to_serve(self) -> None:
        """Open for business: the engine has answered."""
        settings, server, slots = self.settings, self.server, self.engine.info.max_num_seqs
        assert server.recognition is not None
        server.max_sessions = _max_sessions(settings, server.recognition)
        # What is loaded by now stays for good: the collector need not look through it again.
        gc.collect()
        gc.freeze()
        # Once more: the collector waits for a quarter of what the last collection has found.
        gc.collect()
        if self._stop.is_set():
            return
        self.server.state = State.READY
        self.ready.set()
        self.manager.ready(self.observer.status())
        log.info(
            "ready: %s on %s, %d sessions at once, %d of them speaking",
            ", ".join(self.engine.info.served_names),
            self._url,
            server.max_sessions,
            min(slots, server.max_sessions),
        )

    # --- while it runs --------------------------------------------------------------------

    async def _watch_for_manager(self) -> None:
        await self.ready.wait()
        await self.manager.watch(self.engine.alive, self.observer.status)

    async def _reload_on_sighup(self) -> None:
        if self.reload is None:
            return
        parts = (self._prepare_logs, self._prepare_server, self.server.access.prepare)
        reloader = Reloader(self.reload, parts)
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                await self._reload(reloader)

    async def _reload(self, reloader: Reloader) -> None:
        started = self.ready.is_set() and not self._stop.is_set()
        if started:
            self.manager.reloading()
        wanted = await reloader.reload(self.settings)
        if wanted is None:
            self.observer.reloads.failure()
        else:
            self.settings = wanted
            self.observer.reloads.success()
            self._warn_if_open()
        if started:
            self.manager.ready(self.observer.status())

    def _prepare_logs(self, settings: Settings) -> Callable[[], None]:
        return partial(logs.set_up, settings.log_level, settings.log_format)

    def _prepare_server(self, settings: Settings) -> Callable[[], None]:
        tls = server_tls(settings)

        def put_into_force() -> None:
            server, limits = self.server, settings.limits
            server.tls = tls
            self.engine.use(limits)
            server.limits, server.strict_model_names = limits, settings.strict_model_names
            if server.recognition is not None:
                gate = settings.silence_gate
                server.recognition = server.recognition.with_limits(limits, gate=gate)
                server.max_sessions = _max_sessions(settings, server.recognition)

        return put_into_force

    # --- stop -----------------------------------------------------------------------------

    async def _watch_signals(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self._stop.is_set():
                    log.warning("%s again: stopping at once", signal.Signals(number).name)
                    self.engine.kill()
                    scope.cancel()
                    return
                log.info("%s: draining", signal.Signals(number).name)
                self._stop.set()

    async def _tell_state(self) -> None:
        """SIGUSR1: one log line with what the daemon and the engine each count."""
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            async for _ in signals:
                counts = await self.engine.request_counts()
                log.info(
                    "state",
                    extra={
                        "state": self.server.state.value,
                        "connections": self.server.connections,
                        "sessions": len(self.server.sessions),
                        "streams": self.engine.open_streams,
                        "engine_running": counts and counts[0],
                        "engine_waiting": counts and counts[1],
                        "engine_steps": self.engine.steps,
                        "engine_restarts": self.engine.restarts,
                        **self._recognition_counts(),
                    },
                )

    def _recognition_counts(self) -> dict[str, int]:
        recognition = self.server.recognition
        if recognition is None:
            return {}
        cuts = {f"cuts_{reason.value}": recognition.cuts[reason] for reason in CutReason}
        slots = recognition.slots
        return {"slots_active": slots.active, "slots_waiting": slots.waiting, **cuts}

    async def _drain(self) -> None:
        limits = self.settings.limits
        self.manager.stopping(limits.drain_s + _ENGINE_STOP_S + _NO_PROGRESS_S)
        with trio.move_on_after(limits.drain_s) as scope:
            await self.server.drain()
        if scope.cancelled_caught:
            log.warning("drain: %g s were not enough, dropping sessions", limits.drain_s)
            await self._end_without_engine()
        self.engine.stop()
        with trio.move_on_after(_ENGINE_STOP_S):
            await self._engine_gone.wait()

    async def _end_without_engine(self) -> None:
        """Tell the sessions that waited for an engine until the end of the drain."""
        if self.engine.availability.up or not self.server.sessions:
            return
        self._failure = EngineDeadError(
            "The daemon was stopped while the engine was down: sessions ended without their finals."
        )
        self.server.fail(EngineUnavailable(_GONE))
        with trio.move_on_after(self.settings.limits.close_s):
            await self.server.all_gone()


def _max_sessions(settings: Settings, recognition: Recognition) -> int:
    """Sessions at once: more than slots, unless each holds one as long as an utterance lasts."""
    slots, shared = recognition.slots.total, recognition.recognizer.listens
    at_most = settings.limits.connections if shared else slots
    usual = _SESSIONS_PER_SLOT * slots if shared else slots
    return min(settings.max_sessions or usual, at_most)


def _spec(settings: Settings) -> EngineSpec:
    bundled = settings.model is None
    if bundled:
        log.info(
            "serving the bundled demonstration model (50 English words); for a real one: "
            "realtimed serve mistralai/Voxtral-Mini-4B-Realtime-2602"
        )
    return EngineSpec(
        model=str(demo.MODEL_DIR) if bundled else str(settings.model),
        served_names=tuple(settings.served_model_name) or ((demo.NAME,) if bundled else ()),
        engine={**BUNDLED_ARGS, **settings.engine} if bundled else dict(settings.engine),
        log_level=settings.log_level,
        environment=BUNDLED_ENVIRONMENT if bundled else {},
        encoder_window_s=settings.encoder_window_s,
    )


def _first(group: BaseExceptionGroup[StartError]) -> StartError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
