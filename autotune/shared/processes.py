"""End a child process together with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import time

POLL_S = 0.005


def kill_group(pid: int, grace_s: float) -> bool:
    """Give the child `pid` up to `grace_s` seconds to exit, then kill its process group.

    Returns whether it exited by itself. The child is not reaped here. Until the caller reaps it,
    the kernel gives its id, which is also its group's, to no other process.
    """
    deadline = time.monotonic() + grace_s
    without_reaping = os.WEXITED | os.WNOWAIT | os.WNOHANG
    try:
        while (exited := os.waitid(os.P_PID, pid, without_reaping)) is None:
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
    except ChildProcessError:  # reaped already: whoever has its id now is somebody else
        return True
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # just forked, and not yet the leader of its group
    return exited is not None
