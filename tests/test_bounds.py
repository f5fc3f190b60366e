"""Every bound is reached: a real daemon with tight limits, and what each side sees."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
import trio
from daemon_process import DaemonProcess
from raw_client import RawClient, raw_client
from speech import load_sample, manifest, word_errors
from trio_websocket import ConnectionClosed, ConnectionRejected, open_websocket_url

from realtimed.client import Unavailable, connect

SESSIONS = 4
LIMITS = {
    "ring-s": 3,
    "overflow-s": 5,
    "idle-s": 6,
    "first-event-s": 3,
    "slow-reader-s": 2,
    "handshake-s": 2,
    "message-bytes": 400_000,
    "outbox-events": 8,
    "pending-utterances": 4,
    "connections": 40,
    "close-s": 2,
    "drain-spread-s": 2,
}
MAX_MODEL_LEN = 128
SPEECH = load_sample("callsign")
UPGRADE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def tight() -> Iterator[DaemonProcess]:
    """A daemon with a limit for everything, each of them within reach."""
    flags = [word for key, value in LIMITS.items() for word in (f"--limits.{key}", str(value))]
    engine = ["--engine.max-model-len", str(MAX_MODEL_LEN), "--engine.max-num-seqs", str(SESSIONS)]
    engine += ["--max-sessions", str(SESSIONS), "--strict-model-names"]
    process = DaemonProcess(*flags, *engine)
    try:
        yield process.wait_ready()
    finally:
        process._process.kill()
        process.wait()


async def closing(client: RawClient) -> tuple[dict[str, str] | None, int, str]:
    """Read to the end: the last event, the close code and its reason."""
    last = None
    try:
        while True:
            last = await client.receive()
    except ConnectionClosed as closed:
        assert closed.reason is not None
        return last, closed.reason.code, closed.reason.reason or ""


async def slots_are_free(daemon: DaemonProcess) -> None:
    """Wait until the daemon has noticed that earlier clients are gone."""
    with trio.fail_after(10):
        while (await daemon.counts()).connections:
            pass


async def test_where_names_are_strict_the_urls_model_must_be_served(tight: DaemonProcess) -> None:
    await slots_are_free(tight)
    url = f"{tight.url}/v1/audio/transcriptions/realtime?model="
    with pytest.raises(ConnectionRejected) as raised:
        async with open_websocket_url(f"{url}voxtral-mini-transcribe-realtime"):
            pass
    assert raised.value.status_code == 404
    assert json.loads(raised.value.body)["code"] == "model_not_found"
    async with open_websocket_url(f"{url}realtimed-demo") as socket:
        session = json.loads(await socket.get_message())["session"]
    assert session["model"] == "realtimed-demo"


async def test_sessions_over_the_limit_are_refused_over_http(tight: DaemonProcess) -> None:
    await slots_are_free(tight)
    async with trio.open_nursery() as nursery:  # ends by the cancel below
        for _ in range(SESSIONS):
            await nursery.start(hold_a_session, tight)
        refused: list[int] = []

        async def try_one() -> None:
            with pytest.raises(Unavailable) as refusal:
                async with connect(tight.url):
                    pass
            assert refusal.value.status == 503
            assert refusal.value.retry_after_s == 5
            refused.append(1)

        async with trio.open_nursery() as crowd:  # ends when every one has been refused
            for number in range(100):
                crowd.start_soon(try_one)
                if number % 20 == 19:
                    await trio.sleep(0.2)
        assert len(refused) == 100
        nursery.cancel_scope.cancel()
    await slots_are_free(tight)


async def hold_a_session(
    daemon: DaemonProcess, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with raw_client(daemon.url):
        task_status.started()
        await trio.sleep_forever()


async def test_the_models_length_is_never_seen(tight: DaemonProcess) -> None:
    speech = load_sample("minute")
    async with raw_client(tight.url) as client:
        done = await client.utterance(speech)
    usage = done["usage"]
    assert usage["audio_seconds"] == pytest.approx(len(speech) / 16_000, abs=1e-3)
    assert usage["prompt_tokens"] >= 36 * 5, "the utterance took several segments"
    # Blind cuts cost words; the model card's figure for pieces of five seconds is one in ten.
    assert word_errors(manifest()["minute"].text, done["text"]) <= 8


async def test_audio_that_nothing_can_recognise_overflows(tight: DaemonProcess) -> None:
    async with raw_client(tight.url) as client:
        began = time.monotonic()
        await client.speak(np.zeros(4 * 16_000, np.int16), chunk=16_000)
        event, code, reason = await closing(client)
    assert event is not None
    assert event["code"] == "buffer_overflow"
    assert code == 1013
    assert "full" in reason
    assert time.monotonic() - began >= LIMITS["overflow-s"]


async def test_a_client_that_never_says_anything_is_ended_sooner_than_one_that_falls_silent(
    tight: DaemonProcess,
) -> None:
    began = time.monotonic()
    async with raw_client(tight.url, update=False) as client:
        event, code, _ = await closing(client)
    assert event is not None
    assert (event["code"], code) == ("idle_timeout", 1001)
    assert LIMITS["first-event-s"] <= time.monotonic() - began < LIMITS["idle-s"]


async def test_a_long_message_is_taken_in_pieces_while_it_is_recognised(
    tight: DaemonProcess,
) -> None:
    async with raw_client(tight.url) as client:
        await client.commit()
        await client.append(np.tile(SPEECH, 2)[: 9 * 16_000])  # three times the ring
        await client.commit(final=True)
        done = (await client.until_terminal())[-1]
    assert done["usage"]["audio_seconds"] == pytest.approx(9.0)


async def test_a_message_over_the_limit_is_closed_with_1009(tight: DaemonProcess) -> None:
    async with raw_client(tight.url) as client:
        # The header says how long it is, so the close may come before all of it is sent.
        with suppress(ConnectionClosed):
            await client.send_raw("x" * (LIMITS["message-bytes"] + 1))
        _, code, reason = await closing(client)
    assert code == 1009
    assert "400000" in reason


async def test_an_idle_session_is_told_and_closed(tight: DaemonProcess) -> None:
    async with raw_client(tight.url) as client:
        event, code, reason = await closing(client)
    assert event is not None
    assert event["code"] == "idle_timeout"
    assert code == 1001
    assert "Nothing was received" in reason


async def test_a_client_that_stops_sending_in_an_utterance_is_idle_too(
    tight: DaemonProcess,
) -> None:
    async with raw_client(tight.url) as client:
        await client.commit()
        await client.speak(SPEECH[:32_000])
        event, code, _ = await closing(client)
    assert event is not None
    assert (event["code"], code) == ("idle_timeout", 1001)


async def test_a_client_that_never_reads_is_dropped_and_others_are_not(
    tight: DaemonProcess,
) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", tight.port)
    await stream.send_all(UPGRADE)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    # A masked text frame "{" with a zero mask: each is answered by an error nobody reads.
    flood = b"\x81\x81\x00\x00\x00\x00{" * 10_000
    dropped = trio.Event()

    async def never_read() -> None:
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(flood)
        dropped.set()

    async with trio.open_nursery() as nursery:  # ends when the flood is dropped
        nursery.start_soon(never_read)
        async with raw_client(tight.url) as honest:
            done = await honest.utterance(SPEECH, paced=True)
        assert done["text"].strip() == manifest()["callsign"].text
        with trio.fail_after(30):
            await dropped.wait()
    tight.wait_for("outcome=slow_reader", 10)


async def test_frames_before_the_upgrade_is_answered_hurt_nobody(tight: DaemonProcess) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", tight.port)
    await stream.send_all(UPGRADE + b"\x81\x81\x00\x00\x00\x00{" * 10_000)
    await stream.aclose()
    await slots_are_free(tight)
    assert "connection failed" not in tight.log


async def test_half_a_handshake_is_dropped_at_its_deadline(tight: DaemonProcess) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", tight.port)
    await stream.send_all(b"GET /v1/realtime HTTP/1.1\r\nHost:")
    with trio.fail_after(LIMITS["handshake-s"] + 5):
        assert await stream.receive_some() == b""


async def test_more_connections_than_the_limit_are_refused(tight: DaemonProcess) -> None:
    streams = [await trio.open_tcp_stream("127.0.0.1", tight.port) for _ in range(45)]
    answers = []
    for stream in streams:
        with trio.move_on_after(LIMITS["handshake-s"] + 5):
            answers.append(bytes(await stream.receive_some()).partition(b"\r\n")[0])
        await stream.aclose()
    assert answers.count(b"HTTP/1.1 503 Service Unavailable") == 45 - LIMITS["connections"]
    assert answers.count(b"") == LIMITS["connections"], "the others met the handshake's deadline"


async def test_pings_are_answered_while_a_session_is_paced(tight: DaemonProcess) -> None:
    """A ping behind more audio than the ring holds comes back as the audio is recognised."""
    async with raw_client(tight.url) as client, trio.open_nursery() as nursery:
        # Ends with the final. The reading has to go on for the client to see its pong.
        await client.commit()
        nursery.start_soon(client.until_terminal)
        await client.speak(np.tile(SPEECH, 4)[: 20 * 16_000])
        with trio.fail_after(20):
            await client.socket.ping()
        await client.commit(final=True)


async def test_sigterm_under_load_gives_every_session_its_final(tight: DaemonProcess) -> None:
    """The last test of this module: it ends the daemon."""
    finals: list[str] = []
    speaking, seen_speaking = trio.open_memory_channel[None](SESSIONS)

    async def talk() -> None:
        async with raw_client(tight.url) as client:
            await client.commit()
            await client.speak(SPEECH[:48_000])
            assert (await client.receive())["type"] == "transcription.delta"
            speaking.send_nowait(None)
            event, code, _ = await closing(client)
            assert event is not None
            finals.append(json.dumps(event))
            assert event["type"] == "transcription.done"
            assert code == 1001

    async with trio.open_nursery() as nursery:  # ends when every session has seen its close
        # All at once: one that begins late must not find the first ones idle for too long.
        for _ in range(SESSIONS):
            nursery.start_soon(talk)
        for _ in range(SESSIONS):
            await seen_speaking.receive()
        tight.send_signal(signal.SIGTERM)
    assert len(finals) == SESSIONS
    assert await trio.to_thread.run_sync(tight.wait) == 0
