"""A process that has paid for the imports, and forks workers from itself.

    python -P .../autotune/worker/__main__.py --forks SOCKET --preload MODULE,MODULE [--cpus 0,1]

It is started as a worker is, with the environment and the CPUs of the configurations it will
serve, imports, and then does nothing but fork: it never runs a parallel region, whose threads a
fork would lose. SOCKET is the number of an inherited Unix socket (SOCK_SEQPACKET), one JSON
object a message:

    {"fork": [argument, ...]} with three descriptors (requests, replies, log) -> {"pid": 12}
    {"end": 12, "grace_s": 1.0} -> {"code": 0, "killed": false}
    {"preload": [module, ...]} -> {}

`code` is negative for a signal, as in `subprocess`. A worker is not reaped before `end`, so that
its number is nobody else's till then; what it started dies with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any

MAX_MESSAGE_BYTES = 1 << 16
POLL_S = 0.005


def preload(modules: list[str]) -> None:
    """Import what is there of `modules`."""
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def serve(descriptor: int) -> list[str]:
    """Answer until the socket closes, then exit. In a forked worker, return its arguments."""
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    gc.collect()
    gc.freeze()  # what is shared with the workers stays shared
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 3)
        if not message:
            sys.exit(0)
        request = json.loads(message)
        if "fork" in request:
            pid = os.fork()
            if pid == 0:
                channel.close()
                return _become_worker(request["fork"], descriptors)
            for one in descriptors:
                os.close(one)
            reply: dict[str, Any] = {"pid": pid}
        elif "preload" in request:
            preload(request["preload"])
            gc.freeze()
            reply = {}
        else:
            reply = _end(int(request["end"]), float(request["grace_s"]))
        channel.send(json.dumps(reply).encode())


def _become_worker(arguments: list[str], descriptors: list[int]) -> list[str]:
    requests, replies, log = descriptors
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return [*arguments, "--requests", str(requests), "--replies", str(replies)]


def _end(pid: int, grace_s: float) -> dict[str, Any]:
    """Wait for a worker to exit by itself for `grace_s`, then kill its process group."""
    deadline = time.monotonic() + grace_s
    look = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while (exited := os.waitid(os.P_PID, pid, look)) is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # forked, and not yet the leader of a group
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "killed": exited is None}
