"""One reading of the daemon's state, in plain values: what metrics and the admin listener show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from realtimed.distribution import Distribution


@dataclass(frozen=True, slots=True)
class SessionReading:
    """One live session. Nothing of what was said."""

    id: str
    dialect: str
    state: str
    age_s: float
    audio_s: float
    lag_s: float
    """Audio received that the engine has not answered for."""


@dataclass(frozen=True, slots=True)
class ReloadReading:
    """What came of SIGHUPs."""

    succeeded: int
    failed: int
    last_failed: bool
    """Whether the settings in force are older than the last ones asked for."""
    last_success: float
    """Seconds since the epoch; the start, if there was no reload since."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counts are since the start; the rest is how it is now."""

    unready: str | None
    """The code with which a new session would be refused now."""
    unready_reason: str | None
    build: Mapping[str, str]
    sessions: Sequence[SessionReading]
    sessions_limit: int
    ended: Mapping[tuple[str, str], int]
    """Sessions by dialect and outcome."""
    refused: Mapping[str, int]
    rejected: Mapping[str, int]
    handshakes_displaced: int
    """Connections closed before their upgrade to make way for newer ones."""
    tasks: int
    """Trio's."""
    connections: int
    connections_limit: int
    audio_s: float
    received_bytes: int
    sent_bytes: int
    lag_s: Distribution
    first_text_s: Distribution
    final_s: Distribution
    engine_up: bool
    engine_restarts: int
    engine_step_s: Distribution
    engine_step_frames: Distribution
    engine_frames_in_flight: int
    engine_unanswered_s: float
    headroom: float
    """1 less the share that an engine step has in the audio it answers for, of late."""
    slots_active: int
    slots_waiting: int
    slots_limit: int
    cuts: Mapping[str, int]
    """Segments by the reason of their cut."""
    reload: ReloadReading
    tls_not_after: float | None
    """Seconds since the epoch; `None` without TLS."""
