"""The client library against servers on real sockets that are fakes, and say so.

They check what the client makes of a server's behaviour. That speech becomes text is for the
tests that run the daemon itself.
"""

import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import numpy as np
import pytest
import trio
import trio.lowlevel
from fake_servers import (
    USAGE,
    FakeRecogniser,
    FakeRefusingServer,
    FakeScriptedServer,
    fake_server,
    send,
)
from trio_websocket import WebSocketConnection, WebSocketRequest

from realtimed import client
from realtimed.client import (
    ClientError,
    ConnectionLost,
    InvalidUrl,
    ModelUnknown,
    NotReachable,
    ProtocolError,
    Refused,
    ServerError,
    Session,
    Unauthorised,
    Unavailable,
    connect,
    realtime_url,
)
from realtimed.wire.events import ErrorOccurred, TextDelta, UtteranceDone

pytestmark = pytest.mark.trio
CHUNK = np.zeros(1_280, np.float32)


async def listed(session: Session, audio: Any, pace: float | None = None) -> list[Any]:
    async with session.transcribe(audio, pace=pace) as events:
        return [event async for event in events]


@pytest.fixture(autouse=True)
async def _deadline() -> AsyncIterator[None]:
    # A client that waits for ever must fail a test, not hang the run.
    with trio.fail_after(30):
        yield


# --- addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ws://h:8000", "ws://h:8000/v1/realtime"),
        ("h:8000", "ws://h:8000/v1/realtime"),
        ("http://h:8000/", "ws://h:8000/v1/realtime"),
        ("https://h", "wss://h/v1/realtime"),
        ("wss://h/v1", "wss://h/v1/realtime"),
        ("wss://h/v1/", "wss://h/v1/realtime"),
        ("ws://h/vllm/v1/realtime?model=m", "ws://h/vllm/v1/realtime?model=m"),
        ("ws://[::1]:8000", "ws://[::1]:8000/v1/realtime"),
    ],
)
async def test_an_address_is_completed(given: str, expected: str) -> None:
    assert realtime_url(given) == expected


@pytest.mark.parametrize(
    "url",
    ["", "ws://", "ftp://h", "ws://h:port", "ws://h:99999", "ws://h:0", "ws://a b", "ws://u:p@h"],
)
async def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        realtime_url(url)
    assert caught.value.exit_code == 2


# --- refusals -----------------------------------------------------------------------------


async def fails_to_connect(url: str, **options: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        async with connect(url, **options):
            pytest.fail("the session must not begin")
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("status", [401, 403])
async def test_no_valid_key_is_unauthorised(status: int) -> None:
    async with fake_server(FakeRefusingServer(status, b'{"error":"Unauthorized"}')) as url:
        error = await fails_to_connect(url)
    assert type(error) is Unauthorised
    assert (error.exit_code, error.status) == (4, status)
    assert "Unauthorized" in error.message


@pytest.mark.parametrize("status", [503, 429])
async def test_unavailable_says_when_to_come_back(status: int) -> None:
    body = b'{"error":{"message":"The model is loading.","code":"loading"}}'
    async with fake_server(FakeRefusingServer(status, body, retry_after="7")) as url:
        error = await fails_to_connect(url)
    assert isinstance(error, Unavailable)
    assert (error.exit_code, error.status, error.retry_after_s) == (5, status, 7)
    assert "The model is loading. Try again in 7 s." in error.message


@pytest.mark.parametrize("value", ["", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_retry_after_that_is_no_number_is_left_out(value: str) -> None:
    async with fake_server(FakeRefusingServer(503, retry_after=value)) as url:
        error = await fails_to_connect(url)
    assert isinstance(error, Unavailable)
    assert error.retry_after_s is None


@pytest.mark.parametrize("body", [b"", b"<html>\r\n\x1b[31mno", b"[1]", b'{"error":{}}', b"\xff"])
async def test_other_refusals_name_the_status_and_no_markup(body: bytes) -> None:
    async with fake_server(FakeRefusingServer(404, body)) as url:
        error = await fails_to_connect(f"{url}/wrong?key=secret")
    assert type(error) is Refused
    assert (error.exit_code, error.status) == (4, 404)
    assert "HTTP 404." in error.message
    assert "secret" not in error.message


async def test_nobody_listening_is_not_reachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await fails_to_connect(f"ws://127.0.0.1:{free.getsockname()[1]}")
    assert isinstance(error, NotReachable)
    assert error.exit_code == 3
    assert "Connection refused. Is the daemon running?" in error.message


async def test_a_port_that_accepts_and_says_nothing_is_not_reachable_in_time() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"ws://127.0.0.1:{mute.getsockname()[1]}"
        error = await fails_to_connect(url, connect_timeout_s=0.2)
    assert isinstance(error, NotReachable)
    assert "within 0.2 s" in error.message


async def test_a_server_that_does_not_greet_is_not_reachable_in_time() -> None:
    async def accept_only(request: WebSocketRequest) -> None:
        await request.accept()
        await trio.sleep_forever()

    async with fake_server(accept_only) as url:
        error = await fails_to_connect(url, connect_timeout_s=0.2)
    assert isinstance(error, NotReachable)
    assert "session.created" in error.message


@pytest.mark.parametrize("greeting", ["hello", '{"type":"other"}', '{"type":"session.created"}'])
async def test_a_server_of_another_dialect_is_a_protocol_error(greeting: str) -> None:
    async with fake_server(FakeScriptedServer(greeting=greeting)) as url:
        error = await fails_to_connect(url)
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize("key", ["with space", "line\n", "é"])
async def test_a_key_that_no_header_can_carry_is_refused_here(key: str) -> None:
    error = await fails_to_connect("ws://127.0.0.1:1", api_key=key)
    assert isinstance(error, Unauthorised)
    assert key not in error.message


# --- a session ----------------------------------------------------------------------------


async def test_connect_authorises_greets_and_chooses_the_model() -> None:
    server = FakeScriptedServer()
    async with fake_server(server) as url, connect(url, model="m", api_key="k3y") as session:
        assert session.id == "sess-1"
        await server.heard("session.update", model="m")
    request = server.requests[0]
    assert request.path == "/v1/realtime"
    assert dict(request.headers)[b"authorization"] == b"Bearer k3y"


async def test_transcribe_gives_deltas_then_one_done() -> None:
    async with fake_server(FakeRecogniser()) as url, connect(url) as session:
        first = await listed(session, [CHUNK, CHUNK])
        second = await listed(session, [b"\x00\x00" * 7])
    assert [type(event) for event in first] == [TextDelta, UtteranceDone]
    assert [event.text for event in first] == [" 2560", " 2560"]
    assert [event.utterance for event in first + second] == [0, 0, 1, 1]
    assert second[-1].text == " 7"
    assert second[-1].usage.prompt_tokens == 2


async def test_no_audio_gives_one_done() -> None:
    async with fake_server(FakeRecogniser()) as url, connect(url) as session:
        events = await listed(session, [])
    assert [event.text for event in events] == [" 0", " 0"]


async def test_audio_may_come_from_an_async_iterator() -> None:
    async def speech() -> AsyncGenerator[np.ndarray[Any, Any], None]:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            yield CHUNK

    async with fake_server(FakeRecogniser()) as url, connect(url) as session:
        events = await listed(session, speech())
    assert events[-1].text == " 3840"


async def test_a_long_append_is_split_below_the_limit_of_a_message() -> None:
    server = FakeRecogniser()
    async with fake_server(server) as url, connect(url) as session:
        events = await listed(session, [np.zeros(1_000_000, np.float32)])
    assert events[-1].text == " 1000000"
    assert sum(e["type"] == "input_audio_buffer.append" for e in server.received) == 4


async def test_pace_one_takes_as_long_as_the_speech() -> None:
    async with fake_server(FakeRecogniser()) as url, connect(url) as session:
        start = trio.current_time()
        await listed(session, [CHUNK] * 5, pace=1.0)
        real_time_s = trio.current_time() - start
        await listed(session, [CHUNK] * 5, pace=None)
        fast_s = trio.current_time() - start - real_time_s
    assert 0.4 <= real_time_s < 2.0
    assert fast_s < 0.4


async def test_bytes_that_are_not_whole_samples_are_a_mistake_of_the_caller() -> None:
    async with fake_server(FakeScriptedServer()) as url, connect(url) as session:
        with pytest.raises(ValueError, match="2-byte samples"):
            await session.append(b"\x00")


async def test_what_the_audio_raises_comes_out_as_itself() -> None:
    def broken() -> Any:
        yield CHUNK
        raise LookupError("the microphone fell off")

    async with fake_server(FakeScriptedServer()) as url, connect(url) as session:
        with pytest.raises(LookupError):
            await listed(session, broken())


async def test_leaving_a_transcription_early_stops_the_sending() -> None:
    server = FakeScriptedServer()
    async with fake_server(server) as url, connect(url) as session:
        async with session.transcribe([CHUNK] * 1_000, pace=1.0):
            await server.heard("input_audio_buffer.append")
        count = len(server.received)
        await trio.sleep(0.2)
        assert len(server.received) <= count + 1


# --- errors of a session ------------------------------------------------------------------


async def test_an_unknown_model_is_told_by_the_first_utterance() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="error", error="The model `x` does not exist.", code="model_not_found")

    async with fake_server(FakeScriptedServer(script)) as url, connect(url, model="x") as session:
        with pytest.raises(ModelUnknown) as caught:
            await listed(session, [CHUNK])
    assert caught.value.exit_code == 6
    assert "`x`" in caught.value.message


async def test_an_error_event_is_a_server_error_with_its_code() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="error", error="The engine\nfailed.", code="engine_error")

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        with pytest.raises(ServerError) as caught:
            await listed(session, [CHUNK] * 1_000, pace=1.0)
    assert (caught.value.exit_code, caught.value.code) == (8, "engine_error")
    assert caught.value.message.endswith("The engine failed.")


async def test_events_gives_error_events_and_goes_on() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="error", error="Bad chunk.", code="invalid_audio")
        await send(ws, type="session.updated")
        await send(ws, type="transcription.delta", delta="a")
        await ws.aclose(1000)

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        events = [event async for event in session.events()]
    assert events == [ErrorOccurred("invalid_audio", "Bad chunk."), TextDelta(0, "a")]


async def test_an_error_event_explains_the_close_that_follows() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="error", error="The engine is gone.", code="engine_unavailable")
        await ws.aclose(1011, "engine_unavailable")

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        with pytest.raises(ServerError) as caught:
            await listed(session, [CHUNK] * 1_000, pace=1.0)
    assert caught.value.code == "engine_unavailable"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1013])
async def test_a_close_before_the_final_is_a_lost_connection(code: int) -> None:
    async def script(ws: WebSocketConnection) -> None:
        await ws.aclose(code, "because")

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        with pytest.raises(ConnectionLost) as caught:
            await listed(session, [CHUNK] * 1_000, pace=1.0)
    assert (caught.value.exit_code, caught.value.code) == (8, code)
    assert caught.value.reason == "because"
    assert f"code {code}, saying: because" in caught.value.message


async def test_a_connection_that_breaks_has_code_1006() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await ws._stream.aclose()

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        with pytest.raises(ConnectionLost) as caught:
            await listed(session, [CHUNK] * 1_000, pace=1.0)
    assert caught.value.code == 1006


async def test_sending_on_a_closed_connection_is_a_lost_connection() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await ws.aclose(1013, "overloaded")

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        with pytest.raises(ConnectionLost) as caught:
            while True:
                await session.append(CHUNK)
                await trio.sleep(0.01)
    assert caught.value.code == 1013


async def test_a_final_that_was_not_asked_for_is_an_incomplete_text() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="transcription.done", text="cut", usage=USAGE)

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        seen: list[Any] = []
        with pytest.raises(ServerError) as caught:
            async with session.transcribe([CHUNK] * 1_000, pace=1.0) as events:
                async for event in events:
                    seen.append(event)
    assert [event.text for event in seen] == ["cut"]
    assert caught.value.code == "ended_early"


async def test_a_malformed_event_is_a_protocol_error() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await send(ws, type="transcription.delta", delta=7)

    async with fake_server(FakeScriptedServer(script)) as url, connect(url) as session:
        with pytest.raises(ProtocolError, match=r"malformed transcription\.delta"):
            await listed(session, [CHUNK])


# --- deadlines ----------------------------------------------------------------------------


async def test_a_final_that_never_comes_is_not_waited_for_for_ever() -> None:
    server = FakeScriptedServer()
    async with fake_server(server) as url, connect(url, final_timeout_s=0.2) as session:
        with pytest.raises(ConnectionLost, match=r"within 0\.2 s"):
            await listed(session, [CHUNK])


async def test_silence_is_no_reason_to_give_up_while_nothing_is_owed() -> None:
    async def script(ws: WebSocketConnection) -> None:
        await trio.sleep(0.5)
        await send(ws, type="transcription.delta", delta="late")

    server = FakeScriptedServer(script)
    async with fake_server(server) as url, connect(url, final_timeout_s=0.1) as session:
        await session.begin()
        assert await anext(session.events()) == TextDelta(0, "late")


async def frozen_after_greeting(request: WebSocketRequest) -> None:
    """A fake whose process has stopped: the kernel takes bytes for it, it answers nothing."""
    ws = await request.accept()
    await ws.send_message('{"type":"session.created","id":"sess-1","created":1}')
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    ws._reader_running = False
    await ws._stream_lock.acquire()
    await trio.sleep_forever()


async def test_a_server_that_is_gone_is_noticed_by_its_missing_pong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_PING_AFTER_S", 0.2)
    monkeypatch.setattr(client, "_PONG_WITHIN_S", 0.2)
    monkeypatch.setattr(client, "_CLOSE_WITHIN_S", 0.2)
    async with fake_server(frozen_after_greeting) as url, connect(url) as session:
        with pytest.raises(ConnectionLost, match="answered a ping"):
            await anext(session.events())


async def test_a_server_that_does_not_read_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CLOSE_WITHIN_S", 0.2)
    async with fake_server(frozen_after_greeting) as url:
        async with connect(url, send_timeout_s=0.5) as session:
            with pytest.raises(ConnectionLost, match=r"read nothing for 0\.5 s"):
                await listed(session, [np.zeros(16_000_000, np.float32)])


async def test_leaving_a_session_takes_no_longer_than_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_CLOSE_WITHIN_S", 0.2)
    async with fake_server(frozen_after_greeting) as url:
        with trio.fail_after(5):
            async with connect(url):
                pass


async def test_the_error_of_the_body_survives_a_close_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_CLOSE_WITHIN_S", 0.2)
    async with fake_server(frozen_after_greeting) as url:
        with pytest.raises(LookupError):
            async with connect(url):
                raise LookupError("the caller's own")
