"""What the connections of a daemon have come to: plain numbers, for whoever wants to read them."""

from collections import Counter
from dataclasses import dataclass, field

import trio

from realtimed.distribution import SECONDS, Distribution


@dataclass(slots=True)
class Tally:
    """Since the start. Of a session that goes on, what it has to count for itself is not in it."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Sessions by dialect and outcome."""
    refused: Counter[str] = field(default_factory=Counter)
    """Upgrades by the code of their refusal."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Messages of clients by the code of the error that answered them."""
    audio_s: float = 0.0
    received_bytes: int = 0
    sent_bytes: int = 0
    first_text_s: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    """From an utterance's beginning to its first text."""
    final_s: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    """From the end of an utterance's audio to its final."""


class UtteranceTimes:
    """When the utterances of one session began and ended; what they come to goes to the tally."""

    __slots__ = ("_began", "_ended", "_tally")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._began: dict[int, float] = {}
        self._ended: dict[int, float] = {}

    def began(self, utterance: int) -> None:
        """The utterance takes audio from now on."""
        self._began[utterance] = trio.current_time()

    def text(self, utterance: int) -> None:
        """There is text of it."""
        began = self._began.pop(utterance, None)
        if began is not None:
            self._tally.first_text_s.add(trio.current_time() - began)

    def ended(self, utterance: int) -> None:
        """All of its audio is there."""
        self._ended[utterance] = trio.current_time()

    def done(self, utterance: int) -> None:
        """It has its final."""
        self._tally.final_s.add(trio.current_time() - self._ended[utterance])
        self.forget(utterance)

    def forget(self, utterance: int) -> None:
        """It has had its end, a good one or not."""
        self._began.pop(utterance, None)
        self._ended.pop(utterance, None)
