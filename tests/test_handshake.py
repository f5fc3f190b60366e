"""Reading an upgrade request: what is let through, what is refused, and how it is replayed."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from realtimed.errors import Refusal
from realtimed.server.handshake import Upgrade, encode_accept, encode_refusal, read_upgrade

HEAD = (
    b"GET /v1/realtime?model=x HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)


async def read(data: bytes) -> Upgrade | None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(data)
    await theirs.send_eof()
    return await read_upgrade(ours)


async def test_a_valid_upgrade_is_understood_and_what_follows_it_is_kept() -> None:
    upgrade = await read(HEAD + b"\r\n\x81\x85rest")
    assert upgrade is not None
    assert upgrade.path == "/v1/realtime"
    assert upgrade.query == {"model": ["x"]}
    assert upgrade.header(b"host") == "a"
    assert upgrade.rest == b"\x81\x85rest"


async def test_two_connection_headers_are_read_as_one() -> None:
    assert await read(HEAD + b"Connection: keep-alive\r\n\r\n") is not None


async def test_the_answer_proves_that_the_key_was_read() -> None:
    upgrade = await read(HEAD + b"\r\n")
    assert upgrade is not None
    # The key and its answer are the example of RFC 6455 section 1.3.
    head = encode_accept(upgrade)
    assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert head.startswith(b"HTTP/1.1 101 ")
    assert head.endswith(b"\r\n\r\n")
    assert b"protocol" not in head


async def test_the_subprotocol_realtime_is_selected_where_it_is_offered() -> None:
    upgrade = await read(HEAD + b"Sec-WebSocket-Protocol: x, realtime\r\n\r\n")
    assert upgrade is not None
    assert b"\r\nsec-websocket-protocol: realtime\r\n" in encode_accept(upgrade)


async def test_a_peer_that_leaves_early_is_no_error() -> None:
    assert await read(b"") is None
    assert await read(b"GET /v1/rea") is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 426),
        (b"POST /v1/realtime HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405),
        (HEAD.replace(b"Version: 13", b"Version: 8") + b"\r\n", 426),
        (HEAD.replace(b"Sec-WebSocket-Key", b"X-Key") + b"\r\n", 400),
        (HEAD.replace(b", Upgrade", b"") + b"\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01 hello TLS\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 400),
        (HEAD.replace(b"?model=x", b"?a=b" + b"&a=b" * 100) + b"\r\n", 400),
        (HEAD.replace(b"/v1/realtime?model=x", b"http://[/v1/realtime") + b"\r\n", 400),
        (HEAD + b"X: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_no_upgrade_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        await read(data)
    assert refusal.value.status == status


@given(data=st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    async def check() -> None:
        try:
            await read(data)
        except Refusal as refusal:
            assert b"\r\n\r\n" in encode_refusal(refusal)

    trio.run(check)


def test_a_refusal_is_a_complete_answer_that_says_when_to_come_back() -> None:
    answer = encode_refusal(Refusal(503, "loading", "The model is still loading.", retry_after_s=7))
    head, body = answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 7" in head
    assert f"content-length: {len(body)}".encode() in head
    assert body == b'{"error":"The model is still loading.","code":"loading"}\n'
