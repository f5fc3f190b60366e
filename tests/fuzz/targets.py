"""Bytes in; out come events, or the errors that are there for it, and nothing else.

Each target takes any bytes and raises only if something is wrong with the code under test. They
need neither a socket nor an engine, so a fuzzer can call them a million times.
"""

import json
from collections.abc import Callable
from contextlib import suppress

import trio
import trio.testing

from realtimed.audio.formats import AudioDecoder, bytes_per_sample
from realtimed.errors import Refusal, WireError
from realtimed.server.frames import FrameReader, MessageTooBig
from realtimed.server.handshake import encode_refusal, read_upgrade
from realtimed.server.keys import ApiKey, Keyring
from realtimed.wire.codec import Codec, Opening
from realtimed.wire.events import ClientEvent
from realtimed.wire.mistral import MistralCodec
from realtimed.wire.openai import OpenAICodec
from realtimed.wire.openai_beta import OpenAIBetaCodec
from realtimed.wire.size import check_size
from realtimed.wire.undecided import Undecided
from realtimed.wire.vllm import VllmCodec

OPENING = Opening("sess-0123456789abcdef", 1_700_000_000, ("model",))
CODECS: dict[str, Callable[[Opening], Codec]] = {
    "vllm": VllmCodec,
    "openai": OpenAICodec,
    "openai_beta": OpenAIBetaCodec,
    "mistral": MistralCodec,
}
ENCODINGS = ("pcm_s16le", "pcm_s32le", "pcm_f16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw")
RATES = (8_000, 16_000, 24_000, 48_000)


def codec(dialect: str, messages: list[str]) -> None:
    """Messages of one connection; whatever was read before, the next is read or refused."""
    conversation = CODECS[dialect](OPENING)
    for message in messages:
        with suppress(WireError):
            check_size(message)
            for event in conversation.decode(message):
                assert isinstance(event, ClientEvent), event


def undecided(messages: list[str | bytes]) -> None:
    """The same where the dialect is not known yet."""
    sorting = Undecided(OPENING, VllmCodec, OpenAICodec, OpenAIBetaCodec)
    for message in messages:
        with suppress(WireError):
            read = sorting.sort_out(message)
            assert bool(read) == (sorting.chosen is not None)
            if sorting.chosen is not None:
                codec(str(sorting.chosen.NAME), [one for one in read if isinstance(one, str)])
                return


def frames(data: bytes) -> None:
    """The WebSocket layer reads, closes, or says that a message is too long."""
    reader = FrameReader(1_000)
    reader.feed(data)
    with suppress(MessageTooBig):
        while reader.next_event() is not None:
            assert reader._parts_size <= 1_000


def head(data: bytes) -> None:
    """A request is an upgrade, or refused with a complete answer."""

    async def read() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(data)
        await theirs.send_eof()
        try:
            await read_upgrade(ours)
        except Refusal as refusal:
            answer, _, body = encode_refusal(refusal).partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}".encode() in answer
            json.loads(body)

    trio.run(read)


def audio(data: bytes) -> None:
    """Whole samples of any format are finite and within [-1, 1]."""
    choice, rest = (data[0] if data else 0), data[1:]
    encoding, rate = ENCODINGS[choice % 6], RATES[choice // 6 % 4]
    whole = rest[: len(rest) // bytes_per_sample(encoding) * bytes_per_sample(encoding)]
    decoder = AudioDecoder(encoding, rate)
    for samples in (decoder.decode(whole), decoder.flush()):
        assert bool((abs(samples) <= 1).all()), "NaN is not, either"


def key(text: str) -> None:
    """No key that somebody shows does more than not being found."""
    assert Keyring([ApiKey("name", bytes(32))]).find(text) is None


def one_input(data: bytes) -> None:
    """Any bytes to one of the targets, which the first byte chooses."""
    choice, rest = (data[0] if data else 0) % 8, data[1:]
    text = rest.decode("utf-8", "replace")
    if choice < len(CODECS):
        codec(list(CODECS)[choice], text.split("\x00"))
    elif choice == 4:
        undecided([*text.split("\x00")])
    elif choice == 5:
        frames(rest)
    elif choice == 6:
        head(rest)
    else:
        audio(rest)
