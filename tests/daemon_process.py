"""A real `realtimed serve` as a child process of the tests, and what can be seen of it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

READY_S = 180.0
STOP_S = 45.0
ADMIN_S = 10.0
UNPACED = {"REALTIMED_LIMITS_RATE": "0"}
"""Tests send faster than anybody speaks; those about the limit set it by a flag, which wins."""


@dataclass(frozen=True)
class Counts:
    """TCP connections, sessions, and the requests that the engine's scheduler holds."""

    connections: int
    sessions: int
    requests: int


def engine_flags(engine: Mapping[str, object]) -> list[str]:
    """Engine arguments as flags of `realtimed serve`."""
    flags = []
    for name, value in engine.items():
        flags += [f"--engine.{name.replace('_', '-')}", str(value).lower()]
    return flags


class DaemonProcess:
    """Starts `python -m realtimed serve --port 0 ...` and reads its log."""

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        config_file: Path | None = None,
        through: Sequence[str] = (),
    ) -> None:
        """`through`: a command that starts the daemon."""
        self.lines: list[str] = []
        self.config_file = config_file
        if config_file is not None:
            arguments = (*arguments, "--config", str(config_file))
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [*through, sys.executable, "-m", "realtimed", "serve", *_with_port(arguments)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**_clean_environment(), **UNPACED, **(environment or {})},
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.wait_for(r"listening on wss?://[^ ]*:(\d+)/")[1])

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return self.wait_for(r"admin listener on (http://\S+)")[1]

    def get(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Status and body of a request to the admin listener."""
        request = urllib.request.Request(self.admin + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=ADMIN_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, timeout_s: float = READY_S) -> re.Match[str]:
        """The first log line, past or future, that matches."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self.lines)
                if self._process.poll() is not None and not self._news.wait(1):
                    raise AssertionError(f"the daemon ended before {pattern!r}:\n{self.log}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"no {pattern!r} within {timeout_s} s:\n{self.log}")
                self._news.wait(0.2)

    def wait_ready(self) -> "DaemonProcess":
        self.wait_for(r"realtimed: ready: ")
        return self

    async def counts(self) -> Counts:
        """What the daemon and the engine's own scheduler count now (SIGUSR1)."""
        before = len(self.lines)
        self.send_signal(signal.SIGUSR1)
        with trio.fail_after(10):
            while True:
                for line in self.lines[before:]:
                    if " state state=" in line:
                        found = dict(re.findall(r"(\w+)=(\S+)", line))
                        requests = int(found["engine_running"]) + int(found["engine_waiting"])
                        connections = int(found["connections"])
                        return Counts(connections, int(found["sessions"]), requests)
                await trio.sleep(0.02)

    def descendants(self) -> list[int]:
        return descendants(self.pid)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def signal_process(self, pid: int, number: signal.Signals) -> None:
        """Signal one of the daemon's own descendants."""
        assert pid in self.descendants()
        os.kill(pid, number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM and the exit code; SIGKILL if that takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(pids: Sequence[int], timeout_s: float) -> list[int]:
    """Wait until none of these processes is alive; those that are when time is up."""
    deadline = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def _clean_environment() -> dict[str, str]:
    """Without what an engine inside the test process has left there for its children."""
    return {key: value for key, value in os.environ.items() if not key.startswith("REALTIMED_")}


def _with_port(arguments: Sequence[str]) -> list[str]:
    free = [flag for flag in ("--port", "--admin-port") if flag not in arguments]
    return [*arguments, *(word for flag in free for word in (flag, "0"))]
