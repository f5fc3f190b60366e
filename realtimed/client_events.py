"""What a server says, as the events of a client: decoded, numbered, iterated over."""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from realtimed.client_errors import ProtocolError, ended_early, error_from
from realtimed.errors import EngineBusy, EngineFailed, WireError
from realtimed.wire import vllm
from realtimed.wire.events import (
    ErrorOccurred,
    ServerEvent,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    UtteranceDone,
    Warned,
)

_ENDS_AN_UTTERANCE = (EngineFailed.code, EngineBusy.code)


def decode(message: str | bytes) -> ServerEvent | None:
    """Parse one message; `None` for an event of an unknown type. Raises: `ProtocolError`."""
    try:
        return vllm.decode_server(message)
    except WireError as error:
        raise ProtocolError(error.message) from error


class Numbering:
    """Numbers the utterances of a session from 0, in the order in which they end.

    The dialect has no numbers. Speech may begin while the text of earlier turns is still to come,
    so its events are counted on their own: the numbers agree where each turn of speaking is one
    utterance, which a final commit in the middle of a turn makes two.
    """

    def __init__(self) -> None:
        self._utterance = 0
        self._turn = -1

    def take(self, event: ServerEvent | None) -> ServerEvent | None:
        """The event with its number, or `None` if it says nothing."""
        match event:
            case TextDelta(text=""):
                # vLLM sends one for every frame, text or none.
                return None
            case TextDelta():
                return replace(event, utterance=self._utterance)
            case UtteranceDone():
                self._utterance += 1
                return replace(event, utterance=self._utterance - 1)
            case SpeechStarted():
                self._turn = max(self._turn + 1, self._utterance)
                return replace(event, utterance=self._turn)
            case SpeechStopped():
                return replace(event, utterance=max(self._turn, 0))
            case ErrorOccurred():
                self._utterance += event.code in _ENDS_AN_UTTERANCE
                return event
            case Warned():
                return event
        return None


class Events:
    """What `Session.events` returns: no generator, so leaving it early needs no closing."""

    def __init__(self, next_event: Callable[[], Awaitable[ServerEvent | None]]) -> None:
        self._next_event = next_event

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> ServerEvent:
        event = await self._next_event()
        if event is None:
            raise StopAsyncIteration
        return event


class Utterance:
    """What `Session.transcribe` gives: the events of one utterance, errors as exceptions."""

    def __init__(
        self, expect: Callable[[], Awaitable[ServerEvent]], end_sent: Callable[[], bool]
    ) -> None:
        self.warnings: list[Warned] = []
        """What the server has warned of so far, if warnings are included."""
        self._expect = expect
        self._end_sent = end_sent
        self._ended = False
        self._ended_early = False

    def __aiter__(self) -> "Utterance":
        return self

    async def __anext__(self) -> TextDelta | UtteranceDone:
        if self._ended_early:
            raise ended_early()
        if self._ended:
            raise StopAsyncIteration
        while True:
            match await self._expect():
                case TextDelta() as delta:
                    return delta
                case UtteranceDone() as done:
                    self._ended = True
                    self._ended_early = not self._end_sent()
                    return done
                case ErrorOccurred() as error:
                    raise error_from(error)
                case Warned() as warned:
                    self.warnings.append(warned)
