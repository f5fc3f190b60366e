"""A WebSocket that is fed irregular frames: bounded memory, bounded time, and turns for others."""

import json

import pytest
import trio
from echo_server import ask, echo_server
from trio.testing import MockClock, memory_stream_pair
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from realtimed.config import Limits
from realtimed.server.frames import FrameReader
from realtimed.server.websocket import SocketClosed, WebSocket

FRAMES = 500


def sent_by_client(*events: Event) -> bytes:
    client = Connection(ConnectionType.CLIENT)
    return b"".join(map(client.send, events))


async def turns_of_others(data: bytes) -> int:
    """How often another task runs while one message is received that ends `data`."""
    ours, _ = memory_stream_pair()
    socket = WebSocket(ours, data, Limits())
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:  # ends by the cancel
        nursery.start_soon(other)
        assert await socket.receive() == "end"
        nursery.cancel_scope.cancel()
    return turns


@pytest.mark.parametrize("event", [Pong(b""), Ping(b""), TextMessage("", message_finished=False)])
async def test_frames_that_came_at_once_are_read_in_turn_with_other_tasks(event: Event) -> None:
    flood = [event] * FRAMES
    assert await turns_of_others(sent_by_client(*flood, TextMessage("end"))) >= FRAMES - 1


async def test_whole_messages_that_came_at_once_are_read_in_turn_with_other_tasks() -> None:
    ours, _ = memory_stream_pair()
    socket = WebSocket(ours, sent_by_client(*[BytesMessage(b"ab")] * FRAMES), Limits())
    with trio.testing.assert_checkpoints():
        await socket.receive()


def test_empty_fragments_take_no_memory() -> None:
    reader = FrameReader(1_000)
    part = sent_by_client(TextMessage("", message_finished=False))
    for _ in range(FRAMES):
        reader.feed(part)
        while reader.next_event() is not None:
            pass
    assert not reader._parts
    assert reader.partial


async def test_a_message_that_is_not_whole_in_time_is_closed_with_1008(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = memory_stream_pair()
    socket = WebSocket(ours, b"", Limits(message_s=30))
    fragment = sent_by_client(TextMessage("a", message_finished=False))
    client = Connection(ConnectionType.CLIENT)
    client.send(TextMessage("a", message_finished=False))

    async def drip() -> None:
        await trio.sleep(100)  # quiet between messages has no deadline here
        await theirs.send_all(fragment)
        for _ in range(100):
            await trio.sleep(1)
            await theirs.send_all(client.send(Pong(b"")))

    async with trio.open_nursery() as nursery:  # ends by the cancel
        nursery.start_soon(drip)
        with pytest.raises(SocketClosed) as closed:
            await socket.receive()
        nursery.cancel_scope.cancel()
    assert closed.value.code == 1008
    assert trio.current_time() == pytest.approx(130, abs=1e-6)
    client.receive_data(bytes(await theirs.receive_some()))
    [close] = [event for event in client.events() if isinstance(event, CloseConnection)]
    assert close.reason == "The message was not complete within 30 s."


async def test_the_oldest_handshake_makes_way_for_a_new_one() -> None:
    async with echo_server(Limits(handshakes=3)) as served:
        slow = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(3)]
        for stream in slow:
            await stream.send_all(b"GET /v1/realtime HTTP/1.1\r\nHost: ")
        with trio.fail_after(5):
            while len(served.server.half_open) < 3:
                await trio.lowlevel.checkpoint()
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as honest:
            status, _ = await ask(honest)
            assert status == 101
        with trio.fail_after(5):
            assert await slow[0].receive_some() == b""
        await slow[1].send_all(b"a\r\n\r\n")
        with trio.fail_after(5):
            assert b" 426 " in await slow[1].receive_some()
        assert served.server.half_open.displaced == 1
        for stream in slow:
            await stream.aclose()


async def test_a_session_is_no_handshake_any_more() -> None:
    async with echo_server(Limits(handshakes=1)) as served:
        streams = []
        for _ in range(3):
            streams.append(await trio.open_tcp_stream("127.0.0.1", served.port))
            assert (await ask(streams[-1]))[0] == 101
        assert len(served.server.half_open) == 0
        assert served.server.connections == 3
        for stream in streams:
            await stream.send_all(sent_by_client(TextMessage(json.dumps("still there"))))
            with trio.fail_after(5):
                assert b"still there" in await stream.receive_some()
            await stream.aclose()
