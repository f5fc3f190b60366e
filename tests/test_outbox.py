"""The outbox keeps order, merges text while blocked, is bounded, and gives up on slow readers."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from realtimed.errors import SlowReader
from realtimed.server.outbox import Outbox
from realtimed.wire import vllm
from realtimed.wire.events import ErrorOccurred, ServerEvent, TextDelta, TokenLogprob


class Socket:
    """A fake socket that takes a message only when told to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.open = trio.Event()

    async def send(self, message: bytes) -> None:
        await self.open.wait()
        self.sent.append(message)

    def texts(self) -> list[str]:
        return [
            event.text if isinstance(event, TextDelta) else type(event).__name__
            for message in self.sent
            if (event := vllm.decode_server(message)) is not None
        ]


def outbox(send: Callable[[bytes], Awaitable[None]], bound: int = 4) -> Outbox:
    return Outbox(send, lambda event: [vllm.encode_server(event)], bound=bound, slow_reader_s=20.0)


def error(number: int) -> ServerEvent:
    return ErrorOccurred("invalid_audio", str(number))


async def test_text_of_one_utterance_is_merged_while_the_socket_is_blocked() -> None:
    socket = Socket()
    box = outbox(socket.send)
    async with trio.open_nursery() as nursery:  # ends by the cancel below
        nursery.start_soon(box.run)
        box.put(TextDelta(0, "a"))
        await trio.testing.wait_all_tasks_blocked()
        for text in "bcd":
            box.put(TextDelta(0, text))
        box.put(error(0))
        box.put(TextDelta(0, "e"))
        box.put(TextDelta(1, "f"))
        socket.open.set()
        await box.flushed()
        nursery.cancel_scope.cancel()
    assert socket.texts() == ["a", "bcd", "ErrorOccurred", "e", "f"]


async def test_a_full_outbox_holds_back_whoever_asks_for_room() -> None:
    socket = Socket()
    box = outbox(socket.send, bound=2)
    passed = trio.Event()

    async def ask() -> None:
        await box.room()
        passed.set()

    for number in range(3):
        box.put(error(number))
    assert box.full
    async with trio.open_nursery() as nursery:  # ends by the cancel below
        nursery.start_soon(ask)
        nursery.start_soon(box.run)
        await trio.testing.wait_all_tasks_blocked()
        assert not passed.is_set()
        socket.open.set()
        await passed.wait()
        nursery.cancel_scope.cancel()


async def test_a_reader_that_takes_nothing_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    box = outbox(Socket().send)
    box.put(error(0))
    began = trio.current_time()
    with pytest.raises(SlowReader):
        await box.run()
    assert trio.current_time() - began == pytest.approx(20.0)


async def test_what_was_not_begun_can_still_be_sent_after_the_task_was_stopped() -> None:
    socket = Socket()
    socket.open.set()
    box = outbox(socket.send)
    box.put(error(0))
    assert len(box.unsent()) == 1
    assert box.unsent() == []


async def test_nothing_is_sent_after_a_message_that_was_cut_off() -> None:
    box = outbox(Socket().send)
    box.put(error(0))
    async with trio.open_nursery() as nursery:  # ends by the cancel below
        nursery.start_soon(box.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    box.put(error(1))
    assert box.unsent() == []


async def test_merged_text_has_the_first_start_and_the_last_end() -> None:
    box = outbox(Socket().send)
    box.put(TextDelta(0, "a", 1.0, 1.5))
    box.put(TextDelta(0, "b", 2.0, 2.5))
    (message,) = box.unsent()
    assert vllm.decode_server(message) == TextDelta(0, "ab", 1.0, 2.5)


def test_merged_text_has_the_log_probabilities_of_all_its_tokens() -> None:
    told: list[ServerEvent] = []

    def encode(event: ServerEvent) -> list[bytes]:
        told.append(event)
        return []

    box = Outbox(Socket().send, encode, bound=4, slow_reader_s=20.0)
    one, other = TokenLogprob("a", -0.5), TokenLogprob("b", 0.0)
    box.put(TextDelta(0, "a", logprobs=(one,)))
    box.put(TextDelta(0, "b", logprobs=(other,)))
    box.unsent()
    assert told == [TextDelta(0, "ab", logprobs=(one, other))]
