"""Tells an utterance that kills engines from those that were merely there. Sans-IO.

A lost engine does not say which frame it died of, so all utterances are resumed. One whose audio
kills would then kill every engine that comes. It gives itself away: at two losses in a row a frame
of it is in the engine, the second time no further on than the first. The others come further, or
are not in the engine at that moment.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Stretch(NamedTuple):
    """Audio on the session's clock, [begin, end) in samples."""

    begin: int
    end: int


@dataclass(slots=True)
class PoisonWatch:
    """One utterance's part in the losses of engines."""

    _suspected: Stretch | None = None
    """What it had in the engine when the last one was lost."""

    def engine_lost(self, in_flight: Stretch | None) -> bool:
        """An engine was lost; `in_flight` is the audio of this utterance's unanswered frame.

        True: the utterance is to be given up.
        """
        before, self._suspected = self._suspected, in_flight
        return before is not None and in_flight is not None and in_flight.begin < before.end
