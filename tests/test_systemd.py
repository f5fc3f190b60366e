"""sd_notify and socket activation without a daemon, and the units as systemd itself judges them."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from realtimed.ops.systemd import ServiceManager, inherited_sockets

ROOT = Path(__file__).parent.parent
UNITS = ("realtimed.service", "realtimed@.service", "realtimed.socket")


@pytest.fixture(params=["path", "abstract"])
def notify(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address as NOTIFY_SOCKET has it, and who listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        if request.param == "path":
            address = str(tmp_path / "notify")
            listener.bind(address)
        else:
            address = f"@realtimed-test-{os.getpid()}"
            listener.bind("\0" + address[1:])
        yield address, listener


def test_each_state_is_one_datagram(notify: tuple[str, socket.socket]) -> None:
    address, listener = notify
    environ = {"NOTIFY_SOCKET": address, "HOME": "/"}
    manager = ServiceManager.from_environment(environ)
    assert environ == {"HOME": "/"}, "engine processes must not speak for the daemon"
    manager.loading("weights", 60)
    assert listener.recv(4096) == b"STATUS=loading: weights\nEXTEND_TIMEOUT_USEC=60000000"
    manager.ready("ready: 0 sessions")
    assert listener.recv(4096) == b"READY=1\nSTATUS=ready: 0 sessions"
    manager.reloading()
    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d{7,}", listener.recv(4096))
    manager.stopping(40)
    assert listener.recv(4096).startswith(b"STOPPING=1\nSTATUS=draining")


async def test_the_watchdog_gets_no_beat_while_the_engine_answers_nothing(
    notify: tuple[str, socket.socket],
) -> None:
    address, listener = notify
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())}
    manager = ServiceManager.from_environment(environ)
    alive = True
    async with trio.open_nursery() as nursery:  # ends by the cancel below
        nursery.start_soon(manager.watch, lambda: alive, lambda: "fine")
        assert b"WATCHDOG=1" in await trio.to_thread.run_sync(listener.recv, 4096)
        alive = False
        with trio.fail_after(5):
            while b"WATCHDOG" in await trio.to_thread.run_sync(listener.recv, 4096):
                pass
        for _ in range(3):
            assert await trio.to_thread.run_sync(listener.recv, 4096) == b"STATUS=fine"
        nursery.cancel_scope.cancel()
    assert environ == {}


def test_without_a_manager_nothing_is_told_and_a_deaf_one_hurts_nobody(tmp_path: Path) -> None:
    ServiceManager.from_environment({}).ready("nobody listens")
    ServiceManager(str(tmp_path / "nothing")).ready("nobody is there")


def test_a_watchdog_that_is_another_processs_is_not_ours() -> None:
    environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert ServiceManager.from_environment(environ)._watchdog_s is None


def test_sockets_of_another_process_are_not_taken() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert inherited_sockets(environ) == []
    assert environ == {}


def test_a_socket_that_does_not_listen_is_a_start_error_in_one_line() -> None:
    program = (
        "import os, socket, sys; s = socket.socket(); os.dup2(s.fileno(), 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
        "from realtimed.cli import main; sys.exit(main(['serve']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert run.stderr.startswith("realtimed: Descriptor 3 from the service manager is no listening")
    assert run.stderr.count("\n") == 1


# --- units -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as `make install-service` puts them."""
    root = tmp_path_factory.mktemp("root")
    command = ["make", "-s", "install-service", f"DESTDIR={root}", f"BINDIR={root}/bin"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    program = root / "bin" / "realtimed"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert (root / "etc/realtimed/realtimed.toml").is_file()
    return root / "etc/systemd/system"


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(analyze: str, installed: Path, unit: str) -> None:
    found = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True)
    version = int(found.stdout.split()[1])
    check = subprocess.run(
        [analyze, "verify", f"./{unit}"], cwd=installed, capture_output=True, text=True
    )
    complaints = (check.stdout + check.stderr).splitlines()
    if version < 253:
        # The line before it is what an older systemd goes by.
        complaints = [
            c for c in complaints if not c.endswith("service type, ignoring: notify-reload")
        ]
    assert complaints == []


@pytest.mark.parametrize("unit", UNITS[:2])
def test_little_is_exposed(analyze: str, installed: Path, unit: str) -> None:
    command = [analyze, "security", "--offline=true", "--no-pager", "--threshold=30", f"./{unit}"]
    check = subprocess.run(command, cwd=installed, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    exposure = float(re.search(r"exposure level for \S+: ([\d.]+)", check.stdout)[1])  # type: ignore[index]
    assert exposure <= 3.0
    manual = (ROOT / "docs" / "operations.md").read_text()
    assert f"says {exposure}" in manual
    for name in re.findall(r"^✗ (\S+)", check.stdout, re.MULTILINE):
        assert f"`{name}`" in manual.replace("\\|", "|"), "what is left open is not explained"


def test_the_template_differs_from_the_service_only_in_what_it_must() -> None:
    service, template = ((ROOT / "conf" / unit).read_text().splitlines() for unit in UNITS[:2])
    extra = [line for line in template if line not in service and not line.startswith("#")]
    missing = [line for line in service if line not in template and not line.startswith("#")]
    assert [line.partition("=")[0] for line in extra] == ["Description", "Environment"]
    assert [line.partition("=")[0] for line in missing] == ["Description"]
    assert "CUDA_VISIBLE_DEVICES=%i REALTIMED_PORT=800%i REALTIMED_ADMIN_PORT=801%i" in extra[1]
