"""One daemon's life under a service manager and behind a proxy: started, drained, gone.

The daemon is started by systemd's own socket activation, told of by a notify socket, and drained
under load behind Debian's haproxy while the daemon of the other tests takes over. The tests build
on each other, in this order.
"""

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from daemon_process import DaemonProcess
from raw_client import RawClient, raw_client
from speech import load_sample, manifest
from trio_websocket import ConnectionClosed, HandshakeError

HAPROXY_CONF = Path(__file__).parent.parent / "conf" / "haproxy.cfg"
SPREAD_S = 14.0
"""Half of it is longer than any utterance that is spoken here."""
DRAIN_S = 30
WATCHDOG_S = 3
NAMES = ("digits", "callsign", "espeak")


class NotifySocket:
    """What systemd would hear."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            lines = self._socket.recv(65_536).decode().splitlines()
            self.messages.append(dict(line.split("=", 1) for line in lines))

    def all_of(self, key: str) -> list[str]:
        return [message[key] for message in self.messages if key in message]


@dataclass
class Managed:
    """The daemon under test, started as a service."""

    process: DaemonProcess
    notify: NotifySocket
    port: int

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    notify = NotifySocket(tmp_path_factory.mktemp("systemd") / "notify")
    port = free_port()
    environment = {"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": str(WATCHDOG_S * 10**6)}
    activate = shutil.which("systemd-socket-activate")
    through: list[str] = []
    arguments = ["--limits.drain-spread-s", str(SPREAD_S), "--limits.drain-s", str(DRAIN_S)]
    if activate:
        # It starts the daemon with an environment of its own making.
        variables = [f"{key}={value}" for key, value in environment.items()]
        variables.append(f"PYTHONPATH={':'.join(filter(None, sys.path))}")
        passed = [word for variable in variables for word in ("-E", variable)]
        through = [activate, "-l", f"127.0.0.1:{port}", *passed]
    else:
        arguments += ["--port", str(port)]
    process = DaemonProcess(*arguments, environment=environment, through=through)
    if activate:
        process.wait_for("Listening on")
        socket.create_connection(("127.0.0.1", port)).close()
    try:
        yield Managed(process, notify, port)
    finally:
        process._process.kill()
        process.wait()


async def ask(daemon: DaemonProcess, path: str, **arguments: Any) -> tuple[int, str]:
    return await trio.to_thread.run_sync(lambda: daemon.get(path, **arguments))


async def test_while_loading_it_is_alive_but_not_ready_and_asks_for_time(managed: Managed) -> None:
    assert (await ask(managed.process, "/livez"))[0] == 200
    status, body = await ask(managed.process, "/readyz")
    assert status == 503
    assert '"status":"loading"' in body
    assert '"model is still loading' in body.replace("The ", "")
    assert "realtimed_ready 0.0" in (await ask(managed.process, "/metrics"))[1]
    assert managed.notify.all_of("READY") == []
    assert any(s.startswith("loading: ") for s in managed.notify.all_of("STATUS"))
    assert all(int(usec) >= 10**7 for usec in managed.notify.all_of("EXTEND_TIMEOUT_USEC"))


async def test_the_socket_it_was_handed_is_the_one_it_serves(managed: Managed) -> None:
    if not shutil.which("systemd-socket-activate"):
        pytest.skip("systemd-socket-activate is not installed")
    await trio.to_thread.run_sync(managed.process.wait_ready)
    assert managed.process.port == managed.port
    async with raw_client(managed.url) as client:
        done = await client.utterance(load_sample("callsign"))
    assert done["text"].strip() == manifest()["callsign"].text


async def test_ready_is_told_after_the_first_inference_and_the_watchdog_is_fed(
    managed: Managed,
) -> None:
    await trio.to_thread.run_sync(managed.process.wait_ready)
    notify = managed.notify
    with trio.fail_after(10):
        while len(notify.all_of("WATCHDOG")) < 2:
            await trio.sleep(0.05)
    kinds = [next(iter(message)) for message in notify.messages]
    statuses = notify.all_of("STATUS")
    assert kinds.index("READY") > statuses.index("loading: first inference")
    assert re.search(r"ready: 0 of \d+ sessions", statuses[-1])


async def test_a_reload_is_told_from_its_beginning_to_its_end(managed: Managed) -> None:
    await trio.to_thread.run_sync(managed.process.wait_ready)
    ready = len(managed.notify.all_of("READY"))
    managed.process.send_signal(signal.SIGHUP)
    with trio.fail_after(10):
        while len(managed.notify.all_of("READY")) == ready:
            await trio.sleep(0.02)
    [monotonic] = managed.notify.all_of("MONOTONIC_USEC")
    assert 0 < int(monotonic) <= time.monotonic_ns() // 1_000
    kinds = [next(iter(message)) for message in managed.notify.messages]
    assert kinds.index("RELOADING") < len(kinds) - 1 - kinds[::-1].index("READY")


@pytest.fixture
def proxy(managed: Managed, daemon: DaemonProcess, tmp_path: Path) -> Iterator[str]:
    """The address of haproxy with conf/haproxy.cfg, whose own addresses are replaced."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed")
    port = free_port()

    def admin_port(process: DaemonProcess) -> str:
        return process.admin.rpartition(":")[2]

    text = HAPROXY_CONF.read_text()
    for before, after in {
        "bind :8000": f"bind 127.0.0.1:{port}",
        "127.0.0.1:8001": f"127.0.0.1:{managed.port}",
        "port 8011": f"port {admin_port(managed.process)}",
        "127.0.0.1:8002": f"127.0.0.1:{daemon.port}",
        "port 8012": f"port {admin_port(daemon)}",
    }.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    conf = tmp_path / "haproxy.cfg"
    conf.write_text(text)
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen([program, "-db", "-f", str(conf)], stdout=log, stderr=log)
        try:
            yield f"ws://127.0.0.1:{port}"
            assert process.poll() is None, (tmp_path / "log").read_text()
        finally:
            process.terminate()
            process.wait(10)


async def closed(client: RawClient) -> int:
    """Read until the close; its code."""
    try:
        while True:
            await client.receive()
    except ConnectionClosed as error:
        assert error.reason is not None
        return int(error.reason.code)


async def connected(url: str) -> None:
    """Wait until the proxy listens and knows a daemon that is ready."""
    with trio.fail_after(15):
        while True:
            try:
                async with raw_client(url):
                    return
            except (HandshakeError, OSError, ConnectionClosed):
                await trio.sleep(0.05)


async def test_draining_one_of_two_daemons_behind_haproxy_costs_no_word(
    managed: Managed, daemon: DaemonProcess, proxy: str
) -> None:
    await trio.to_thread.run_sync(managed.process.wait_ready)
    await connected(proxy)
    heard: list[tuple[str, str]] = []
    closes: list[int] = []
    stop = False
    speaking = 0

    async def speak(name: str) -> None:
        """A client that says one sample after the other, and comes back when told to go."""
        nonlocal speaking
        while not stop:
            async with raw_client(proxy) as client:
                speaking += 1
                try:
                    while not stop:
                        done = await client.utterance(load_sample(name), paced=True)
                        heard.append((name, done["text"].strip()))
                except* ConnectionClosed as group:
                    # What it had begun to say just then has no final: it says that again.
                    [error] = group.exceptions
                    assert isinstance(error, ConnectionClosed)
                    assert error.reason is not None
                    closes.append(error.reason.code)
                finally:
                    speaking -= 1

    async def wait_idle(client: RawClient, warned: list[dict[str, Any]]) -> None:
        event = await client.receive()
        warned.append(event)
        closes.append(await closed(client))

    warned: list[dict[str, Any]] = []
    async with trio.open_nursery() as nursery:  # ends when all have said what they began
        for name in NAMES * 2:
            nursery.start_soon(speak, name)
        async with raw_client(managed.url) as idle, raw_client(managed.url) as other:
            for client in (idle, other):
                await client.send(type="session.update", model="", include=["warnings"])
            with trio.fail_after(20):
                while not (speaking == len(NAMES) * 2 and heard):
                    await trio.sleep(0.05)
            status, body = await ask(managed.process, "/drain", method="POST")
            began = trio.current_time()
            assert (status, '"status":"draining"' in body) == (202, True)
            status, body = await ask(managed.process, "/readyz")
            assert (status, '"status":"draining"' in body) == (503, True)
            with trio.fail_after(SPREAD_S + 5):
                async with trio.open_nursery() as waiting:  # ends when both have been closed
                    waiting.start_soon(wait_idle, idle, warned)
                    waiting.start_soon(wait_idle, other, warned)
            assert trio.current_time() - began < SPREAD_S / 2, "who is idle goes first"
        assert await trio.to_thread.run_sync(managed.process.wait) == 0
        already = len(heard)
        with trio.fail_after(30):
            while len(heard) < already + len(NAMES):
                await trio.sleep(0.05)
        stop = True
    assert [event["code"] for event in warned] == ["draining"] * 2
    assert all(event["deadline_s"] == SPREAD_S for event in warned)
    assert set(closes) == {1001}
    assert len(closes) >= 2 + 1, "some of the speakers were on the drained daemon"
    assert [text for name, text in heard if text != manifest()[name].text] == []


async def test_the_end_was_told_with_the_time_that_it_may_take(managed: Managed) -> None:
    if managed.process._process.poll() is None:
        await ask(managed.process, "/drain", method="POST")
        assert await trio.to_thread.run_sync(managed.process.wait) == 0
    messages = [message for message in managed.notify.messages if "STOPPING" in message]
    assert len(messages) == 1
    assert int(messages[0]["EXTEND_TIMEOUT_USEC"]) > DRAIN_S * 10**6
    assert "draining" in messages[0]["STATUS"]
