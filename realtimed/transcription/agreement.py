"""LocalAgreement-2: which of the changing text of a growing window can be told for good. Sans-IO.

A window of audio that grows is transcribed again and again, and each time its last words may come
out otherwise. What two hypotheses in a row agree on is *committed*: it is told and never changed
(Liu et al. 2020, "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial
Hypothesis Selection"; Macháček et al. 2023, "Turning Whisper into Real-Time Transcription System").

Compared are words without their case and punctuation, or characters where a script has no spaces.
Told are slices of a hypothesis as it was written. Punctuation behind the last agreed word waits for
what follows it, since the end of a window looks like the end of a sentence.

Words that the recogniser was not sure of need more than that: a beginning that is wrong is often
heard wrong twice, but seldom with confidence, and seldom for two seconds.

A later hypothesis may contradict what is committed. An alignment of least edit distance then tells
where in it the committed words end; it goes on from there.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

from realtimed.transcription.words import unspaced

_NOT_SPEECH: Final = re.compile(r"\[[^\]]*\]|\([^)]*\)|（[^）]*）|【[^】]*】|\*[^*]*\*|[♪♫]+")
"""What recognisers write for sounds: [BLANK_AUDIO], (water running), *coughs*."""
_SURE: Final = math.log(0.4)
"""A token of which the model itself is less sure is not told when it was said but twice."""
_DOUBT_S: Final = 2.0
"""All hypotheses say such a one while the window grows by so many seconds, before it is told."""
_LONGEST_PERIOD: Final = 12
_REPETITIONS: Final = 4


class Unit(NamedTuple):
    """A word, or a character of a script without spaces: [`begin`, `end`) of the text.

    The punctuation behind it is not counted.
    """

    key: str
    """What is compared."""
    begin: int
    end: int


class _Heard(NamedTuple):
    """A unit of the last hypothesis."""

    key: str
    sure: bool
    since: float
    """Of all hypotheses in a row that said it, and all before it, where the first window ended."""


class LocalAgreement:
    """The committed text of one window, whose beginning stays and whose end grows."""

    def __init__(self) -> None:
        self._committed: list[str] = []
        self._earlier: list[_Heard] = []
        self.text = ""
        """What is committed, as the last hypothesis that has all of it writes it."""

    def hypothesis(
        self, text: str, heard_s: float, tokens: Sequence[tuple[int, float]] = ()
    ) -> str:
        """Take one more hypothesis; the text that is committed by it, often none.

        `heard_s`: where the window ends, in seconds. `tokens`: where in `text` each token ends, and
        its log probability.
        """
        said = units(text)
        keys = [unit.key for unit in said]
        begin = aligned(self._committed, keys)
        before = [heard.key for heard in self._earlier]
        earlier = self._earlier[aligned(self._committed, before) :]
        same = _common(keys[begin:], [heard.key for heard in earlier])
        unsure = _unsure(said, tokens)
        now = [_Heard(key, number not in unsure, heard_s) for number, key in enumerate(keys)]
        for at, last in enumerate(earlier[:same], begin):
            now[at] = now[at]._replace(since=last.since)
        agreed = begin
        for last in earlier[:same]:
            if not (last.sure and now[agreed].sure) and heard_s - last.since < _DOUBT_S:
                break
            agreed += 1
        self._committed += keys[begin:agreed]
        self._earlier = now
        if agreed:
            self.text = text[: _end(said, agreed)]
        return text[_end(said, begin) : _end(said, agreed)]

    def final(self, text: str) -> str:
        """Take the last hypothesis; the rest of the text, behind what has been committed."""
        said = units(text)
        keys = [unit.key for unit in said]
        begin = aligned(self._committed, keys)
        if self._committed and not keys:
            return ""
        self._committed += keys[begin:]
        return text[_end(said, begin) :] if said else ""


def units(text: str) -> list[Unit]:
    """The words of `text`; of scripts without spaces, the characters."""
    found: list[Unit] = []
    begin: int | None = None
    for at, character in enumerate(text):
        # Marks belong to the letter before them: vowel signs, accents.
        mark = begin is not None and unicodedata.category(character)[0] == "M"
        if not (mark or character.isalnum()):
            _close(found, text, begin, at)
            begin = None
        elif begin is None:
            begin = at
        elif not mark and (unspaced(character) or unspaced(text[at - 1])):
            _close(found, text, begin, at)
            begin = at
    _close(found, text, begin, len(text))
    return found


def _close(found: list[Unit], text: str, begin: int | None, end: int) -> None:
    if begin is not None:
        key = unicodedata.normalize("NFKC", text[begin:end]).casefold()
        found.append(Unit(key, begin, end))


def _unsure(said: Sequence[Unit], tokens: Sequence[tuple[int, float]]) -> set[int]:
    """Numbers of the units that have a part in a token of which the model was not sure."""
    doubts, begin = [], 0
    for end, logprob in tokens:
        if logprob < _SURE:
            doubts.append((begin, end))
        begin = end
    return {
        number
        for number, unit in enumerate(said)
        if any(begin < unit.end and unit.begin < end for begin, end in doubts)
    }


def aligned(before: Sequence[str], now: Sequence[str]) -> int:
    """How many units of `now` say what `before` says: the cut of least edit distance.

    Of equally good cuts it is the last one: a word that was heard otherwise is not said again.
    """
    same = _common(before, now)
    if same == len(before):
        return same
    before, now = before[same:], now[same:]
    costs = list(range(len(now) + 1))
    for row, unit in enumerate(before, 1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(now, 1):
            replaced = diagonal + (unit != other)
            diagonal = costs[column]
            costs[column] = min(replaced, diagonal + 1, costs[column - 1] + 1)
    least = min(costs)
    return same + len(now) - costs[::-1].index(least)


def speech(text: str) -> str:
    """`text`, trimmed; empty if it has no words besides descriptions of sounds."""
    return text.strip() if units(_NOT_SPEECH.sub(" ", text)) else ""


def without_loop(text: str) -> str:
    """`text` less the repetitions at its end, where a recogniser got stuck.

    What counts is a group of up to twelve units, four times in a row up to the end of the text; the
    last repetition may be broken off. One of them stays.
    """
    said = units(text)
    keys = [unit.key for unit in said]
    for period in range(1, min(_LONGEST_PERIOD, len(keys) // _REPETITIONS) + 1):
        begin = len(keys)
        while begin > period and keys[begin - 1] == keys[begin - 1 - period]:
            begin -= 1
        if len(keys) - begin >= period * (_REPETITIONS - 1):
            return text[: said[begin - 1].end]
    return text


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the common beginning."""
    for length, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return length
    return min(len(one), len(other))


def _end(said: Sequence[Unit], count: int) -> int:
    """Where the first `count` units end in their text."""
    return said[count - 1].end if count else 0
