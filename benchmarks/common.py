"""What the benchmarks share: servers as child processes, paced streams, and their measures.

`run_streams` and `run_reference` are the load generator; `in_own_process` runs them in a
process apart from both servers and from the benchmark.
"""

import asyncio
import base64
import bisect
import difflib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

DEMO = Path(__file__).parent.parent / "realtimed" / "demo"
SAMPLE_RATE = 16_000
CHUNK_SAMPLES = 1_280
CHUNK_S = CHUNK_SAMPLES / SAMPLE_RATE
MODEL_NAME = "bench"
T = TypeVar("T")

START_S = 300.0
STOP_S = 45.0
ANSWER_S = 120.0
# Below the engine's limit, so that the reference pass cannot wait for a slot.
REFERENCE_AT_ONCE = 4

# --- processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerCommand:
    """How to start one of the servers under test; `{port}` in `argv` is filled in."""

    name: str
    argv: tuple[str, ...]


class Server:
    """A server as a child process: started, found to be ready, and stopped with its children."""

    def __init__(self, command: ServerCommand) -> None:
        self.command = command
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}/v1/realtime"
        self.start_s = 0.0
        """Seconds from the start of the process to its first session."""

    def __enter__(self) -> Self:
        self._log: IO[bytes] = tempfile.TemporaryFile()
        began = time.monotonic()
        self._process = subprocess.Popen(
            [arg.replace("{port}", str(self.port)) for arg in self.command.argv],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )
        try:
            self._wait_ready(began + START_S)
        except BaseException:
            self._stop()
            raise
        self.start_s = time.monotonic() - began
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def serving_pid(self) -> int:
        """The process that holds the listening socket.

        Raises: `RuntimeError` if there is no such process, or more than one.
        """
        wanted = f"socket:[{_listening_inode(self.port)}]"
        family = [self._process.pid, *descendants(self._process.pid)]
        holders = [pid for pid in family if wanted in _open_files(pid)]
        if len(holders) != 1:
            raise RuntimeError(f"{self.command.name}: processes {holders} hold the listener")
        return holders[0]

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server and its children wrote."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-lines:])

    def _wait_ready(self, deadline: float) -> None:
        """Ready is what both servers mean by it: a session is accepted and says so."""
        while not asyncio.run(_answers(self.url)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command.name} did not start:\n{self.log_tail()}")
            time.sleep(0.5)

    def _stop(self) -> None:
        family = descendants(self._process.pid)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _kill_left(family)
        self._log.close()


async def _answers(url: str) -> bool:
    try:
        async with session(url):
            return True
    except (OSError, WebSocketException, InvalidHandshake, TimeoutError):
        return False


def _environment() -> dict[str, str]:
    # A KV cache size in the environment would win over the engine arguments, which are equal.
    kept = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    return {
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        **kept,
    }


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, all its threads and none of its children."""
    fields = _stat(pid)
    if not fields:
        raise RuntimeError(f"process {pid} is gone")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, without its children."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _listening_inode(port: int) -> str:
    listening = "0A"
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = row.split()
        if fields[3] == listening and int(fields[1].rpartition(":")[2], 16) == port:
            return fields[9]
    raise RuntimeError(f"nobody listens on port {port}")


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found.add(str(link.readlink()))
    except OSError:  # it ended, or closed a file, meanwhile
        pass
    return found


def _kill_left(family: Sequence[int]) -> None:
    """SIGKILL what outlived its server: no engine may stay loaded beside the next server's."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(_alive(pid) for pid in family):
        time.sleep(0.1)
    for pid in filter(_alive, family):
        os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def in_own_process(work: Callable[..., T], *arguments: object) -> T:
    """Run a function of this module in a fresh process and return what it returns."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


# --- audio ----------------------------------------------------------------------------------


def stream_audio(index: int, n_chunks: int) -> NDArray[np.int16]:
    """What stream `index` says: the bundled minute of speech, looped, from a place of its own.

    The places are odd numbers of samples apart, so that no two streams ever send the same
    frame: vLLM's caches would answer the second from the first.

    Returns: int16 array of shape (n_chunks * CHUNK_SAMPLES,), 16 kHz.
    """
    with wave.open(str(DEMO / "samples" / "minute.wav")) as file:
        minute = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    golden_ratio = 0.6180339887
    start = round(len(minute) * (index * golden_ratio % 1))
    return np.resize(np.roll(minute, -start), n_chunks * CHUNK_SAMPLES)


def append_messages(samples: NDArray[np.int16]) -> list[str]:
    """The `input_audio_buffer.append` events of some audio, 80 ms each, ready to be sent."""
    return [
        json.dumps(
            {
                "type": "input_audio_buffer.append",
                "audio": base64.b64encode(samples[at : at + CHUNK_SAMPLES].tobytes()).decode(),
            }
        )
        for at in range(0, len(samples), CHUNK_SAMPLES)
    ]


def needed_chunk(frame: int) -> int:
    """The append (from 0) that completes the audio which engine frame `frame` (from 0) needs.

    The first frame covers the prompt: BOS, the left padding, the delay tokens; each later one
    adds a token; each looks ahead a little (mistral_common's `AudioConfig`, tekken.json).
    """
    audio = json.loads((DEMO / "tekken.json").read_text())["audio"]
    per_token = audio["sampling_rate"] / audio["frame_rate"]
    delay_tokens = audio["transcription_delay_ms"] * audio["frame_rate"] / 1000
    look_ahead = audio["streaming_look_ahead_ms"] * audio["sampling_rate"] / 1000
    samples = (1 + delay_tokens + frame) * per_token + look_ahead
    return int(-(-samples // CHUNK_SAMPLES)) - 1


# --- load -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A word and the engine frame (from 0, in its stream) that it answers."""

    word: str
    frame: int


@dataclass(frozen=True)
class Heard:
    """A word as it came back: when its delta was received, `time.monotonic()` in seconds."""

    word: str
    at: float


@dataclass(frozen=True)
class StreamLog:
    """One stream: when each append was handed to the socket, and the words that came back."""

    index: int
    sent_at: list[float]
    heard: list[Heard]


@dataclass(frozen=True)
class Plan:
    """One measurement: `streams` real-time streams against a running server."""

    url: str
    server_pid: int
    streams: int
    warm_up_s: float
    measure_s: float

    @property
    def n_chunks(self) -> int:
        return n_chunks(self.warm_up_s + self.measure_s)


@dataclass(frozen=True)
class Measured:
    """What the load generator saw; the window is in `time.monotonic()` seconds."""

    window: tuple[float, float]
    cpu_s: float
    """CPU seconds of the serving process within the window."""
    rss_bytes: int
    """Its resident memory when the window ended, with all streams open."""
    load_cpu_s: float
    """CPU seconds of the load generator itself within the window."""
    streams: list[StreamLog]

    @property
    def audio_s(self) -> float:
        """Seconds of audio sent within the window, all streams together."""
        return CHUNK_S * sum(_between(log.sent_at, self.window) for log in self.streams)


def n_chunks(seconds: float) -> int:
    """Appends that last at least so long."""
    return int(-(-seconds // CHUNK_S))


def run_streams(plan: Plan) -> Measured:
    """Play the streams of a plan at the speed of speech and measure the server meanwhile."""
    return asyncio.run(_run_streams(plan))


async def _run_streams(plan: Plan) -> Measured:
    messages = [append_messages(stream_audio(i, plan.n_chunks)) for i in range(plan.streams)]
    begin = time.monotonic() + 1.0
    # Spread over one append's length, as independent speakers would be.
    begins = [begin + CHUNK_S * index / plan.streams for index in range(plan.streams)]
    async with asyncio.TaskGroup() as group:
        window = group.create_task(_measure(plan, begin + plan.warm_up_s))
        logs = [
            group.create_task(_play(plan.url, index, messages[index], begins[index]))
            for index in range(plan.streams)
        ]
    span, server_cpu_s, load_cpu_s, memory = window.result()
    return Measured(span, server_cpu_s, memory, load_cpu_s, [log.result() for log in logs])


async def _measure(plan: Plan, start: float) -> tuple[tuple[float, float], float, float, int]:
    """Window, CPU seconds of the server and of this process in it, and the server's memory."""
    await asyncio.sleep(start - time.monotonic())
    before = time.monotonic(), cpu_s(plan.server_pid), time.process_time()
    # Within the last append, while every stream is open.
    await asyncio.sleep(start + plan.measure_s - CHUNK_S - time.monotonic())
    after = time.monotonic(), cpu_s(plan.server_pid), time.process_time()
    memory = rss_bytes(plan.server_pid)
    return (before[0], after[0]), after[1] - before[1], after[2] - before[2], memory


async def _play(url: str, index: int, messages: Sequence[str], begin: float) -> StreamLog:
    """One stream: an append every 80 ms, and the deltas as they come."""
    sent_at: list[float] = []
    received: list[tuple[float, str | bytes]] = []
    async with session(url) as socket:
        await socket.send('{"type": "input_audio_buffer.commit"}')
        listening = asyncio.create_task(_listen(socket, received))
        for number, message in enumerate(messages):
            # An append can be sent when its audio has been spoken, not before.
            await asyncio.sleep(begin + (number + 1) * CHUNK_S - time.monotonic())
            sent_at.append(time.monotonic())
            await socket.send(message)
        await socket.send('{"type": "input_audio_buffer.commit", "final": true}')
        await asyncio.wait_for(listening, ANSWER_S)
    # Parsed when all is over: what the generator does meanwhile, the servers cannot use.
    return StreamLog(index, sent_at, [heard for at, raw in received for heard in _words(at, raw)])


async def _listen(socket: ClientConnection, received: list[tuple[float, str | bytes]]) -> None:
    """Collect deltas until the utterance is done."""
    async for raw in socket:
        received.append((time.monotonic(), raw))
        kind = raw[:40] if isinstance(raw, str) else raw[:40].decode()
        if '"transcription.delta"' in kind:
            continue
        if '"transcription.done"' in kind:
            return
        raise RuntimeError(f"unexpected from the server: {raw[:200]!r}")
    raise RuntimeError("the server hung up before it was done")


def _words(at: float, raw: str | bytes) -> list[Heard]:
    event = json.loads(raw)
    return [Heard(word, at) for word in event.get("delta", "").split()]


@asynccontextmanager
async def session(url: str) -> AsyncIterator[ClientConnection]:
    """A connection that has been told the model's name.

    Without permessage-deflate, which vLLM's server would accept, and pay for in CPU.
    """
    async with connect(url, compression=None, max_size=None, open_timeout=30) as socket:
        created = json.loads(await asyncio.wait_for(socket.recv(), 30))
        if created["type"] != "session.created":
            raise RuntimeError(f"expected session.created, got {created}")
        await socket.send(json.dumps({"type": "session.update", "model": MODEL_NAME}))
        yield socket


# --- the reference --------------------------------------------------------------------------


def run_reference(url: str, streams: int, chunks: int) -> list[list[Word]]:
    """Which frame of each stream each word answers, as vLLM's own server tells.

    It sends one delta for every frame, empty or not, so a delta's number is its frame's. The
    streams are fed faster than speech: which frame a word answers does not depend on time.
    """
    return asyncio.run(_run_reference(url, streams, chunks))


async def _run_reference(url: str, streams: int, chunks: int) -> list[list[Word]]:
    slots = asyncio.Semaphore(REFERENCE_AT_ONCE)

    async def one(index: int) -> list[Word]:
        async with slots, session(url) as socket:
            await socket.send('{"type": "input_audio_buffer.commit"}')
            for message in append_messages(stream_audio(index, chunks)):
                await socket.send(message)
            await socket.send('{"type": "input_audio_buffer.commit", "final": true}')
            received: list[tuple[float, str | bytes]] = []
            await asyncio.wait_for(_listen(socket, received), ANSWER_S)
        deltas = [json.loads(raw) for _, raw in received if b"delta" in _as_bytes(raw)[:40]]
        return [
            Word(word, frame)
            for frame, event in enumerate(deltas)
            for word in event["delta"].split()
        ]

    return await asyncio.gather(*(one(index) for index in range(streams)))


def _as_bytes(raw: str | bytes) -> bytes:
    return raw.encode() if isinstance(raw, str) else raw


def lags_s(
    log: StreamLog, reference: Sequence[Word], window: tuple[float, float]
) -> tuple[list[float], int]:
    """Lags (s) of the words received within the window, and how many words were received.

    A word's lag is the time from sending the append that completed its frame's audio to
    receiving its delta. Words are aligned with the reference's by a longest-match diff, since
    bfloat16 sums depend on the batch and one word in hundreds may differ; a word without a
    partner has no lag.
    """
    matcher = difflib.SequenceMatcher(
        None, [word.word for word in reference], [heard.word for heard in log.heard], False
    )
    partner = {
        block.b + i: reference[block.a + i]
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    }
    lags, received = [], 0
    for number, heard in enumerate(log.heard):
        if not window[0] <= heard.at < window[1]:
            continue
        received += 1
        word = partner.get(number)
        # Frames after the end of the audio wait for no append.
        if word and (chunk := needed_chunk(word.frame)) < len(log.sent_at):
            lags.append(heard.at - log.sent_at[chunk])
    return lags, received


# --- figures --------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of `values` do not exceed; nan for none."""
    return float(np.percentile(values, percent)) if values else float("nan")


def median(values: Sequence[float]) -> float:
    """The median of what is not nan; nan for nothing."""
    known = [value for value in values if value == value]
    return statistics.median(known) if known else float("nan")


def _between(times: Sequence[float], window: tuple[float, float]) -> int:
    return bisect.bisect_left(times, window[1]) - bisect.bisect_left(times, window[0])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else "unknown", "cores": os.cpu_count()}
