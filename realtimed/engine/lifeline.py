"""No engine process outlives the daemon, whatever killed it.

Each engine process asks the kernel for SIGKILL when its parent goes (prctl(2),
PR_SET_PDEATHSIG), which works for SIGKILL of the daemon too. The call travels in the pickled
configuration (`Lifeline`), since vLLM's plugins are loaded only after an engine process has
shaken hands with a daemon that may be dead by then. Two things to know:

* The kernel means the parent *thread*. The daemon therefore starts the engine on a thread that
  lives exactly as long as the engine (`core.Engine`).
* The parent may have died before the request was made; a changed parent id tells.

It also leaves the terminal's process group: Ctrl-C must reach the daemon, which drains, and
not the engine under it.
"""

import ctypes
import os
import signal

PLUGIN_NAME = "realtimed"
PARENT_VARIABLE = "_REALTIMED_PARENT"
"""Names the process that whoever inherits this environment must not outlive."""

_PR_SET_PDEATHSIG = 1


def be_parent() -> None:
    """Processes started from here on are to die with this one."""
    os.environ[PARENT_VARIABLE] = str(os.getpid())


def tie_to_parent() -> None:
    """In an engine process: die with the parent. Anywhere else: nothing. Idempotent."""
    parent = os.environ.get(PARENT_VARIABLE, "")
    if not parent.isdigit() or int(parent) == os.getpid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):
        os._exit(1)
    be_parent()
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)


class Lifeline(str):
    """Ties the process that unpickles it to its parent.

    A string, because it travels in vLLM's `additional_config`, whose values are hashed as JSON.
    """

    __slots__ = ()

    def __new__(cls) -> "Lifeline":
        tie_to_parent()
        return super().__new__(cls, "tied")

    def __reduce__(self) -> tuple[type["Lifeline"], tuple[()]]:
        return Lifeline, ()
