"""Log lines on stderr: one event a line, for a person or as JSON. Never audio, never text.

`extra` fields are part of the line. Strings are length-capped and control characters escaped,
so nothing that a client sent can forge or flood a line. Where stderr is the journal's, each line
has its priority in front (sd-daemon(3)), and the journal's clock is enough.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping

import msgspec

# vLLM adds the name of its process to every record of the interpreter.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "vllm_process_name",
}
_LONGEST = 200
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog's, from the most severe on; what is less than INFO is 7."""


def set_up(level: str, style: str) -> None:
    """Configure the project's loggers. `level`: debug…error; `style`: console or json."""
    journal = _is_journal(os.environ.get("JOURNAL_STREAM", ""))
    lines = _JsonLines() if style == "json" else _ConsoleLines(clock=not journal)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalLines(lines) if journal else lines)
    root = logging.getLogger("realtimed")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def _is_journal(stream: str) -> bool:
    """Whether stderr is what JOURNAL_STREAM (systemd.exec(5)) names; it may be redirected."""
    device, _, inode = stream.partition(":")
    if not (device.isdigit() and inode.isdigit()):
        return False
    try:
        stderr = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (stderr.st_dev, stderr.st_ino) == (int(device), int(inode))


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    return {k: _capped(v) for k, v in vars(record).items() if k not in _STANDARD}


def _capped(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


class _ConsoleLines(logging.Formatter):
    def __init__(self, *, clock: bool) -> None:
        super().__init__()
        self._clock = clock

    def format(self, record: logging.LogRecord) -> str:
        local = time.localtime(record.created)
        clock = time.strftime("%H:%M:%S ", local) if self._clock else ""
        extra = "".join(f" {key}={value}" for key, value in _fields(record).items())
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        line = f"{clock}realtimed: {mark}{_capped(record.getMessage())}{extra}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _capped(record.getMessage()),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _JournalLines(logging.Formatter):
    """Another formatter's lines with their priority: `<4>` is a warning."""

    def __init__(self, lines: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        priority = next((p for least, p in _PRIORITIES if record.levelno >= least), 7)
        lines = self._lines.format(record).splitlines()
        return "\n".join(f"<{priority}>{line}" for line in lines)
