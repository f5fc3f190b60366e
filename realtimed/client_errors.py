"""What can go wrong between a client and a daemon: one line each, with an exit code.

The functions below the classes put trio-websocket's, the system's and the server's words into
them; nothing of those reaches a user as it is.
"""

import os
import re
from typing import ClassVar, NoReturn

import msgspec
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError

from realtimed.errors import InvalidEvent, ModelNotFound, RealtimedError, UnsupportedOption
from realtimed.wire.events import ErrorOccurred


class ClientError(RealtimedError):
    """Root of what can go wrong between a client and a daemon, each with an exit code."""

    exit_code: ClassVar[int] = 8

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidUrl(ClientError):
    """The address is not one of a WebSocket server."""

    exit_code = 2


class NotReachable(ClientError):
    """Nothing answers at the address, or what answers does not speak WebSocket."""

    exit_code = 3


class Refused(ClientError):
    """The server refused the connection over HTTP with `status`."""

    exit_code = 4

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unauthorised(Refused):
    """HTTP 401 or 403: no key, an unknown one, or one that may not do this."""


class Unavailable(Refused):
    """HTTP 503 or 429: not now. `retry_after_s` is the server's Retry-After, if it sent one."""

    exit_code = 5

    def __init__(self, message: str, *, status: int, retry_after_s: int | None) -> None:
        super().__init__(message, status=status)
        self.retry_after_s = retry_after_s


class ServerError(ClientError):
    """The server answered with an error event of this `code`."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class ModelUnknown(ServerError):
    """The model that was asked for is not served here."""

    exit_code = 6


class OptionRefused(ServerError):
    """An option of the session is not taken here, or not this value of it."""

    exit_code = 6


class ProtocolError(ClientError):
    """The server sent something that is not of the dialect."""


class ConnectionLost(ClientError):
    """The connection ended early. `code` and `reason` are those of its close frame, if any.

    Code 1006 stands for a connection that ended without one (RFC 6455 section 7.1.5).
    """

    def __init__(self, message: str, *, code: int, reason: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


# Of what this client sends, only the options of a session can be found invalid.
_REFUSES_AN_OPTION = (UnsupportedOption.code, InvalidEvent.code)


def without_query(url: str) -> str:
    # A query may hold a secret, and messages end up in logs.
    return url.partition("?")[0]


def error_from(event: ErrorOccurred) -> ServerError:
    """The exception that says what an error event says."""
    said = _one_line(event.message)
    if event.code == ModelNotFound.code:
        return ModelUnknown(
            f"The model is not served here: {said} Leave the model out to use the served one.",
            code=event.code,
        )
    if event.code in _REFUSES_AN_OPTION:
        return OptionRefused(f"The server refused an option: {said}", code=event.code)
    return ServerError(f"The server reported an error ({event.code}): {said}", code=event.code)


def ended_early() -> ServerError:
    # vLLM's own server does this when a request reaches the length limit of the model.
    return ServerError(
        "The server ended the utterance before the audio did; the text is not complete."
        " Send shorter utterances, or serve with a larger max-model-len.",
        code="ended_early",
    )


def connection_lost(closed: ConnectionClosed) -> ConnectionLost:
    code = closed.reason.code if closed.reason else 1006
    reason = closed.reason.reason if closed.reason else None
    said = f", saying: {_one_line(reason)}" if reason else "."
    advice = " Connect again, and look at the server's log if that does not help."
    if code == 1006:
        message = "The connection broke without a close frame." + advice
    else:
        message = f"The server closed the connection with code {code}{said}" + (
            advice if said == "." else ""
        )
    return ConnectionLost(message, code=code, reason=reason)


def unanswered(url: str, timeout_s: float) -> NotReachable:
    return NotReachable(
        f"No WebSocket answer from {without_query(url)} within {timeout_s:g} s."
        " Check the address, the port, and ws:// against wss://."
    )


def raise_unopened(error: HandshakeError, url: str) -> NoReturn:
    shown = without_query(url)
    if isinstance(error, ConnectionRejected):
        raise _rejected(error, shown) from None
    raise NotReachable(
        f"Nothing answers at {shown}: {_why(error.__cause__)}."
        " Is the daemon running? Start it with: realtimed serve"
    ) from None


def _why(error: BaseException | None) -> str:
    """The system's words for a failed connection; Trio puts them beneath its own."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            # Trio puts the address into `strerror`; name resolution has numbers below zero.
            number = error.errno or 0
            return os.strerror(number) if number > 0 else _one_line(error.strerror)
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__
    return "no connection"


def _rejected(error: ConnectionRejected, shown: str) -> Refused:
    status, said = error.status_code, _said(error.body)
    if status in (401, 403):
        return Unauthorised(
            f"The server refused the connection with HTTP {status}{said}."
            " Expected a valid API key and a path that is served.",
            status=status,
        )
    if status in (429, 503):
        retry_after_s = _retry_after_s(error)
        when = "later" if retry_after_s is None else f"in {retry_after_s} s"
        return Unavailable(
            f"The server is not available now (HTTP {status}){said}. Try again {when}.",
            status=status,
            retry_after_s=retry_after_s,
        )
    return Refused(
        f"The server refused the connection with HTTP {status}{said}."
        f" Expected a WebSocket at {shown}: check the path of the URL.",
        status=status,
    )


def _retry_after_s(error: ConnectionRejected) -> int | None:
    for name, value in error.headers:
        if name.lower() == b"retry-after" and re.fullmatch(rb"[0-9]{1,9}", value.strip()):
            return int(value)
    return None


class _Body(msgspec.Struct):
    """The JSON bodies of refusals: `{"error": {"message": ...}}` and flatter ones."""

    error: str | dict[str, object] | None = None
    message: str | None = None


def _said(body: bytes | None) -> str:
    """What the body of a refusal says, as the tail of a sentence; empty for HTML and the like."""
    try:
        parsed = msgspec.json.decode(body or b"", type=_Body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
    inner = parsed.error.get("message") if isinstance(parsed.error, dict) else parsed.error
    text = inner or parsed.message
    return f": {_one_line(text).rstrip('.')}" if isinstance(text, str) else ""


def _one_line(text: str, limit: int = 300) -> str:
    """`text` without line breaks and control characters, for a terminal and a log."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(plain.split())[:limit]
