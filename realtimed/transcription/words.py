"""When words were spoken, and how the texts of segments join. Sans-IO.

A streaming model marks the end of a word when it has heard it, and writes it right after. So a
word's end is known to one frame. Its beginning is not told: it is taken to be the end of the word
before it, or the onset of speech after that, where detection knows one. Words that share one mark
share its time. Source: docs/protocol.md says the same to users.
"""

from collections.abc import Callable

from realtimed.wire.events import Word

Onset = Callable[[int], int | None]
"""Session position of the first speech after a position, if it is known."""

# Scripts written without spaces between words: CJK, kana, Thai, Lao, Khmer, Myanmar.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0xA4CF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


class WordClock:
    """The words of one utterance and their places on the session's clock (samples)."""

    def __init__(self, sample_rate: int, begin: int) -> None:
        self._rate = sample_rate
        self._mark: int | None = None
        self._ends_in_space = True
        self._starts_at = begin
        self.words: list[Word] = []
        self.end = begin
        """Where the last word ended."""

    def resume(self, at: int) -> None:
        """A new segment begins at session position `at`: no word of it started before."""
        self._starts_at = max(self._starts_at, at)
        self._mark = None

    def blank(self, mark: int | None) -> None:
        """A frame without text; `mark`: its session position, if it marks the end of a word."""
        self._mark = mark

    def text(self, text: str, at: int, onset: Onset) -> tuple[float, float]:
        """Text that the frame at session position `at` brought; its (start, end) in seconds."""
        end = max(self.end, self._mark if self._mark is not None else at)
        first: float | None = None
        for piece in text.split():
            goes_on = not self._ends_in_space and not text[:1].isspace() and self.words
            if first is None and goes_on:
                last = self.words.pop()
                word = Word(last.word + piece, last.start, self._seconds(end))
            else:
                word = Word(piece, self._seconds(self._start(end, onset)), self._seconds(end))
            self.words.append(word)
            first = word.start if first is None else first
            self.end = self._starts_at = end
        self._ends_in_space = text[-1:].isspace()
        return (self._seconds(end) if first is None else first), self._seconds(end)

    def _start(self, end: int, onset: Onset) -> int:
        spoken = onset(self._starts_at)
        return min(end, max(self._starts_at, spoken or 0))

    def _seconds(self, position: int) -> float:
        return round(position / self._rate, 3)


def join(before: str, text: str) -> str:
    """`text` of a new segment as it goes on after `before`: one space between words.

    The model writes the space before a word as part of it, but not always at its beginning.
    """
    if not before or not text:
        return text
    if before[-1].isspace():
        return text.lstrip()
    needs_space = text[0].isalnum() and not (unspaced(text[0]) or unspaced(before[-1]))
    return " " + text if needs_space else text


def unspaced(character: str) -> bool:
    """Whether a character is of a script that is written without spaces between words."""
    return any(first <= ord(character) <= last for first, last in _UNSPACED)
