"""No engine process outlives the daemon, whatever killed it.

vLLM runs the `vllm.general_plugins` entry points in each of its processes, soon after start.
There, this one asks the kernel for SIGKILL when the parent goes (prctl(2), PR_SET_PDEATHSIG),
which works for SIGKILL of the daemon too. Two things to know:

* The kernel means the parent *thread*. The daemon therefore starts the engine on a thread that
  lives exactly as long as the engine (`core.Engine`).
* The parent may have died before the request was made; a changed parent id tells.

It also leaves the terminal's process group: Ctrl-C must reach the daemon, which drains, and
not the engine under it.
"""

import ctypes
import multiprocessing
import os
import signal

PLUGIN_NAME = "realtimed"
DAEMON_VARIABLE = "REALTIMED_ENGINE_PARENT"
"""Set by the daemon in its own environment; the plugin does nothing where it is absent."""

_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Die with the parent process. Called by vLLM in each engine process; idempotent."""
    parent = multiprocessing.parent_process()
    if parent is None or DAEMON_VARIABLE not in os.environ:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent.pid:
        os._exit(1)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
