"""Shared fixtures: one real daemon on the bundled model serves most of the tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon_process import DaemonProcess


@pytest.fixture(scope="session")
def session_daemon() -> Iterator[DaemonProcess]:
    """A ready daemon on the bundled model."""
    process = DaemonProcess()
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0, process.log


@pytest.fixture
def daemon(session_daemon: DaemonProcess) -> DaemonProcess:
    """The same, by the name that most tests know it by."""
    return session_daemon
