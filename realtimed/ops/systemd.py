"""What systemd is told, and what it hands over: sd_notify(3) and sd_listen_fds(3).

The protocol is one datagram of `KEY=value` lines. Both sides of it are taken out of the
environment at once, so that no engine process speaks for the daemon.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final, Self

import trio

from realtimed.errors import StartError

log = logging.getLogger("realtimed.ops")

_FIRST_FD: Final = 3
_STATUS_S: Final = 10.0
_PATIENCE_S: Final = 0.5
"""A manager that is slow to read may keep the daemon waiting so long, where it must be told."""


class ServiceManager:
    """The service manager, where there is one; otherwise nothing is told to nobody."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """`address`: a path, or a name in the abstract namespace behind an `@`.

        `watchdog_s`: the daemon is killed after that many seconds without a beat.
        """
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self._watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self:
        """As the environment says, which is left without it."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        ours = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if microseconds.isdigit() and ours else None
        return cls(address, watchdog_s or None)

    def loading(self, phase: str, within_s: float) -> None:
        """The daemon is starting and asks for that many seconds more."""
        self._tell(STATUS=f"loading: {phase}", EXTEND_TIMEOUT_USEC=_microseconds(within_s))

    def ready(self, status: str) -> None:
        """The daemon serves, for the first time or again."""
        self._tell(READY="1", STATUS=status)

    def reloading(self) -> None:
        """Settings are being read again; `ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        self._tell(RELOADING="1", MONOTONIC_USEC=str(now))

    def stopping(self, within_s: float) -> None:
        """The daemon drains, and is gone within that many seconds."""
        self._tell(
            STOPPING="1",
            STATUS="draining: finals go out, sessions are closed",
            EXTEND_TIMEOUT_USEC=_microseconds(within_s),
        )

    async def watch(self, alive: Callable[[], bool], status: Callable[[], str]) -> None:
        """Beat as long as `alive` says so, and tell the status, until cancelled."""
        if self._address is None:
            return
        watchdog_s = self._watchdog_s
        period_s = _STATUS_S if watchdog_s is None else min(watchdog_s / 3, _STATUS_S)
        beating = True
        while True:
            was, beating = beating, alive()
            if was and not beating:
                log.error("the engine answers nothing: the watchdog gets no more beats")
            beat = {"WATCHDOG": "1"} if beating and watchdog_s is not None else {}
            self._tell(0.0, STATUS=status(), **beat)
            await trio.sleep(period_s)

    def _tell(self, patience_s: float = _PATIENCE_S, **fields: str) -> None:
        if self._address is None:
            return
        message = "\n".join(f"{key}={value}" for key, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(patience_s)
                sender.connect(self._address)
                sender.send(message.encode())
        except OSError as error:  # a timeout is one, too
            log.warning("cannot tell the service manager: %s", error)


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that a service manager has opened for us, if it has.

    Raises: `StartError` for one that is not a listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(_FIRST_FD, _FIRST_FD + int(count)):
        inherited = socket.socket(fileno=descriptor)
        # Engine processes must not keep the port open when the daemon is gone.
        inherited.set_inheritable(False)
        listens = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if inherited.type != socket.SOCK_STREAM or not listens:
            raise StartError(
                f"Descriptor {descriptor} from the service manager is no listening stream socket: "
                "set ListenStream= and Accept=no in the socket unit."
            )
        sockets.append(inherited)
    return sockets


def _microseconds(seconds: float) -> str:
    return str(round(seconds * 1e6))
