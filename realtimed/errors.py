"""The one tree of errors, each with its wire code, close code or exit code beside it.

Three families, told apart by who meets them:

* `StartError` and its children reach the operator: one line on stderr and an exit code.
* `Refusal` reaches a peer before the upgrade: an HTTP status, never an accepted socket.
* `WireError` reaches a connected client: an error event with a stable `code`; where
  `close_code` is set, the session cannot go on and the socket closes with it.

Messages are one line and say what happened, what was expected and what to do. They never
carry Python reprs, paths of the server, stack traces, audio or text of a transcript.

One reaches nobody: `EngineLost` is how the engine room tells recognition to begin again.
"""

from typing import ClassVar


class RealtimedError(Exception):
    """Root of every error this project raises on purpose."""


# --- to the operator ---------------------------------------------------------------------


class StartError(RealtimedError):
    """The command cannot start or go on; the message is shown and the process exits."""

    exit_code: ClassVar[int] = 1


class ConfigError(StartError):
    """A setting is unknown, malformed or contradicts another."""

    exit_code = 2


class EngineStartError(StartError):
    """The engine did not come up: bad model, bad engine argument, no memory."""

    exit_code = 3


class EngineDeadError(StartError):
    """The engine died or stopped answering while serving, and could not be brought back."""

    exit_code = 4


# --- inside the daemon -------------------------------------------------------------------


class EngineLost(RealtimedError):
    """The engine that ran this request is gone; another one may come."""


# --- to a peer, before the upgrade -------------------------------------------------------


class Refusal(RealtimedError):
    """An HTTP answer instead of a WebSocket upgrade (RFC 6455 section 4.2.2).

    `retry_after_s` becomes a Retry-After header where trying again helps.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


# --- to a connected client ---------------------------------------------------------------


class WireError(RealtimedError):
    """An error event. Without a `close_code` the session goes on."""

    code: ClassVar[str] = "processing_error"
    close_code: ClassVar[int | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidJson(WireError):
    """The message is not JSON."""

    code = "invalid_json"


class InvalidEvent(WireError):
    """JSON, but not an event: no object, a missing field, a field of the wrong type."""

    code = "invalid_event"


class UnknownEvent(WireError):
    """An object whose `type` is absent or names no event of the dialect."""

    code = "unknown_event"


class InvalidAudio(WireError):
    """Audio that is empty, not strict base64, or not whole samples; the chunk is dropped."""

    code = "invalid_audio"


class ModelNotFound(WireError):
    """The session asked for a model that is not served here."""

    code = "model_not_found"


class ModelNotValidated(WireError):
    """A commit came before any valid `session.update`."""

    code = "model_not_validated"


class UnsupportedOption(WireError):
    """The session asked for an option that is not served here; nothing was changed."""

    code = "unsupported_option"


class EngineFailed(WireError):
    """The engine failed this utterance; the session stays usable."""

    code = "engine_error"


class EngineBusy(WireError):
    """No engine slot came free in time; the utterance ends, the session goes on."""

    code = "engine_busy"


class EngineUnavailable(WireError):
    """The engine is gone and does not come back; the session ends (RFC 6455 close 1011)."""

    code = "engine_unavailable"
    close_code = 1011


class BufferOverflow(WireError):
    """The audio ring stayed full past the grace period (close 1013, try again later)."""

    code = "buffer_overflow"
    close_code = 1013


class IdleTimeout(WireError):
    """Neither audio nor events for too long (close 1001)."""

    code = "idle_timeout"
    close_code = 1001


class MessageTooBig(WireError):
    """A WebSocket message over the limit (close 1009)."""

    code = "message_too_big"
    close_code = 1009


class SlowReader(WireError):
    """The client did not read for too long while text was waiting (close 1013)."""

    code = "slow_reader"
    close_code = 1013


class Draining(WireError):
    """The daemon is stopping; finals have been sent (close 1001)."""

    code = "draining"
    close_code = 1001


class Ended(WireError):
    """The client said that it has no more audio, and all has been said: no error at all."""

    code = "ended"
    close_code = 1000
