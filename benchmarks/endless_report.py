"""What `benchmarks.endless` found, as markdown; it says how each figure is defined."""

from collections.abc import Sequence
from typing import Any

from benchmarks.audio import Spoken, Track
from benchmarks.common import percentile
from benchmarks.frontend import OURS, THEIRS
from benchmarks.words import Kind, Pair, align, align_timed, count

PIECES = "pieces"
NEAR_S = 2.0
CUTS = ("silence", "soft_age", "hard_age", "blanks", "stall")
"""Reasons why the daemon cuts a stream before its end, as in its state line."""

# --- what was heard ---------------------------------------------------------------------------


def spoken(words: Sequence[dict[str, Any]]) -> list[Spoken]:
    """The words of a `done` event."""
    return [Spoken(word["word"], word["start"], word["end"]) for word in words]


def piece_pairs(track: Track, texts: Sequence[str]) -> list[Pair]:
    """The pieces' words aligned with the track's, piece by piece."""
    pairs: list[Pair] = []
    first = 0
    for piece, text in zip(track.pieces(), texts, strict=True):
        for pair in align([word.word for word in piece.words], text.split()):
            true = None if pair.true is None else first + pair.true
            pairs.append(pair._replace(true=true))
        first += len(piece.words)
    return pairs


def near_cuts(
    truth: Sequence[Spoken], cuts: Sequence[tuple[str, float, float]]
) -> dict[str, set[int]]:
    """For each reason the words of the truth near such a cut, and `elsewhere` the others."""
    near: dict[str, set[int]] = {}
    for name, low, high in cuts:
        near.setdefault(name, set()).update(
            number
            for number, word in enumerate(truth)
            if low - NEAR_S <= word.end_s and word.start_s <= high + NEAR_S
        )
    near["elsewhere"] = set(range(len(truth))) - set().union(*near.values())
    return near


def placed(pairs: Sequence[Pair]) -> list[tuple[int, Pair]]:
    """Each pair with the word of the truth that it belongs to; an insertion to the one before."""
    found, last = [], 0
    for pair in pairs:
        last = last if pair.true is None else pair.true
        found.append((last, pair))
    return found


def doubled(pairs: Sequence[Pair], heard: Sequence[Spoken]) -> list[Pair]:
    """Insertions beside the same word."""
    found = []
    for pair in pairs:
        if pair.kind is Kind.INSERTED and pair.heard is not None:
            beside = {*range(max(0, pair.heard - 1), pair.heard + 2)} - {pair.heard}
            word = heard[pair.heard].word
            if any(heard[other].word == word for other in beside if other < len(heard)):
                found.append(pair)
    return found


def cut_rows(track: Track, ours: dict[str, Any], pieces: list[Pair]) -> list[list[str]]:
    """Per reason: cuts, words near them, errors here and in the pieces, words lost and doubled."""
    heard = spoken(ours["words"])
    pairs = align_timed(track.words, heard)
    twice = doubled(pairs, heard)
    right = {pair.true for pair in pieces if pair.kind is Kind.RIGHT}
    rows = []
    for name, near in near_cuts(track.words, ours["brackets"]).items():
        here = [pair for at, pair in placed(pairs) if at in near]
        alone = [pair for at, pair in placed(pieces) if at in near]
        lost = [p for p in here if p.kind is Kind.DELETED and p.true in right]
        errors = [str(count(here)), str(count(alone)) if pieces else "-"]
        number = str(ours["cuts"][name]) if name in ours["cuts"] else "-"
        twice_here = sum(pair in here for pair in twice)
        rows.append([name, number, *errors, str(len(lost)) if pieces else "-", str(twice_here)])
    return rows


def end_errors_s(track: Track, ours: dict[str, Any]) -> list[float]:
    """Heard minus true end of each word that was right."""
    heard = spoken(ours["words"])
    return [
        heard[pair.heard].end_s - track.words[pair.true].end_s
        for pair in align_timed(track.words, heard)
        if pair.kind is Kind.RIGHT and pair.heard is not None and pair.true is not None
    ]


# --- report -----------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def minute_table(results: dict[str, Any]) -> str:
    """All servers side by side, a line a minute."""
    servers = [name for name in (OURS, THEIRS) if name in results]
    figures = (
        ("steps", "steps", 0),
        ("engine CPU, ms a step", "engine_ms", 2),
        ("serving CPU, ms a step", "serving_ms", 2),
        ("wall, ms a step", "wall_ms", 2),
        ("engine, MiB", "engine_mib", 0),
        ("serving, MiB", "serving_mib", 0),
    )
    head = ["minute", *(f"{server}: {title}" for server in servers for title, _, _ in figures)]
    last = max(len(results[server]["minutes"]) for server in servers)
    rows = []
    for number in (m for m in range(1, last + 1) if m <= 10 or m % 5 == 0):
        row = [str(number)]
        for server in servers:
            of = results[server]["minutes"]
            known = of[number - 1] if number <= len(of) else {}
            row += [f"{known[name]:.{digits}f}" if known else "-" for _, name, digits in figures]
        rows.append(row)
    return table(head, rows)


def flatness(ours: dict[str, Any]) -> list[str]:
    """The last minute against the second, and memory from the second on."""
    of = ours["minutes"]
    second, last = of[1], of[-1]
    lines = [
        f"- {title}: {last[name]:.2f} / {second[name]:.2f} ms = {last[name] / second[name]:.2f}"
        for title, name in (
            ("engine CPU a step, last minute / second", "engine_ms"),
            ("serving CPU a step", "serving_ms"),
            ("wall a step", "wall_ms"),
        )
    ]
    for name in ("engine_mib", "serving_mib"):
        growth = max(row[name] for row in of[1:]) - second[name]
        lines.append(
            f"- {name.removesuffix('_mib')} memory: at most {growth:.1f} MiB above the end of "
            f"minute 2, {last[name] - second[name]:+.1f} MiB at the end"
        )
    return lines


def report(results: dict[str, Any], track: Track, first_s: float) -> str:
    """Everything that is known, as markdown."""
    about = results["machine"]
    lines = [f"{about['cpu']}, {about['cores']} cores; {results['versions']}", ""]
    if OURS in results or THEIRS in results:
        lines += [minute_table(results), ""]
    pieces = piece_pairs(track, results[PIECES]) if PIECES in results else []
    if OURS in results:
        ours = results[OURS]
        lines += [f"{track.seconds / 60:.0f} minutes in {ours['wall_s']:.0f} s of wall time", ""]
        lines += [*flatness(ours), f"- warnings: {ours['warnings'] or 'none'}"]
        errors = end_errors_s(track, ours)
        lines.append(
            f"- word ends: median error {1000 * percentile(errors, 50):+.0f} ms, absolute "
            f"{1000 * percentile([abs(e) for e in errors], 50):.0f} ms, 95 % within "
            f"{1000 * percentile([abs(e) for e in errors], 95):.0f} ms"
        )
        head = ["words near", "cuts", "errors", "errors in pieces", "lost", "doubled"]
        lines += ["", table(head, cut_rows(track, ours, pieces)), ""]
    return "\n".join([*lines, table(*error_table(results, track, pieces, first_s))])


def error_table(
    results: dict[str, Any], track: Track, pieces: list[Pair], first_s: float
) -> tuple[list[str], list[list[str]]]:
    """Word error rates (substituted + deleted + inserted), of the beginning and of all."""
    n_first = len(track.part(0, first_s).words)
    first, truth = [w.word for w in track.words[:n_first]], [w.word for w in track.words]
    rows = []
    if OURS in results:
        heard = results[OURS]["words"]
        begun = [word["word"] for word in heard if word["end"] < first_s]
        whole = [word["word"] for word in heard]
        rows.append([OURS, str(count(align(first, begun))), str(count(align(truth, whole)))])
    if THEIRS in results:
        rows.append([THEIRS, str(count(align(first, results[THEIRS]["text"].split()))), "-"])
    if pieces:
        begun_pairs = [pair for at, pair in placed(pieces) if at < n_first]
        rows.append(["in pieces", str(count(begun_pairs)), str(count(pieces))])
    return ["word errors", f"first {first_s / 60:.0f} min", "all"], rows
