"""Attacks by peers that have a session."""

import base64
import json
import struct
from contextlib import suppress

import numpy as np
import trio

from attacks.peer import (
    BINARY,
    GONE,
    PING,
    PONG,
    TEXT,
    Target,
    event,
    frame,
    received,
)

BURST = 200
"""Frames that are sent in one piece."""
COMMIT = event(type="input_audio_buffer.commit")
FINAL = event(type="input_audio_buffer.commit", final=True)
UPDATE = event(type="session.update", model="")


def append(audio: bytes) -> bytes:
    return event(type="input_audio_buffer.append", audio=base64.b64encode(audio).decode())


# --- frames -------------------------------------------------------------------------------


async def slow_fragments(target: Target) -> None:
    """A message whose fragments come slowly and never end."""

    async def one() -> None:
        async with target.session() as stream:

            async def drip() -> None:
                opcode = TEXT
                with suppress(*GONE):
                    while True:
                        await stream.send_all(frame(opcode, b"a", fin=False))
                        opcode = 0
                        await trio.sleep(0.2)

            async with trio.open_nursery() as nursery:  # ends when the daemon closes
                nursery.start_soon(drip)
                target.note(await received(stream))
                nursery.cancel_scope.cancel()

    await target.many(10, one)


async def empty_fragments(target: Target) -> None:
    """A message of empty fragments without end, as fast as they can be sent."""
    async with target.session() as stream:
        await stream.send_all(frame(TEXT, fin=False))
        await target.flood(stream, frame(0, fin=False) * BURST, BURST)


async def pings(target: Target) -> None:
    """Pings as fast as they can be sent, with pongs that nobody asked for."""
    async with target.session() as stream:
        both = frame(PING, b"a" * 125) + frame(PONG, b"a" * 125)
        await target.flood(stream, both * (BURST // 2), BURST)


async def tiny_messages(target: Target) -> None:
    """A sample of audio a message, as fast as they can be sent."""
    async with target.session() as stream:
        await stream.send_all(UPDATE + COMMIT)
        await target.flood(stream, frame(BINARY, bytes(2)) * BURST, BURST)


async def giant_messages(target: Target) -> None:
    """Messages over the limit: claimed, whole, and in fragments."""
    mebi = 2**20
    giants = [
        frame(BINARY, length=2**62),
        frame(TEXT, b"a" * mebi, length=17 * mebi),
        b"".join([frame(BINARY, bytes(mebi), fin=False), *[frame(0, bytes(mebi), fin=False)] * 16]),
    ]
    while target.going_on:
        for giant in giants:
            async with target.session() as stream:
                async with trio.open_nursery() as nursery:  # ends with the close

                    async def send(data: bytes = giant) -> None:
                        with suppress(*GONE):
                            await stream.send_all(data)

                    nursery.start_soon(send)
                    target.note(await received(stream))
                    nursery.cancel_scope.cancel()


async def bad_frames(target: Target) -> None:
    """Text that is no UTF-8, and frames against the protocol."""
    frames = [
        frame(TEXT, b"\xff\xfe\xfd"),
        frame(TEXT, "ü".encode()[:1]),
        frame(TEXT, b"\xed\xa0\x80"),
        bytes([0x81, 0x05]) + b"plain",
        frame(0x3, b"a"),
        frame(TEXT | 0x40, b"a"),
        frame(0, b"a"),
        frame(PING, b"a" * 200),
        frame(PING, b"a", fin=False),
        frame(0x8, b"\x03"),
        frame(0x8, struct.pack("!H", 999)),
    ]
    while target.going_on:
        for bad in frames:
            async with target.session() as stream:
                with suppress(*GONE):
                    await stream.send_all(bad)
                target.note(await received(stream))
            await trio.sleep(0.02)


# --- messages -----------------------------------------------------------------------------


async def base64_bombs(target: Target) -> None:
    """Fifteen mebibytes of base64 that are wrong only at their end, and the like of whole ones."""
    long = "A" * (15 * 2**20)
    bombs = [
        frame(TEXT, b'{"type":"input_audio_buffer.append","audio":"' + long.encode() + b'!"}'),
        frame(TEXT, b'{"type":"input_audio_buffer.append","audio":"' + long.encode() + b'AA="}'),
    ]
    async with target.session() as stream:
        await stream.send_all(UPDATE)
        await target.flood(stream, b"".join(bombs), len(bombs))


async def json_bombs(target: Target) -> None:
    """JSON that is nested deeply, or whose objects take much more memory than its text."""
    many = "[]," * 2_000_000 + "[]"
    texts = [
        "[" * 1_000_000,
        '{"a":' * 200_000,
        f'{{"type":"session.update","session":{{"a":[{many}]}}}}',
        f'{{"type":"input_audio_buffer.append","audio":[{many}]}}',
        f'{{"type":"input_audio_buffer.append","audio":"AAAA","event_id":[{many}]}}',
        json.dumps({"type": "a" * 2_000_000}),
        '{"type":"session.update","model":' + "9" * 1_000_000 + "}",
    ]
    async with target.session() as stream:
        frames = b"".join(frame(TEXT, text.encode()) for text in texts)
        await target.flood(stream, frames, len(texts))


async def bad_messages(target: Target) -> None:
    """Messages that are each answered by an error."""
    async with target.session() as stream:
        bad = event(type="nonsense") + frame(TEXT, b"{") + append(b"a") + event(type=1)
        await target.flood(stream, bad * (BURST // 4), BURST)


async def never_reads(target: Target) -> None:
    """The same from a client that never reads the answers."""

    async def one() -> None:
        async with target.session() as stream:
            bad = event(type="nonsense") * BURST
            with trio.move_on_at(target.until), suppress(*GONE):
                while True:
                    await stream.send_all(bad)
                    target.seen["sent"] += BURST
            target.note(b"")

    await target.many(4, one)


async def settings_flood(target: Target) -> None:
    """Settings and commits without end, each of them right."""
    async with target.session() as stream:
        vad = event(type="session.update", model="", turn_detection={"type": "server_vad"})
        off = event(type="session.update", model="", turn_detection=None)
        both = vad + off + COMMIT + FINAL
        await target.flood(stream, both * (BURST // 4), BURST)


async def audio_flood(target: Target) -> None:
    """Noise as fast as it can be sent, in three sessions; the count is of seconds of audio."""
    noise = np.random.default_rng(0).normal(0, 3_000, 16_000).astype("<i2").tobytes()

    async def one() -> None:
        async with target.session() as stream:
            await stream.send_all(UPDATE + COMMIT)
            await target.flood(stream, frame(BINARY, noise), 1)

    await target.many(3, one)
