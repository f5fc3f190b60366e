"""Heard words against the truth: alignment, errors, and where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from benchmarks.audio import Spoken

_SECOND = 1e-3
"""What a second between the ends of two words costs, in errors: it only breaks ties."""
_FAR_S = 20.0


class Kind(Enum):
    """What became of a word."""

    RIGHT = "right"
    SUBSTITUTED = "substituted"
    DELETED = "deleted"
    INSERTED = "inserted"


class Pair(NamedTuple):
    """A word of the truth and the heard word that stands for it, by index; `None`: none does."""

    true: int | None
    heard: int | None
    kind: Kind


@dataclass(frozen=True)
class Errors:
    """Counts over some words of the truth."""

    words: int
    substituted: int
    deleted: int
    inserted: int

    @property
    def rate(self) -> float:
        """The word error rate; nan for no words."""
        wrong = self.substituted + self.deleted + self.inserted
        return wrong / self.words if self.words else float("nan")

    def __str__(self) -> str:
        counts = f"{self.substituted} + {self.deleted} + {self.inserted}"
        return f"{self.rate:.2%} ({counts} of {self.words})"


def align(truth: Sequence[str], heard: Sequence[str]) -> list[Pair]:
    """The cheapest way to turn one into the other: each pair of words, in order."""
    return _align([(word, 0.0) for word in truth], [(word, 0.0) for word in heard])


def align_timed(truth: Sequence[Spoken], heard: Sequence[Spoken]) -> list[Pair]:
    """The same number of errors, with words paired that ended at about the same time."""
    return _align(
        [(word.word, word.end_s) for word in truth], [(word.word, word.end_s) for word in heard]
    )


def _align(truth: Sequence[tuple[str, float]], heard: Sequence[tuple[str, float]]) -> list[Pair]:
    """Levenshtein's table, a row at a time, with numpy along the row."""
    vocabulary = {word: number for number, word in enumerate({w for w, _ in [*truth, *heard]})}
    columns = len(heard) + 1
    ids = np.array([vocabulary[word] for word, _ in heard], np.int64)
    ends = np.array([end for _, end in heard], np.float64)
    steps = np.arange(columns, dtype=np.float64)
    table = np.empty((len(truth) + 1, columns))
    table[0] = steps
    for row, (word, end) in enumerate(truth, 1):
        apart = _SECOND * np.minimum(np.abs(ends - end), _FAR_S)
        best = table[row - 1] + 1
        best[1:] = np.minimum(best[1:], table[row - 1, :-1] + (ids != vocabulary[word]) + apart)
        # An insertion costs one a step along the row.
        table[row] = np.minimum.accumulate(best - steps) + steps
    return _trace(table, truth, heard)


def _trace(
    table: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    truth: Sequence[tuple[str, float]],
    heard: Sequence[tuple[str, float]],
) -> list[Pair]:
    i, j, pairs = len(truth), len(heard), []
    while i or j:
        if i and j:
            same = truth[i - 1][0] == heard[j - 1][0]
            apart = _SECOND * min(abs(truth[i - 1][1] - heard[j - 1][1]), _FAR_S)
            if np.isclose(table[i, j], table[i - 1, j - 1] + (not same) + apart, atol=1e-9):
                i, j = i - 1, j - 1
                pairs.append(Pair(i, j, Kind.RIGHT if same else Kind.SUBSTITUTED))
                continue
        if i and np.isclose(table[i, j], table[i - 1, j] + 1, atol=1e-9):
            i -= 1
            pairs.append(Pair(i, None, Kind.DELETED))
        else:
            j -= 1
            pairs.append(Pair(None, j, Kind.INSERTED))
    return pairs[::-1]


def count(pairs: Sequence[Pair]) -> Errors:
    """How many errors of each kind."""
    kinds = [pair.kind for pair in pairs]
    return Errors(
        words=sum(pair.true is not None for pair in pairs),
        substituted=kinds.count(Kind.SUBSTITUTED),
        deleted=kinds.count(Kind.DELETED),
        inserted=kinds.count(Kind.INSERTED),
    )
