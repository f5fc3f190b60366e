"""SIGHUP: what changes, what does not, and that a bad file changes nothing."""

import re
import signal
import time
from pathlib import Path

import pytest
import trio
from certificates import make_certificate
from daemon_process import DaemonProcess
from raw_client import raw_client
from speech import load_sample, manifest

from realtimed import config
from realtimed.client import Refused, Unavailable, connect
from realtimed.config import Limits, Settings
from realtimed.errors import ConfigError
from realtimed.reload import RELOADABLE, Reloader
from realtimed.server.keys import key_line

DOCS = Path(__file__).parent.parent / "docs" / "operations.md"
SPEECH = load_sample("digits")
KEY = "correct horse battery staple".replace(" ", "-")


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


async def reload(daemon: DaemonProcess, text: str, logged: str) -> None:
    """Write the settings, send SIGHUP, and wait for a new line that matches."""
    assert daemon.config_file is not None
    daemon.config_file.write_text(text)
    seen = len(re.findall(logged, daemon.log))
    daemon.send_signal(signal.SIGHUP)
    with trio.fail_after(10):
        while len(re.findall(logged, daemon.log)) == seen:
            await trio.sleep(0.02)


async def metric(daemon: DaemonProcess, name: str) -> float | None:
    _, text = await trio.to_thread.run_sync(daemon.get, "/metrics")
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


async def test_sighup_under_load_takes_a_good_file_and_keeps_a_bad_one_out(
    daemon: DaemonProcess,
) -> None:
    active = 'realtimed_sessions_active{dialect="vllm"}'
    failed = 'realtimed_reloads_total{result="failure"}'
    finals: list[str] = []

    async def talk() -> None:
        async with raw_client(daemon.url) as client:
            finals.append((await client.utterance(SPEECH, paced=True))["text"].strip())

    failures = await metric(daemon, failed)
    assert failures is not None
    try:
        async with trio.open_nursery() as nursery:  # ends when all have their finals
            for _ in range(4):
                nursery.start_soon(talk)
            with trio.fail_after(10):
                while await metric(daemon, active) != 4:
                    pass
            good = "max_sessions = 4\n[limits]\nring_s = 20\n"
            await reload(daemon, good, "reloaded; .*: max_sessions, limits.ring_s")
            with pytest.raises(Unavailable, match="4 sessions are taken"):
                async with connect(daemon.url):
                    pass
            await reload(daemon, "max_sessions = 'many'\n", "reload failed.*max_sessions: expected")
            await reload(daemon, "port = \n", "reload failed.*not valid TOML")
            assert await metric(daemon, "realtimed_reload_failed") == 1
            assert await metric(daemon, "realtimed_sessions_limit") == 4
            assert await metric(daemon, failed) == failures + 2
            await reload(daemon, "model = 'other'\n", "a restart is needed for model")
            assert await metric(daemon, "realtimed_reload_failed") == 0
            assert await metric(daemon, "realtimed_sessions_limit") != 4
    finally:
        await reload(daemon, "", "reloaded; ")
    assert finals == [manifest()["digits"].text] * 4


async def test_sighup_changes_keys_and_certificate_for_new_sessions_only(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    expiry = "realtimed_tls_certificate_expiry_timestamp_seconds"
    certificate = make_certificate(tmp_path / "tls")
    keys = tmp_path / "keys"
    keys.write_text(key_line("alice", KEY) + "\n")
    settings = {"api_keys_file": str(keys), **certificate.settings}
    text = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
    secure = daemon.url.replace("ws:", "wss:")
    try:
        async with raw_client(daemon.url) as old:
            await reload(daemon, text, "reloaded; .*: tls_cert, tls_key, api_keys_file")
            with pytest.raises(Refused, match="API key is needed"):
                async with connect(secure, ca_file=str(certificate.ca)):
                    pass
            async with connect(secure, ca_file=str(certificate.ca), api_key=KEY):
                pass
            assert (await metric(daemon, expiry) or 0) > time.time()

            keys.write_text("alice:nonsense\n")
            await reload(daemon, text, "reload failed")
            certificate.key.write_bytes(make_certificate(tmp_path / "other").key.read_bytes())
            keys.write_text(key_line("bob", KEY + "2") + "\n")
            await reload(daemon, text, "reload failed.*does not fit")
            async with connect(secure, ca_file=str(certificate.ca), api_key=KEY):
                pass  # keys and certificate of the last good reload, both

            done = await old.utterance(SPEECH)
            assert done["text"].strip() == manifest()["digits"].text
    finally:
        await reload(daemon, "", "reloaded; ")
    assert await metric(daemon, expiry) is None
    async with raw_client(daemon.url):
        pass
