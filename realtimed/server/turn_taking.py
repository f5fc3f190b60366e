"""Connects a session's turn detection, which clients switch on, off and over, to its audio."""

from collections.abc import Callable

from realtimed.server.turns import Turns
from realtimed.session import Action, Session
from realtimed.transcription.buffer import AudioBuffer
from realtimed.wire.events import ServerVad


class TurnTaking:
    """Passes the windows that are judged on to the detection of turns that the session has now."""

    __slots__ = ("_buffer", "_listens", "_perform", "_session", "_turns", "_wanted")

    def __init__(
        self,
        session: Session,
        buffer: AudioBuffer,
        perform: Callable[[list[Action]], None],
        *,
        listens: bool,
    ) -> None:
        """`perform`: carries out what turns cause; `listens`: whether all audio is judged even
        without turn detection, for recognition.
        """
        self._session = session
        self._buffer = buffer
        self._perform = perform
        self._listens = listens
        self._wanted: ServerVad | None = None
        self._turns: Turns | None = None

    def follow(self) -> None:
        """Take up the session's turn detection as it is now, where that has changed."""
        wanted, hearing = self._session.turn_detection, self._buffer.hearing
        if wanted == self._wanted:
            return
        if self._turns is not None:
            self._perform(self._turns.finish(hearing.judged))
        self._wanted = wanted
        if wanted is None:
            self._turns = None
            hearing.on_window, hearing.always = None, self._listens
            return
        self._turns = Turns(self._session, wanted)
        hearing.on_window = self._on_window
        self._buffer.listen(self._buffer.ring.start)

    def _on_window(self, probability: float, end: int) -> None:
        assert self._turns is not None
        self._perform(self._turns.window(probability, end))
        position = self._turns.needed_from(end)
        if position is not None:
            self._session.forget(position)
            self._buffer.release(position)
