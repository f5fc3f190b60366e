"""SIGHUP: what changes, what does not, and that a bad file changes nothing."""

import re
import signal
from pathlib import Path

import pytest
import trio
from daemon_process import DaemonProcess
from raw_client import raw_client
from speech import load_sample, manifest

from realtimed import config
from realtimed.client import Unavailable, connect
from realtimed.config import Limits, Settings
from realtimed.errors import ConfigError
from realtimed.reload import RELOADABLE, Reloader

DOCS = Path(__file__).parent.parent / "docs" / "operations.md"
SPEECH = load_sample("digits")


def documented() -> dict[str, str]:
    rows = re.findall(
        r"^\| (at once|new sessions|restart) \| (.+?) \|", DOCS.read_text(), re.MULTILINE
    )
    return {key: when for when, keys in rows for key in re.findall(r"`([a-z_.]+)`", keys)}


def test_the_manual_says_of_every_setting_when_a_change_of_it_counts() -> None:
    expected = {key: when.value for key, when in RELOADABLE.items()} | {"engine": "restart"}
    assert set(RELOADABLE) == set(config.options())
    assert documented() == expected


async def test_all_parts_change_or_none_does() -> None:
    done: list[str] = []

    def good(settings: Settings) -> object:
        return lambda: done.append("good")

    def bad(settings: Settings) -> object:
        raise ConfigError("the certificate is of another key")

    settings = Settings(max_sessions=3)
    assert await Reloader(lambda: settings, [good, bad]).reload(Settings()) is None  # type: ignore[list-item]
    assert done == []
    assert await Reloader(lambda: settings, [good, good]).reload(Settings()) == settings  # type: ignore[list-item]
    assert done == ["good", "good"]


async def test_what_takes_a_restart_stays_until_then(caplog: pytest.LogCaptureFixture) -> None:
    wanted = Settings(port=1, engine={"x": 1}, log_level="error", limits=Limits(ring_s=9))
    caplog.set_level("INFO", "realtimed")
    changed = await Reloader(lambda: wanted, []).reload(Settings())
    assert changed == Settings(log_level="error", limits=Limits(ring_s=9))


async def test_sighup_under_load_takes_a_good_file_and_keeps_a_bad_one_out(
    daemon: DaemonProcess,
) -> None:
    assert daemon.config_file is not None

    async def reload(text: str, logged: str) -> None:
        daemon.config_file.write_text(text)  # type: ignore[union-attr]
        seen = len(re.findall(logged, daemon.log))
        daemon.send_signal(signal.SIGHUP)
        with trio.fail_after(10):
            while len(re.findall(logged, daemon.log)) == seen:
                await trio.sleep(0.02)

    async def metric(name: str) -> float:
        _, text = await trio.to_thread.run_sync(daemon.get, "/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    finals: list[str] = []

    async def talk() -> None:
        async with raw_client(daemon.url) as client:
            finals.append((await client.utterance(SPEECH, paced=True))["text"].strip())

    failures = await metric('realtimed_reloads_total{result="failure"}')
    try:
        async with trio.open_nursery() as nursery:  # ends when all have their finals
            for _ in range(4):
                nursery.start_soon(talk)
            with trio.fail_after(10):
                while await metric('realtimed_sessions_active{dialect="vllm"}') != 4:
                    pass
            await reload("max_sessions = 4\n[limits]\nring_s = 20\n", "reloaded: .*max_sessions")
            with pytest.raises(Unavailable, match="4 sessions are taken"):
                async with connect(daemon.url):
                    pass
            await reload("max_sessions = 'many'\n", "reload failed.*max_sessions: expected int")
            await reload("port = \n", "reload failed.*not valid TOML")
            assert await metric("realtimed_reload_failed") == 1
            assert await metric("realtimed_sessions_limit") == 4
            assert await metric('realtimed_reloads_total{result="failure"}') == failures + 2
            await reload("model = 'other'\n", "a restart is needed for model")
            assert await metric("realtimed_reload_failed") == 0
            assert await metric("realtimed_sessions_limit") > 4
    finally:
        await reload("", "reloaded: ")
    assert finals == [manifest()["digits"].text] * 4
