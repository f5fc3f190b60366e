"""Shared fixtures: one real daemon on the bundled model serves most of the tests."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from daemon_process import DaemonProcess
from secure_daemon import SecureDaemon, start_secure_daemon

# Each run tries the same examples. `--hypothesis-profile explore` looks for others.
settings.register_profile("explore", deadline=None)
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# Programs under test are interrupted; where SIGINT is ignored, as in a shell's background jobs,
# they would inherit that. What has a handler is back at its default in them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def session_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A ready daemon on the bundled model, with an empty configuration file."""
    config_file = tmp_path_factory.mktemp("daemon") / "realtimed.toml"
    config_file.touch()
    process = DaemonProcess(config_file=config_file)
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0, process.log


@pytest.fixture
def daemon(session_daemon: DaemonProcess) -> DaemonProcess:
    """The same, by the name that most tests know it by."""
    return session_daemon


@pytest.fixture(scope="session")
def secure_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureDaemon]:
    """A ready daemon with TLS and keys."""
    secure = start_secure_daemon(tmp_path_factory.mktemp("secure"))
    try:
        yield secure
    finally:
        assert secure.process.stop() == 0, secure.process.log
