"""What a log line is: one event, escaped and bounded, with what the journal wants in front."""

import json
import os
import subprocess
import sys

import pytest
import trio
from daemon_process import DaemonProcess
from raw_client import raw_client
from speech import load_sample, manifest

PROGRAM = """
import logging, os, sys
from realtimed.ops import logs
stderr = os.fstat(2)
if "JOURNAL" in sys.argv:
    os.environ["JOURNAL_STREAM"] = f"{stderr.st_dev}:{stderr.st_ino}"
logs.set_up("debug", sys.argv[1])
log = logging.getLogger("realtimed.x")
log.debug("one")
log.info("two", extra={"session": "sess-1"})
log.warning("three %s", "\\n<3>forged\\x1b[31m", extra={"code": "x" * 10_000})
try:
    1 / 0
except ZeroDivisionError:
    log.exception("four")
"""


def lines(*arguments: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return run.stderr.splitlines()


def test_console_lines_have_a_clock_and_no_priority() -> None:
    first, second, third, *_ = lines("console")
    assert first[8:] == " realtimed: one"
    assert second.endswith(" realtimed: two session=sess-1")
    assert "warning: three \\n<3>forged\\x1b[31m code=xxx" in third
    assert len(third) < 300


def test_json_lines_are_objects_with_their_fields() -> None:
    first, second, third, fourth = map(json.loads, lines("json"))
    assert (first["event"], first["level"], first["logger"]) == ("one", "debug", "realtimed.x")
    assert second["session"] == "sess-1"
    assert third["event"] == "three \\n<3>forged\\x1b[31m"
    assert len(third["code"]) == 200
    assert "ZeroDivisionError" in fourth["exception"]


@pytest.mark.parametrize("style", ["console", "json"])
def test_every_line_that_the_journal_gets_has_its_priority(style: str) -> None:
    found = lines(style, "JOURNAL")
    assert [line[:3] for line in found[:3]] == ["<7>", "<6>", "<4>"]
    assert {line[:3] for line in found[3:]} == {"<3>"}
    if style == "console":
        assert found[0] == "<7>realtimed: one"


def test_a_stderr_that_is_not_the_journals_gets_none() -> None:
    os_environ = {**os.environ, "JOURNAL_STREAM": "1:2"}
    command = [sys.executable, "-c", PROGRAM, "console"]
    run = subprocess.run(command, capture_output=True, text=True, env=os_environ, timeout=60)
    assert "<6>" not in run.stderr


async def test_a_sessions_lines_have_its_id_and_nothing_that_was_said(
    daemon: DaemonProcess,
) -> None:
    before = len(daemon.lines)
    async with raw_client(daemon.url, update=False) as client:
        await client.update("realtimed-demo")
        await client.send(type="\x1b[31mforged\nsession ends")
        assert (await client.receive())["code"] == "unknown_event"
        await client.utterance(load_sample("callsign"))
    with trio.fail_after(10):
        while not any("session ends" in line for line in daemon.lines[before:]):
            await trio.sleep(0.02)
    ours = daemon.lines[before:]
    assert all("session=sess-" in line for line in ours), ours
    words = manifest()["callsign"].text.split()
    assert not [word for word in words if any(word in line for line in ours)]
    assert not any("forged" in line for line in ours)
