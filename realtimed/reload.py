"""SIGHUP: which settings can change while the daemon runs, and how they are changed together.

A reload is all or nothing. Every part first prepares what it would do, and may refuse; only when
all have, each is carried out, which cannot fail. So a bad file, key or certificate leaves all as
it was.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec
import trio

from realtimed import config
from realtimed.config import Settings
from realtimed.errors import StartError

log = logging.getLogger("realtimed.daemon")

Part = Callable[[Settings], Callable[[], None]]
"""Prepares something for new settings, in a thread; what it returns puts that into force.

Raises: `StartError`, in one line, if it cannot.
"""


class When(Enum):
    """When a changed setting counts."""

    AT_ONCE = "at once"
    NEW_SESSIONS = "new sessions"
    RESTART = "restart"


_AT_ONCE: Final = (
    "log_level",
    "log_format",
    "max_sessions",
    "limits.connections",
    "limits.handshakes",
    "limits.connections_per_address",
    "limits.sessions_per_address",
    "limits.client_secrets",
    "limits.tls_handshake_s",
    "limits.handshake_s",
    "limits.queue_s",
    "limits.engine_hang_s",
    "limits.engine_restart_deadline_s",
    "limits.engine_restarts",
    "limits.engine_restart_window_s",
    "limits.canary_s",
    "limits.canary_deadline_s",
    "limits.drain_s",
    "limits.drain_spread_s",
)
_RESTART: Final = (
    "model",
    "served_model_name",
    "encoder_window_s",
    "host",
    "port",
    "admin",
    "admin_host",
    "admin_port",
)
RELOADABLE: Final = {
    key: When.AT_ONCE if key in _AT_ONCE else When.RESTART if key in _RESTART else When.NEW_SESSIONS
    for key in config.options()
}
"""Every setting but the engine's arguments, which take a restart."""


@dataclass(slots=True)
class Reloader:
    """Reads the settings again, and puts what can change into force."""

    load: Callable[[], Settings]
    """The settings from where the first came from: file, environment, flags.

    Raises: `StartError`."""
    parts: Iterable[Part]

    async def reload(self, current: Settings) -> Settings | None:
        """The settings in force from now on; `None` if all stays as it is, which is logged."""
        try:
            wanted, put_into_force = await trio.to_thread.run_sync(self._prepare, current)
        except StartError as error:
            log.error("reload failed, the old settings stay: %s", error)  # noqa: TRY400 - one line
            return None
        for commit in put_into_force:
            commit()
        kinds = (When.AT_ONCE, When.NEW_SESSIONS)
        keys = [key for kind in kinds for key in changed(current, wanted, kind)]
        log.info("reloaded; settings that have changed: %s", ", ".join(keys) or "none")
        return wanted

    def _prepare(self, current: Settings) -> tuple[Settings, list[Callable[[], None]]]:
        wanted = self.load()
        fixed = changed(current, wanted, When.RESTART)
        if fixed:
            log.warning("reload: a restart is needed for %s", ", ".join(fixed))
        wanted = _with_fixed(wanted, current)
        return wanted, [part(wanted) for part in self.parts]


def changed(before: Settings, after: Settings, when: When) -> list[str]:
    """The keys of that kind whose values differ."""
    keys = [key for key, kind in RELOADABLE.items() if kind is when]
    found = [key for key in keys if _value(before, key) != _value(after, key)]
    if when is When.RESTART and before.engine != after.engine:
        found.append("engine")
    return found


def _value(settings: Settings, key: str) -> object:
    table, _, name = key.rpartition(".")
    return getattr(getattr(settings, table) if table else settings, name)


def _with_fixed(wanted: Settings, current: Settings) -> Settings:
    """What takes a restart stays what it is until then."""
    names = [key for key, when in RELOADABLE.items() if when is When.RESTART]
    fixed = {name: getattr(current, name) for name in [*names, "engine"]}
    return msgspec.structs.replace(wanted, **fixed)
