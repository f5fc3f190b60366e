"""What an engine consists of on this machine, so that a lost one leaves nothing behind.

An engine that is killed cleans up nothing itself. Its worker processes are tied to it (`lifeline`),
but they may take a while to give back the accelerator's memory, which the next engine needs. Its
shared memory would stay until the daemon ends, and its sockets in the file system for ever.
"""

import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

_SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
_SHARED_MEMORY = "/dev/shm/psm_"
"""How Python names what it creates for `multiprocessing.shared_memory`."""


class SocketDirectory:
    """A private directory for the sockets of one engine, which vLLM finds by the environment."""

    def __init__(self) -> None:
        """Make the directory, within the one that the operator has chosen, if any."""
        self._chosen = os.environ.get(_SOCKETS_VARIABLE)
        self._path = tempfile.mkdtemp(prefix="realtimed-", dir=self._chosen)
        os.environ[_SOCKETS_VARIABLE] = self._path

    def remove(self) -> None:
        """Remove it with all that is in it, and leave the environment as it was."""
        if self._chosen is None:
            os.environ.pop(_SOCKETS_VARIABLE, None)
        else:
            os.environ[_SOCKETS_VARIABLE] = self._chosen
        shutil.rmtree(self._path, ignore_errors=True)


class EngineProcesses:
    """The processes of a running engine, and the shared memory that they made."""

    def __init__(self, roots: Iterable[int]) -> None:
        """`roots`: process ids of the engine cores; what they have started belongs to them."""
        pids = _with_descendants(roots)
        self._handles = [handle for pid in pids if (handle := _open(pid)) is not None]
        self._segments = sorted({name for pid in pids for name in _mapped(pid)})

    def end(self, timeout_s: float) -> None:
        """Wait for their end, each for `timeout_s` at most, then kill; free what they shared."""
        for handle in self._handles:
            if not _ends_within(handle, timeout_s):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        self._handles.clear()
        for name in self._segments:
            with suppress(FileNotFoundError):  # the usual case: it ended in good order
                segment = SharedMemory(name)
                segment.close()
                segment.unlink()
        self._segments.clear()


def _open(pid: int) -> int | None:
    """A descriptor of the process, which becomes readable when it ends; `None` if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _ends_within(handle: int, timeout_s: float) -> bool:
    waiting = select.poll()  # unlike select(2), for descriptors beyond 1,023 as well
    waiting.register(handle, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))


def _with_descendants(roots: Iterable[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = list(roots)
    for pid in found:  # grows while it is gone through
        found += children.get(pid, [])
    return found


def _parent(entry: Path) -> int | None:
    """The parent's process id, from /proc/PID/stat (proc_pid_stat(5)); `None` if it has ended."""
    try:
        return int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def _mapped(pid: int) -> set[str]:
    """Names of Python's shared memory that the process has mapped (proc_pid_maps(5))."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    paths = [line.split(maxsplit=5)[5] for line in lines if _SHARED_MEMORY in line]
    return {path.rpartition("/")[2] for path in paths if not path.endswith(" (deleted)")}
