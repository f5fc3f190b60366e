"""A killed engine leaves nothing behind: workers, shared memory and sockets of real processes."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon_process import alive, descendants, wait_gone

from realtimed.engine.processes import EngineProcesses, SocketDirectory

# An engine core that has started a worker; both hold its shared memory.
_CORE = """
import subprocess, sys
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")  # the daemon's tracker would have it
worker = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); "
    "time.sleep(600)"], stdout=subprocess.PIPE)
worker.stdout.readline()
print(memory.name, flush=True)
sys.stdin.read()
"""


@contextmanager
def core() -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A running made-up core and its shared memory."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    name = process.stdout.readline().decode().strip()
    try:
        yield process, Path("/dev/shm", name)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def test_a_killed_core_leaves_no_worker_and_no_shared_memory() -> None:
    with core() as (process, memory):
        (worker,) = (pid for pid in descendants(process.pid) if "time.sleep" in _command(pid))
        belongings = EngineProcesses([process.pid])
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert memory.exists()
        assert alive(worker)
        belongings.end(0.1)
        assert wait_gone([worker], 5) == []
        assert not memory.exists()
        belongings.end(0.1)  # a second time does nothing


def test_descriptors_beyond_what_select_can_do_are_no_matter() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1_100)]
    try:
        with core() as (process, memory):
            belongings = EngineProcesses([process.pid])
            process.send_signal(signal.SIGKILL)
            belongings.end(0.1)
            assert not memory.exists()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_core_that_is_gone_already_has_no_belongings() -> None:
    with core() as (process, memory):
        process.kill()
        process.wait()
        EngineProcesses([process.pid]).end(0.1)
        memory.unlink()


@pytest.mark.parametrize("chosen", [None, "here"])
def test_sockets_go_with_their_directory(
    chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen is None:
        monkeypatch.delenv("VLLM_RPC_BASE_PATH", raising=False)
    else:
        monkeypatch.setenv("VLLM_RPC_BASE_PATH", str(tmp_path))
    directory = SocketDirectory()
    path = Path(os.environ["VLLM_RPC_BASE_PATH"])
    assert path.stat().st_mode & 0o777 == 0o700
    assert chosen is None or path.parent == tmp_path
    (path / "socket").touch()
    directory.remove()
    assert not path.exists()
    assert os.environ.get("VLLM_RPC_BASE_PATH") == (None if chosen is None else str(tmp_path))


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
