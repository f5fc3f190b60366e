"""`realtimed transcribe FILE...`: sound files in, text out, at the speed of speech.

Text goes to standard output and everything else to standard error, so that a script can take
the one without the other. The words appear as they are recognised where there is a terminal.
"""

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from realtimed.audio_files import (
    SAMPLE_RATE,
    STDIN,
    AudioFileError,
    Samples,
    display_name,
    probe,
    read_chunks,
)
from realtimed.client import (
    ClientError,
    Guidance,
    ModelUnknown,
    OptionRefused,
    ServerError,
    Session,
    connect,
)
from realtimed.wire.events import TextDelta, Usage

DEFAULT_URL: Final = "ws://127.0.0.1:8000"
DEFAULT_CHUNK_MS: Final = 80
LONG_FILE_S: Final = 30.0

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_FILE: Final = 7
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141

_EXIT_CODES: Final = """\
exit codes:
  0    every file was transcribed
  2    wrong usage: an option or the URL is not valid
  3    the daemon is not there, or what is there is no WebSocket server
  4    the daemon refused: API key (401, 403), path (404) and the like
  5    the daemon is not available now (503, 429); the message says when to try again
  6    the model is not served, or does not take an option
  7    a file could not be read; the others were transcribed
  8    the server failed, or the connection was lost
  130  interrupted
  141  nobody reads the output any more

With several files, an error that ends the run decides the code, else the first failure does.
"""


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """What came back for one file, as `--format json` prints it.

    `audio_seconds` is what was sent; `usage` is the server's count. `model` is what was asked
    for, `null` for the served one.
    """

    file: str
    text: str
    audio_seconds: float
    usage: Usage
    model: str | None = None


# --- the command line --------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command on `parser`: its options, and its exit codes under `--help`.

    The namespace that it parses is what `run` takes.
    """
    parser.description = "Stream sound files to a running daemon and print their text."
    parser.epilog = _EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="WAV, FLAC or OGG; - is raw PCM16 mono on stdin")
    add("--url", help=f"the daemon (default: $REALTIMED_URL, else {DEFAULT_URL})")
    add("--model", default="", help="model name (default: the one that is served)")
    add("--language", help="language of the speech, ISO 639-1 (default: the model finds out)")
    add("--prompt", default="", help="text as if said before: sets style and spelling of names")
    add("--hotwords", type=_words, default=(), metavar="WORD,...", help="words to be expected")
    add("--temperature", type=_temperature, default=0.0, help="of sampling, 0 (default) to 2")
    add("--api-key", help="API key; better set in $REALTIMED_API_KEY, where ps does not show it")
    add("--ca-file", metavar="FILE", help="trust these certificates (PEM), not the system's")
    add("--fast", action="store_true", help="send as fast as the daemon takes it, not in real time")
    add(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: one line with one object for each file",
    )
    add(
        "--rate",
        type=_in_range(1_000, 768_000),
        default=SAMPLE_RATE,
        metavar="HZ",
        help="sample rate of raw PCM on stdin (default: %(default)s)",
    )
    add(
        "--chunk-ms",
        type=_in_range(1, 10_000),
        default=DEFAULT_CHUNK_MS,
        metavar="MS",
        help="sound in one message (default: %(default)s)",
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError("expected a number from 0 to 2")
    return value


def _in_range(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdecimal() else low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}")
        return value

    return parse


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit code; errors are one line each on standard error."""
    if STDIN in args.files and sys.stdin.isatty():
        return _complain("stdin is a terminal. Expected raw PCM16: pipe it in.", EXIT_USAGE)
    try:
        return trio.run(_Run(args).main)
    except KeyboardInterrupt:
        return _complain("Interrupted.", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit and would complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return _complain("Interrupted.", EXIT_INTERRUPTED)


def _complain(message: str, exit_code: int) -> int:
    print(f"realtimed transcribe: {message}", file=sys.stderr, flush=True)
    return exit_code


# --- the run -----------------------------------------------------------------------------


class _Run:
    """One call of the command: the files that are left and the exit code so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._several = len(args.files) > 1
        self._left: deque[str] = deque()
        self._exit_code = EXIT_OK

    async def main(self) -> int:
        """Transcribe all files over one connection, or over a new one after a server error."""
        for path in self._args.files:
            await self._check(path)
        try:
            while self._left:
                async with self._connect() as session:
                    await self._go_on(session)
        except ClientError as error:
            return _complain(error.message, error.exit_code)
        return self._exit_code

    async def _check(self, path: str) -> None:
        """Queue a file, or report that it cannot be read before anything is sent."""
        try:
            await trio.to_thread.run_sync(lambda: probe(path, stdin_rate=self._args.rate))
        except AudioFileError as error:
            self._failed(str(error), EXIT_FILE)
        else:
            self._left.append(path)

    def _connect(self) -> AbstractAsyncContextManager[Session]:
        url = self._args.url or os.environ.get("REALTIMED_URL") or DEFAULT_URL
        api_key = self._args.api_key or os.environ.get("REALTIMED_API_KEY")
        ca_file = self._args.ca_file
        args = self._args
        guidance = Guidance(args.language, args.prompt, args.hotwords, args.temperature)
        return connect(url, model=args.model, guidance=guidance, api_key=api_key, ca_file=ca_file)

    async def _go_on(self, session: Session) -> None:
        """Transcribe what is left, until the server fails one: its session may be spoilt."""
        while self._left:
            path = self._left.popleft()
            try:
                transcript = await self._transcribe(session, path)
            except AudioFileError as error:
                self._failed(str(error), EXIT_FILE)
            except (ModelUnknown, OptionRefused):
                raise
            except ServerError as error:
                self._failed(f"{display_name(path)}: {error.message}", error.exit_code)
                return
            else:
                self._print(transcript)

    async def _transcribe(self, session: Session, path: str) -> Transcript:
        info = probe(path, stdin_rate=self._args.rate)
        with _display(info.seconds, words=self._args.format == "text") as display:
            return await stream_file(
                session,
                path,
                pace=None if self._args.fast else 1.0,
                chunk_ms=self._args.chunk_ms,
                stdin_rate=self._args.rate,
                model=self._args.model,
                on_text=display.add_text,
                on_progress=display.set_seconds,
            )

    def _failed(self, message: str, exit_code: int) -> None:
        _complain(message, exit_code)
        self._exit_code = self._exit_code or exit_code

    def _print(self, transcript: Transcript) -> None:
        if self._args.format == "json":
            print(msgspec.json.encode(transcript).decode(), flush=True)
        elif self._several:
            print(f"{transcript.file}: {transcript.text}", flush=True)
        else:
            print(transcript.text, flush=True)


async def stream_file(
    session: Session,
    path: str,
    *,
    pace: float | None = 1.0,
    chunk_ms: int = DEFAULT_CHUNK_MS,
    stdin_rate: int = SAMPLE_RATE,
    model: str = "",
    on_text: Callable[[str], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Transcript:
    """Stream one file, or `-`, as one utterance and return its text.

    `pace` is in multiples of the speed of speech, `None` for as fast as it goes. `on_text` gets
    each piece of text as it comes, to be appended as it is; `on_progress` gets the seconds of
    sound sent so far. Both are called from this task's event loop and must not block.

    Raises: `AudioFileError` (a file that is damaged half-way still leaves the session usable),
    and what `Session.transcribe` raises.
    """
    chunks = _Chunks(path, chunk_ms, stdin_rate, on_progress)
    done = None
    try:
        async with session.transcribe(chunks, pace=pace) as events:
            async for event in events:
                if not isinstance(event, TextDelta):
                    done = event
                elif on_text is not None:
                    on_text(event.text)
    finally:
        chunks.close()
    if chunks.damage is not None:
        raise chunks.damage
    assert done is not None, "transcribe ends with a final or an exception"
    return Transcript(
        file=display_name(path),
        text=done.text.strip(),
        audio_seconds=round(chunks.samples / SAMPLE_RATE, 3),
        usage=done.usage,
        model=model or None,
    )


class _Chunks:
    """The chunks of a file, read in a worker thread, as an async iterator.

    A damaged file ends the iteration, so that the utterance gets its final like any other;
    `damage` then says what is wrong.
    """

    def __init__(
        self,
        path: str,
        chunk_ms: int,
        stdin_rate: int,
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.samples = 0
        self.damage: AudioFileError | None = None
        self._is_pipe = path == STDIN
        self._on_progress = on_progress
        self._chunks = read_chunks(
            path, chunk_samples=chunk_ms * SAMPLE_RATE // 1000, stdin_rate=stdin_rate
        )

    def __aiter__(self) -> "_Chunks":
        return self

    async def __anext__(self) -> Samples:
        if self._on_progress is not None:
            self._on_progress(self.samples / SAMPLE_RATE)
        try:
            # A read from a pipe has no end of its own; on cancellation it is left behind.
            chunk = await trio.to_thread.run_sync(
                next, self._chunks, None, abandon_on_cancel=self._is_pipe
            )
        except AudioFileError as error:
            self.damage = error
            raise StopAsyncIteration from None
        if chunk is None:
            raise StopAsyncIteration
        self.samples += len(chunk)
        return chunk

    def close(self) -> None:
        """Close the file. A pipe is not ours, and its thread may still be reading."""
        if not self._is_pipe:
            self._chunks.close()


# --- the terminal ------------------------------------------------------------------------


class _Display:
    """The words so far and, for a long file, a bar; drawn in place and wiped at the end."""

    _REDRAW_AFTER_S: Final = 0.05

    def __init__(self, live: Live | None, *, words: bool, total_s: float | None) -> None:
        self._live = live
        self._words = words
        self._total_s = total_s
        self._text = ""
        self._seconds = 0.0
        self._drawn_at = 0.0

    def add_text(self, text: str) -> None:
        self._text += text
        self._draw(now=True)

    def set_seconds(self, seconds: float) -> None:
        self._seconds = seconds
        if self._total_s is not None:
            self._draw(now=False)

    def _draw(self, *, now: bool) -> None:
        if self._live is None:
            return
        moment = time.monotonic()
        if now or moment - self._drawn_at >= self._REDRAW_AFTER_S:
            self._drawn_at = moment
            self._live.update(self._render(self._live.console.width), refresh=True)

    def _render(self, width: int) -> RenderableType:
        lines: list[RenderableType] = []
        if self._words:
            # The last three lines: what is drawn in place must not outgrow the screen.
            lines.append(Text(self._text.lstrip()[-3 * width :]))
        if self._total_s is not None:
            bar = Table.grid(padding=(0, 1))
            times = f"{self._seconds:.0f} of {self._total_s:.0f} s"
            bar.add_row(ProgressBar(self._total_s, self._seconds, width=40), times)
            lines.append(bar)
        return Group(*lines)


@contextmanager
def _display(seconds: float | None, *, words: bool) -> Iterator[_Display]:
    """Show words if stdout is a terminal, and a bar if stderr is one and the file is long."""
    words = words and sys.stdout.isatty()
    long = seconds is not None and seconds > LONG_FILE_S and sys.stderr.isatty()
    if not words and not long:
        yield _Display(None, words=False, total_s=None)
        return
    console = Console(file=sys.stdout if words else sys.stderr)
    live = Live(
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        yield _Display(live, words=words, total_s=seconds if long else None)
