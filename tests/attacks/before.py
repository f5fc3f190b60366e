"""Attacks by peers that are no session yet."""

from collections.abc import Awaitable, Callable

import trio

from attacks.peer import Target, event

SLOW = 200
HALF_OPEN = 1_000
DRIP_S = 0.25


async def silent_tcp(target: Target) -> None:
    """Connections that say nothing."""

    async def one() -> None:
        while target.going_on:
            await target.watch(await target.tcp())

    await target.many(SLOW, one)


async def slow_tls(target: Target) -> None:
    """A TLS handshake, a byte at a time."""
    # The head of a ClientHello of 512 bytes, the rest of which never comes.
    hello = bytes.fromhex("1603010200010001fc0303") + bytes(32)
    await _dripping(target, target.tcp, hello)


async def slow_http(target: Target) -> None:
    """A request, a header at a time."""

    async def begun() -> trio.abc.Stream:
        stream = await target.tls()
        await stream.send_all(target.head())
        return stream

    await _dripping(target, begun, b"".join(b"X-%d: a\r\n" % n for n in range(1_000)), 8, 40)


async def _dripping(
    target: Target,
    connect: Callable[[], Awaitable[trio.abc.Stream]],
    data: bytes,
    size: int = 1,
    count: int = SLOW,
) -> None:
    async def one() -> None:
        stream = await connect()

        async def drip() -> None:
            try:
                for at in range(0, len(data), size):
                    await stream.send_all(data[at : at + size])
                    await trio.sleep(DRIP_S)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # closed: the watcher sees it

        async with trio.open_nursery() as nursery:  # ends when the connection does
            nursery.start_soon(drip)
            await target.watch(stream)
            nursery.cancel_scope.cancel()

    async def again_and_again() -> None:
        while target.going_on:
            await one()

    await target.many(count, again_and_again)


async def half_open(target: Target) -> None:
    """A thousand connections at once that get no further; then a client that does."""

    async def one() -> None:
        await target.watch(await target.tcp())

    async with trio.open_nursery() as nursery:  # ends with the attack
        nursery.start_soon(target.many, HALF_OPEN, one)
        nursery.start_soon(trio.sleep_until, target.until)
        await trio.sleep(0.5)
        target.seen["newcomer " + await target.answered(target.head() + b"\r\n")] += 1


async def bad_heads(target: Target) -> None:
    """Requests that are malformed, oversized, or mean two things."""
    heads = [
        b"\x16\x03\x01 not http\r\n\r\n",
        b"GET /v1/realtime\r\n\r\n",
        b"G\x00T /v1/realtime HTTP/1.1\r\nHost: a\r\n\r\n",
        target.head("X: " + "a" * 20_000) + b"\r\n",
        target.head(*[f"X-{n}: a" for n in range(3_000)]) + b"\r\n",
        target.head("Content-Length: 5", "Transfer-Encoding: chunked") + b"\r\n",
        target.head("Content-Length: 5", "Content-Length: 6") + b"\r\n",
        target.head("X: a\x00b") + b"\r\n",
        target.head(" folded: a") + b"\r\n",
        target.head("no colon") + b"\r\n",
        target.head("Host: b") + b"\r\n",
        target.head().replace(b"/v1/realtime", b"/v1/realtime" + b"?a=b&" * 2_000) + b"\r\n",
        target.head().replace(b"/v1/realtime", b"/../../etc/passwd") + b"\r\n",
        target.head().replace(b"GET", b"POST") + b"\r\n",
        target.head().replace(b"Version: 13", b"Version: 999999999999999999999") + b"\r\n",
        target.head().replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n",
    ]
    while target.going_on:
        for head in heads:
            target.seen[await target.answered(head)] += 1
            await trio.sleep(0.02)


async def bad_keys(target: Target) -> None:
    """Keys that are wrong, nearly right, none, too long, or in odd places."""
    keys = ["", "a", target.key[:-1], target.key + "a", "a" * 8_000, "\xff" * 40, target.key[::-1]]
    heads = [target.head(key=key) for key in keys]
    without = target.head(key="").replace(b"Authorization: Bearer \r\n", b"")
    heads += [without.replace(b"realtime HTTP", f"realtime?api_key={target.key} HTTP".encode())]
    while target.going_on:
        for head in heads:
            target.seen[await target.answered(head + b"\r\n")] += 1
            await trio.sleep(0.02)


async def log_injection(target: Target) -> None:
    """Text that would look like a line of the log, or move a terminal's cursor."""
    forged = "\n2026-01-01 ERROR realtimed: forged=yes \x1b[2J\r\nforged=yes"
    escaped = forged.replace("\n", "%0a").replace("\r", "%0d").replace("\x1b", "%1b")
    escaped = escaped.replace(" ", "%20")
    heads = [
        target.head().replace(b"/v1/realtime", f"/v1/{escaped}".encode()),
        target.head().replace(b"/v1/realtime", f"/v1/realtime?model={escaped}".encode()),
        target.head(f"Origin: https://{escaped}"),
        target.head(f"User-Agent: {escaped}", "X: a\x1b[2Jb"),
        target.head(key=f"{target.key}%0aforged=yes"),
    ]
    for head in heads:
        target.seen[await target.answered(head + b"\r\n")] += 1
    async with target.session() as stream:
        await stream.send_all(event(type=forged) + event(type="session.update", model=forged))
        target.note_events(bytes(await stream.receive_some()))
    await trio.sleep_until(target.until)
