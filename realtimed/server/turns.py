"""Turns of speaking: what the windows that detection judges cause in a session. Sans-IO.

Detection follows the audio at a distance, so that a client's commit lies ahead of it: windows are
judged whose audio has had its utterance. They still tell whether somebody speaks, and so the end
of a turn. Whether the turn goes on behind the commit is for the windows after it to say, and not
for the first few: speech is found to end a little after it has, and there would be an utterance
with nothing in it.
"""

from typing import Final

from realtimed.audio.turns import SpeechStarted, SpeechStopped, TurnDetection, TurnDetector
from realtimed.audio.vad import WINDOW_SAMPLES
from realtimed.session import Action, Phase, Session
from realtimed.wire.events import ServerVad

_TAIL_SAMPLES: Final = 4 * WINDOW_SAMPLES
"""How much later than it ends speech may be found to end; 100 ms at most in twenty of twenty-one
turns (docs/performance.md)."""


class Turns:
    """One session's detection of turns with one setting of it."""

    def __init__(self, session: Session, vad: ServerVad) -> None:
        settings = TurnDetection(vad.threshold, vad.prefix_padding_ms, vad.silence_duration_ms)
        self._session = session
        self._prefix = settings.prefix_padding_samples
        self._detector = TurnDetector(settings)

    def window(self, probability: float, end: int) -> list[Action]:
        """The window that ends at session position `end` (samples) has been judged."""
        session, event = self._session, self._detector.push(probability, end)
        if isinstance(event, SpeechStopped):
            if session.phase is Phase.LISTENING and event.at <= session.claimed:
                return []  # what was said lies before the open utterance
            return session.speech_stopped(event.at, end)
        if isinstance(event, SpeechStarted) and end > session.claimed:
            return session.speech_started(event.at, self._prefix)
        if self._detector.last_speech_end == end and end > session.claimed + _TAIL_SAMPLES:
            # Nothing, unless no utterance takes the speech, or it has not been told of.
            return session.speech_started(session.claimed, 0)
        return []

    def finish(self, judged: int) -> list[Action]:
        """Other settings follow, which know nothing of the turn: it ends at position `judged`."""
        return self._session.speech_stopped(judged, judged) if self._detector.speaking else []

    def needed_from(self, end: int) -> int | None:
        """The session position from which a turn may still begin, once all before `end` is judged.

        `None` while that is not known to be later than where it was.
        """
        if self._session.unfinished or self._detector.speaking:
            return None
        return end - self._prefix - WINDOW_SAMPLES
