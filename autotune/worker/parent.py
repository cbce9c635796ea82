"""The fork server: a process that has paid for the imports and forks workers.

    python -P .../autotune/worker/__main__.py --forks SOCKET --preload MODULE,MODULE [--cpus 0,1]

It starts like a worker, with the environment and the CPUs of the configurations that its workers
will run. It imports the modules, and from then on only forks. It never runs a parallel region,
because a forked process does not have the threads of its parent.

SOCKET is the number of an inherited Unix socket (SOCK_SEQPACKET). Each message is one JSON object:

    {"fork": [argument, ...]} with three descriptors (requests, replies, log) -> {"pid": 12}
    {"end": 12, "grace_s": 1.0} -> {"code": 0, "killed": false}
    {"preload": [module, ...]} -> {}

`code` is negative for a signal, as in `subprocess`. A worker is reaped only on `end`, so the
kernel cannot give its process id to another process before. `end` also kills the worker's
process group, and with it the processes that the worker started.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import socket
import sys
from typing import Any

from autotune.shared.processes import kill_group

MAX_MESSAGE_BYTES = 1 << 16


def preload(modules: list[str]) -> None:
    """Import `modules`, except those that are not installed."""
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def serve_forks(descriptor: int) -> list[str]:
    """Answer messages until the socket closes, then exit the process.

    Returns only in a forked worker, with the command line arguments of that worker.
    """
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    gc.collect()
    gc.freeze()  # collections in a worker do not touch, and so copy, the memory shared with it
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
            for received in descriptors:
                os.close(received)
            reply: dict[str, Any] = {"pid": pid}
        elif "preload" in request:
            preload(request["preload"])
            gc.freeze()
            reply = {}
        else:
            reply = _end_worker(int(request["end"]), float(request["grace_s"]))
        channel.send(json.dumps(reply).encode())


def _become_worker(arguments: list[str], descriptors: list[int]) -> list[str]:
    """In the forked process: log to the third descriptor; the worker's arguments."""
    requests, replies, log = descriptors
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return [*arguments, "--requests", str(requests), "--replies", str(replies)]


def _end_worker(pid: int, grace_s: float) -> dict[str, Any]:
    """Give a worker `grace_s` seconds to exit by itself, kill its process group, and reap it."""
    exited = kill_group(pid, grace_s)
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "killed": not exited}
