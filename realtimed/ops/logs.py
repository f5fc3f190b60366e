"""Log lines on stderr: one event a line, for a person or as JSON. Never audio, never text.

`extra` fields are part of the line. Strings are length-capped and control characters escaped,
so nothing that a client sent can forge or flood a line.
"""

import logging
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


def set_up(level: str, style: str) -> None:
    """Configure the project's loggers. `level`: debug…error; `style`: console or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if style == "json" else _ConsoleLines())
    root = logging.getLogger("realtimed")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    return {k: _capped(v) for k, v in vars(record).items() if k not in _STANDARD}


def _capped(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


class _ConsoleLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = "".join(f" {key}={value}" for key, value in _fields(record).items())
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        line = f"{clock} realtimed: {mark}{_capped(record.getMessage())}{extra}"
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
