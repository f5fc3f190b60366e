"""The frame reader agrees with wsproto on everything, however the bytes are cut up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from realtimed.server.frames import Control, FrameReader, Message, MessageTooBig, Part

LIMIT = 300_000

messages = st.one_of(
    st.text(max_size=40).map(lambda text: TextMessage(data=text)),
    st.binary(max_size=40).map(lambda data: BytesMessage(data=data)),
    st.sampled_from([125, 126, 65_535, 65_536]).map(lambda n: BytesMessage(data=b"x" * n)),
    st.binary(max_size=20).map(lambda data: Ping(payload=data)),
)
fragmented = st.lists(st.text(max_size=10), min_size=2, max_size=4).map(
    lambda parts: [
        TextMessage(data=part, message_finished=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
)
conversations = st.lists(st.one_of(messages.map(lambda event: [event]), fragmented), max_size=6)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


def read(pieces: list[bytes]) -> list[Message | Control]:
    reader = FrameReader(LIMIT)
    events: list[Message | Control] = []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next_event()) is not None:
            if isinstance(event, Part):
                continue
            events.append(event)
            if isinstance(event, CloseConnection):
                return events
    return events


def read_by_wsproto(data: bytes) -> list[Message | Control]:
    """What wsproto alone makes of it, fragments joined."""
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(data)
    events: list[Message | Control] = []
    parts: list[str | bytes] = []
    for event in connection.events():
        if isinstance(event, TextMessage | BytesMessage):
            parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
            if event.message_finished:
                events.append(type(parts[0])().join(parts))  # type: ignore[arg-type]
                parts = []
        elif isinstance(event, Ping | Pong | CloseConnection):
            events.append(event)
            if isinstance(event, CloseConnection):
                break
    return events


@settings(max_examples=150, deadline=None)
@given(
    conversation=conversations, sizes=st.lists(st.sampled_from([1, 2, 7, 999, 70_000]), min_size=1)
)
def test_messages_come_out_as_they_went_in(
    conversation: list[list[TextMessage]], sizes: list[int]
) -> None:
    client = Connection(ConnectionType.CLIENT)
    data = b"".join(bytes(client.send(event)) for events in conversation for event in events)
    if len(data) > 2_000:  # octet by octet would take long
        sizes = [max(size, 999) for size in sizes]
    assert read(cut(data, sizes)) == read_by_wsproto(data)


@settings(max_examples=300, deadline=None)
@given(
    conversation=conversations,
    at=st.integers(0, 200),
    octet=st.integers(0, 255),
    sizes=st.lists(st.sampled_from([1, 3, 70_000]), min_size=1),
)
def test_broken_frames_end_as_wsproto_ends_them(
    conversation: list[list[TextMessage]], at: int, octet: int, sizes: list[int]
) -> None:
    client = Connection(ConnectionType.CLIENT)
    data = bytearray(
        b"".join(bytes(client.send(event)) for events in conversation for event in events)
    )
    if not data or len(data) > 2_000:
        return
    data[at % len(data)] = octet
    try:
        ours = read(cut(bytes(data), sizes))
    except MessageTooBig:
        return  # the changed octet was a length
    theirs = read_by_wsproto(bytes(data))
    # wsproto passes on the pieces of a frame that is still under way, and judges their text; here
    # a frame is awaited whole, so the same verdict may come later.
    assert ours == theirs[: len(ours)]
    if ours != theirs:
        assert len(theirs) == len(ours) + 1
        assert isinstance(theirs[-1], CloseConnection)


@pytest.mark.parametrize("opcode", [0x81, 0x82, 0x01])
def test_a_message_over_the_limit_is_refused_by_its_header(opcode: int) -> None:
    reader = FrameReader(1_000)
    reader.feed(bytes([opcode, 0x80 | 126]) + (1_001).to_bytes(2, "big") + b"mask")
    with pytest.raises(MessageTooBig):
        reader.next_event()


def test_fragments_are_counted_together() -> None:
    reader, client = FrameReader(1_000), Connection(ConnectionType.CLIENT)
    for _ in range(2):
        reader.feed(bytes(client.send(BytesMessage(data=b"x" * 600, message_finished=False))))
    assert reader.next_event() is Part.OF_MESSAGE
    with pytest.raises(MessageTooBig):
        reader.next_event()


def test_a_pong_and_a_close_are_told_apart_from_messages() -> None:
    reader, client = FrameReader(1_000), Connection(ConnectionType.CLIENT)
    reader.feed(bytes(client.send(Pong(payload=b"p")) + client.send(CloseConnection(code=1000))))
    assert reader.next_event() == Pong(payload=b"p")
    close = reader.next_event()
    assert isinstance(close, CloseConnection)
    assert close.code == 1000
    assert not reader.open
