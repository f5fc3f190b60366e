"""The Autobahn protocol cases, through the daemon's own listener, against an echo."""

import asyncio
from typing import Any, cast

import kosoku
import trio
from echo_server import echo_server

CASES = 247


def run_cases(url: str) -> list[Any]:
    """Every case but those on compression, which is never negotiated here."""

    async def run() -> list[Any]:
        results = kosoku.run_fuzzingclient(url, exclude_cases=["12.*", "13.*"])
        if asyncio.iscoroutine(results):
            results = await results
        return list(cast("list[Any]", results))

    return asyncio.run(run())


async def test_every_protocol_case_passes() -> None:
    async with echo_server() as served:
        # Raises with the failed cases, if there are any.
        results = await trio.to_thread.run_sync(run_cases, served.url)
    assert len(results) >= CASES
