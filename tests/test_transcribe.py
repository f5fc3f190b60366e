"""`realtimed transcribe` as a script meets it: a process, its two outputs and its exit code.

The servers are fakes on real sockets, and say so; that speech becomes the right words is for the
tests that run the daemon itself.
"""

import json
import os
import pty
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from realtimed.audio_files import AudioFileError, probe, read_chunks, rechunk, resample
from realtimed.client import connect
from realtimed.transcribe import stream_file

RATE = 16_000
# A command that waits for ever must fail a test, not hang the run.
TEST_S = 60.0
USAGE = {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3, "audio_seconds": 0.5}


# --- the fakes ----------------------------------------------------------------------------


class FakeRecogniser:
    """Greets as the daemon does and answers each final with the number of samples it was sent.

    With `failure` set it answers the first final on a connection with that error instead.
    """

    def __init__(self, failure: dict[str, str] | None = None, *, close: bool = False) -> None:
        self.failure, self.close = failure, close
        self.requests: list[WebSocketRequest] = []
        self.updates: list[dict[str, Any]] = []
        self.append_samples: list[int] = []
        self.heard_audio = trio.Event()

    async def __call__(self, request: WebSocketRequest) -> None:
        self.requests.append(request)
        ws = await request.accept()
        await _send(ws, type="session.created", id="sess-1", created=1)
        with suppress(ConnectionClosed):
            while True:
                await self._answer(ws, json.loads(await ws.get_message()))

    async def _answer(self, ws: WebSocketConnection, event: dict[str, Any]) -> None:
        match event:
            case {"type": "session.update"}:
                self.updates.append(event)
            case {"audio": audio}:
                self.append_samples.append((len(audio) * 3 // 4 - audio.count("=")) // 2)
                self.heard_audio.set()
                if self.close:
                    await ws.aclose(1011, "engine failed")
            case {"final": True} if self.failure is not None:
                await _send(ws, type="error", **self.failure)
                self.failure = None
            case {"final": True}:
                words = ["heard", str(sum(self.append_samples))]
                for word in words:
                    await _send(ws, type="transcription.delta", delta=f" {word}")
                await _send(ws, type="transcription.done", text=f" {' '.join(words)}", usage=USAGE)
                self.append_samples.clear()


class FakeRefusingServer:
    """Refuses every upgrade with one HTTP answer."""

    def __init__(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        self.status, self.headers = status, headers

    async def __call__(self, request: WebSocketRequest) -> None:
        await request.reject(self.status, extra_headers=list(self.headers), body=b"")


async def _send(ws: WebSocketConnection, **event: Any) -> None:
    await ws.send_message(json.dumps(event))


@asynccontextmanager
async def fake_server(handler: Any) -> AsyncGenerator[str, None]:
    """Serve `handler` on a free port and give the URL."""
    # Ends with the body, which cancels the server; at the latest when the test takes too long.
    with trio.fail_after(TEST_S):
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_websocket,
                handler,
                "127.0.0.1",
                0,
                ssl_context=None,
                # The command under test may be killed; its server must not wait for its close.
                disconnect_timeout=0.2,
            )
            server = await nursery.start(serve)
            yield f"ws://127.0.0.1:{server.port}"
            nursery.cancel_scope.cancel()


# --- the command --------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "realtimed", "transcribe", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """This process's own, without settings of the daemon that a developer may have set."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("REALTIMED_")}
    return {**own, **more}


async def transcribe(*arguments: str | Path, stdin: bytes = b"", **env: str) -> Result:
    with trio.fail_after(TEST_S):
        done = await trio.run_process(
            command(*arguments),
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(**env),
        )
    result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    return result


def one_line(result: Result) -> str:
    """The single line on standard error, checked to be one that names the command."""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("realtimed transcribe: ")
    return lines[0]


def tone(path: Path, seconds: float, *, rate: int = RATE, channels: int = 1) -> Path:
    samples = 0.1 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 440 / rate)
    soundfile.write(path, np.tile(samples[:, None], channels), rate)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A quarter of a second of sound."""
    return tone(tmp_path / "clip.wav", 0.25)


# --- what comes out -----------------------------------------------------------------------


async def test_one_file_gives_its_text_alone(clip: Path) -> None:
    async with fake_server(FakeRecogniser()) as url:
        result = await transcribe("--url", url, clip)
    assert result == Result(0, "heard 4000\n", "")


async def test_several_files_share_a_connection_and_are_named(clip: Path, tmp_path: Path) -> None:
    server = FakeRecogniser()
    other = tone(tmp_path / "other.wav", 0.5)
    async with fake_server(server) as url:
        result = await transcribe("--url", url, "--fast", clip, other)
    assert result == Result(0, f"{clip}: heard 4000\n{other}: heard 8000\n", "")
    assert len(server.requests) == 1


async def test_json_is_one_object_a_line(clip: Path) -> None:
    async with fake_server(FakeRecogniser()) as url:
        result = await transcribe("--url", url, "--format", "json", "--fast", clip, clip)
    first, second = map(json.loads, result.out.splitlines())
    assert first == second
    assert first == {
        "file": str(clip),
        "text": "heard 4000",
        "audio_seconds": 0.25,
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "audio_seconds": 0.5,
            "lag_seconds": 0.0,
        },
        "model": None,
    }


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 3)])
async def test_any_format_rate_and_channels_become_16_khz_mono(
    tmp_path: Path, suffix: str, rate: int, channels: int
) -> None:
    path = tone(tmp_path / f"a.{suffix}", 1.0, rate=rate, channels=channels)
    chunks = list(read_chunks(str(path), chunk_samples=1_280))
    assert {len(chunk) for chunk in chunks[:-1]} == {1_280}
    sound = np.concatenate(chunks)
    assert sound.dtype == np.float32
    assert len(sound) == pytest.approx(RATE, abs=4)
    # A sine of amplitude 0.1, through a mixdown that averages and a lossy codec.
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(0.1 / np.sqrt(2), rel=0.05)


async def test_dash_is_raw_pcm_at_the_rate_that_is_given() -> None:
    async with fake_server(FakeRecogniser()) as url:
        plain = await transcribe("--url", url, "--fast", "-", stdin=bytes(2 * RATE))
        halved = await transcribe("--url", url, "--rate", "32000", "-", stdin=bytes(2 * RATE))
    assert plain == Result(0, f"heard {RATE}\n", "")
    assert int(halved.out.split()[1]) == pytest.approx(RATE // 2, abs=4)


async def test_a_file_without_sound_has_its_final_too(tmp_path: Path) -> None:
    async with fake_server(FakeRecogniser()) as url:
        result = await transcribe("--url", url, tone(tmp_path / "empty.wav", 0.0))
    assert result == Result(0, "heard 0\n", "")


async def test_chunk_ms_is_the_sound_in_one_message(clip: Path) -> None:
    async with fake_server(FakeRecogniser()) as url, connect(url) as session:
        seen: list[float] = []
        transcript = await stream_file(
            session, str(clip), chunk_ms=100, on_progress=seen.append, model="m"
        )
    assert seen == [0.0, 0.1, 0.2, 0.25]
    assert (transcript.text, transcript.model) == ("heard 4000", "m")


async def test_the_pace_is_that_of_speech_unless_fast(tmp_path: Path) -> None:
    path = str(tone(tmp_path / "two.wav", 2.0))
    async with fake_server(FakeRecogniser()) as url, connect(url) as session:
        start = trio.current_time()
        await stream_file(session, path)
        paced_s = trio.current_time() - start
        await stream_file(session, path, pace=None)
        fast_s = trio.current_time() - start - paced_s
    assert paced_s >= 2.0
    assert fast_s < 1.5


async def test_words_reach_the_caller_as_they_come(clip: Path) -> None:
    words: list[str] = []
    async with fake_server(FakeRecogniser()) as url, connect(url) as session:
        await stream_file(session, str(clip), pace=None, on_text=words.append)
    assert words == [" heard", " 4000"]


async def test_a_terminal_shows_the_words_and_keeps_the_text(clip: Path) -> None:
    master, slave = pty.openpty()
    async with fake_server(FakeRecogniser()) as url:
        await trio.run_process(
            command("--url", url, clip),
            stdout=slave,
            env=environment(TERM="xterm"),
        )
    os.close(slave)
    shown = _drained(master)
    assert "\x1b[" in shown
    assert shown.rstrip().endswith("heard 4000")


def _drained(master: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    shown = b""
    # Linux reports the end of a terminal as an input/output error.
    with suppress(OSError):
        while data := os.read(master, 65_536):
            shown += data
    os.close(master)
    return shown.decode()


# --- where the daemon is ------------------------------------------------------------------


async def test_address_key_and_model_come_from_environment_and_options(clip: Path) -> None:
    server = FakeRecogniser()
    async with fake_server(server) as url:
        await transcribe("--fast", clip, REALTIMED_URL=url, REALTIMED_API_KEY="k3y")
        await transcribe(
            *("--fast", "--url", url, "--api-key", "other", "--model", "m", clip),
            REALTIMED_URL="ws://127.0.0.1:1",
            REALTIMED_API_KEY="k3y",
        )
    keys = [dict(request.headers)[b"authorization"] for request in server.requests]
    assert keys == [b"Bearer k3y", b"Bearer other"]
    assert [update["model"] for update in server.updates] == ["", "m"]


async def test_what_is_known_of_the_speech_is_told(clip: Path) -> None:
    server = FakeRecogniser()
    told = ("--language", "fr", "--prompt", "Ada", "--hotwords", "a, b", "--temperature", "0.5")
    async with fake_server(server) as url:
        assert (await transcribe("--url", url, "--fast", *told, clip)).code == 0
    [update] = server.updates
    assert (update["language"], update["prompt"]) == ("fr", "Ada")
    assert (update["hotwords"], update["temperature"]) == (["a", "b"], 0.5)


# --- exit codes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--rate", "0", "-"],
        ["--chunk-ms", "x", "-"],
        ["--format", "xml", "-"],
        ["--temperature", "3", "-"],
        ["--nonsense", "-"],
    ],
)
async def test_wrong_usage_is_2(arguments: Sequence[str]) -> None:
    result = await transcribe(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "usage: realtimed transcribe" in result.err


async def test_a_url_that_is_none_is_2(clip: Path) -> None:
    result = await transcribe("--url", "ftp://h", clip)
    assert result.code == 2
    assert "ws://127.0.0.1:8000" in one_line(result)


async def test_no_daemon_is_3(clip: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = await transcribe("--url", f"ws://127.0.0.1:{free.getsockname()[1]}", clip)
    assert (result.code, result.out) == (3, "")
    assert "realtimed serve" in one_line(result)


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4), (404, 4), (429, 5), (503, 5)])
async def test_a_refusal_is_4_and_not_now_is_5(clip: Path, status: int, code: int) -> None:
    async with fake_server(FakeRefusingServer(status, (b"Retry-After", b"12"))) as url:
        result = await transcribe("--url", url, clip)
    assert (result.code, result.out) == (code, "")
    assert f"HTTP {status}" in one_line(result)
    assert ("in 12 s" in result.err) == (code == 5)


async def test_an_unknown_model_is_6_and_ends_the_run(clip: Path) -> None:
    failure = {"error": "The model `x` does not exist.", "code": "model_not_found"}
    async with fake_server(FakeRecogniser(failure)) as url:
        result = await transcribe("--url", url, "--model", "x", "--fast", clip, clip)
    assert (result.code, result.out) == (6, "")
    assert "`x`" in one_line(result)


@pytest.mark.parametrize("code", ["unsupported_option", "invalid_event"])
async def test_an_option_that_is_refused_is_6_and_ends_the_run(clip: Path, code: str) -> None:
    failure = {"error": "Unsupported option: `hotwords`. Served here: model.", "code": code}
    server = FakeRecogniser(failure)
    async with fake_server(server) as url:
        result = await transcribe("--url", url, "--hotwords", "Ada", "--fast", clip, clip)
    assert (result.code, result.out, len(server.requests)) == (6, "", 1)
    assert "`hotwords`" in one_line(result)


async def test_a_bad_file_is_7_and_the_others_go_on(clip: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("no sound at all")
    missing = tmp_path / "missing.wav"
    async with fake_server(FakeRecogniser()) as url:
        result = await transcribe("--url", url, "--fast", missing, clip, text, tmp_path, clip)
    assert result.code == 7
    assert result.out == f"{clip}: heard 4000\n" * 2
    lines = result.err.splitlines()
    assert len(lines) == 3
    assert "No such file" in lines[0]
    assert "not a sound file" in lines[1]
    assert "Is a directory" in lines[2]


async def test_only_bad_files_need_no_daemon(tmp_path: Path) -> None:
    result = await transcribe("--url", "ws://127.0.0.1:1", tmp_path / "missing.wav")
    assert result.code == 7
    assert "No such file" in one_line(result)


async def test_a_file_damaged_half_way_is_7_and_spoils_no_other(clip: Path, tmp_path: Path) -> None:
    cut = _damaged_flac(tmp_path / "cut.flac")
    async with fake_server(FakeRecogniser()) as url:
        result = await transcribe("--url", url, "--fast", cut, clip)
    assert (result.code, result.out) == (7, f"{clip}: heard 4000\n")
    assert "damaged after" in one_line(result)


def _damaged_flac(path: Path) -> Path:
    noise = np.random.Generator(np.random.PCG64(1)).uniform(-0.5, 0.5, 4 * RATE)
    soundfile.write(path, noise, RATE)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(len(data) - middle))
    return path


async def test_an_error_of_the_server_is_8_and_the_others_go_on(clip: Path) -> None:
    server = FakeRecogniser({"error": "The engine failed.", "code": "engine_error"})
    async with fake_server(server) as url:
        result = await transcribe("--url", url, "--fast", clip, clip)
    assert (result.code, result.out.count("heard")) == (8, 1)
    assert "The engine failed." in one_line(result)
    assert len(server.requests) == 2


async def test_a_lost_connection_is_8(clip: Path) -> None:
    async with fake_server(FakeRecogniser(close=True)) as url:
        result = await transcribe("--url", url, clip)
    assert (result.code, result.out) == (8, "")
    assert "1011" in one_line(result)


@pytest.mark.parametrize("source", ["file", "pipe"])
async def test_interrupted_is_130(tmp_path: Path, source: str) -> None:
    server = FakeRecogniser()
    path = str(tone(tmp_path / "long.wav", 60.0)) if source == "file" else "-"
    reader, writer = os.pipe()
    os.write(writer, bytes(RATE))
    async with fake_server(server) as url, trio.open_nursery() as nursery:
        # Ends with the process, which the interrupt ends.
        process = await nursery.start(
            partial(
                trio.run_process,
                command("--url", url, path),
                stdin=reader,
                capture_stderr=True,
                check=False,
                env=environment(),
            )
        )
        await server.heard_audio.wait()
        interrupted_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = await process.wait()
    os.close(reader)
    os.close(writer)
    assert code == 130
    assert time.monotonic() - interrupted_at < 10


async def test_a_reader_that_leaves_is_141_without_a_word(clip: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    async with fake_server(FakeRecogniser()) as url:
        done = await trio.run_process(
            command("--url", url, "--fast", clip),
            stdout=writer,
            capture_stderr=True,
            check=False,
            env=environment(),
        )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


async def test_help_tells_the_exit_codes() -> None:
    result = await transcribe("--help")
    assert result.code == 0
    for code in (0, 2, 3, 4, 5, 6, 7, 8, 130):
        assert f"\n  {code} " in result.out


async def test_the_command_needs_neither_vllm_nor_torch() -> None:
    check = "import sys, realtimed.transcribe; sys.exit(bool({'vllm', 'torch'} & {*sys.modules}))"
    await trio.run_process([sys.executable, "-c", check])


# --- reading files ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50)), st.integers(1, 40))
def test_rechunking_keeps_every_sample_in_order(lengths: list[int], size: int) -> None:
    sound = np.arange(sum(lengths), dtype=np.float32)
    blocks = np.split(sound, np.cumsum(lengths)[:-1]) if lengths else []
    pieces = list(rechunk(blocks, size))
    assert np.array_equal(np.concatenate([np.empty(0, np.float32), *pieces]), sound)
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(0 < len(piece) <= size for piece in pieces)


@given(st.sampled_from([8_000, 11_025, 44_100, 48_000]), st.integers(1, 4_000))
def test_resampling_does_not_depend_on_the_blocks(rate: int, block: int) -> None:
    sound = np.random.Generator(np.random.PCG64(7)).uniform(-0.5, 0.5, rate // 4)
    sound = sound.astype(np.float32)
    whole = np.concatenate(list(resample([sound], rate)))
    parts = [sound[start : start + block] for start in range(0, len(sound), block)]
    assert np.allclose(np.concatenate(list(resample(parts, rate))), whole, atol=1e-5)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = np.full(1_000, 0.5, np.float32)
    soundfile.write(tmp_path / "s.wav", np.stack([left, -left], axis=1), RATE, subtype="FLOAT")
    (sound,) = read_chunks(str(tmp_path / "s.wav"), chunk_samples=1_000)
    assert not sound.any()


def test_values_that_are_no_numbers_become_silence(tmp_path: Path) -> None:
    sound = np.array([np.nan, np.inf, -np.inf, 0.25], np.float32)
    soundfile.write(tmp_path / "n.wav", sound, RATE, subtype="FLOAT")
    (read,) = read_chunks(str(tmp_path / "n.wav"), chunk_samples=10)
    assert read.tolist() == [0.0, 1.0, -1.0, 0.25]


def test_probe_tells_what_the_header_says(tmp_path: Path) -> None:
    info = probe(str(tone(tmp_path / "p.wav", 1.5, rate=8_000, channels=2)))
    assert info == (8_000, 2, 1.5)
    assert probe("-", stdin_rate=8_000) == (8_000, 1, None)


def test_a_missing_file_is_an_audio_file_error(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="No such file"):
        probe(str(tmp_path / "none.wav"))
