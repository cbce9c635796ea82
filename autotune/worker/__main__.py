"""Worker process: requests in, replies out, one JSON object a line.

    python -P .../autotune/worker/__main__.py --requests IN --replies OUT --workdir DIR
        [--cpus 0,1] [--together DIR --instance 0 --instances 2] [--then DIR]

With `--forks SOCKET --preload MODULES` instead, the process is a fork server: it forks such
workers (`autotune.worker.parent`).

IN and OUT are each a file, or the number of an inherited file descriptor. A request is
`{"id": 1, "op": "open", "args": {...}}`. Its reply is `{"id": 1, "ok": {...}}` or
`{"id": 1, "failure": {"kind": ..., "detail": ...}}`. Libraries and people may write to standard
output and standard error; nobody parses them.

When the requests end, the process ends. With `--then DIR` it first answers the requests of a
second pair of pipes, `requests` and `replies` in DIR. It also ends when its parent does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any

Handlers = dict[str, Callable[..., Any]]


def _make_package_importable() -> None:
    """Import `autotune` from this file's own tree, without adding anything to `sys.path`.

    The interpreter may have libraries of its own. The folder that holds `autotune` is often a
    site-packages folder, and on `sys.path` its libraries would shadow those of the interpreter.
    """
    import importlib.util

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location(
        "autotune", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["autotune"] = module
    spec.loader.exec_module(module)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the process `parent` ends; exit if it already has."""
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(1)


def _pin_to_cpus(cpus: str) -> str | None:
    """Restrict this process to `cpus` ("0,1"); the kernel's reason if that is refused.

    Must run before any library counts the CPUs.
    """
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    except OSError as error:
        return f"the kernel refuses the CPUs {cpus}: {error.strerror}"
    return None


def _open_stream(place: str, mode: str) -> IO[str]:
    """Open a file by its path, or an inherited descriptor by its number."""
    if place.isdigit():
        os.set_inheritable(int(place), False)
        return os.fdopen(int(place), mode, encoding="utf-8")
    return open(place, mode, encoding="utf-8")


def _read_requests(stream: IO[str]) -> Iterator[dict[str, Any]]:
    for line in stream:
        if line.strip():
            yield json.loads(line)


def answer(handlers: Handlers, request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request. Every exception becomes a failure with the exception's message."""
    from autotune.shared.errors import TrialFailure, describe, is_out_of_memory, shorten
    from autotune.shared.records import to_jsonable

    reply: dict[str, Any] = {"id": request["id"]}
    try:
        reply["ok"] = to_jsonable(handlers[request["op"]](**request["args"]))
    except TrialFailure as failure:
        traceback.print_exc()
        reply["failure"] = {"kind": failure.kind, "detail": failure.detail}
    except Exception as error:
        traceback.print_exc()
        kind = "out-of-memory" if is_out_of_memory(error) else "crash"
        reply["failure"] = {"kind": kind, "detail": shorten(describe(error))}
    return reply


def _answer_requests(
    handlers: Handlers, pin_refusal: str | None, requests: IO[str], replies: IO[str]
) -> bool:
    """Answer every request until the stream ends; whether any failed.

    With `pin_refusal`, every request fails as `unsupported`, with that as the detail.
    """
    any_failed = False
    for request in _read_requests(requests):
        if pin_refusal is not None:
            failure = {"kind": "unsupported", "detail": pin_refusal}
            reply: dict[str, Any] = {"id": request["id"], "failure": failure}
        else:
            reply = answer(handlers, request)
        any_failed = any_failed or "failure" in reply
        replies.write(json.dumps(reply, allow_nan=False, separators=(",", ":")) + "\n")
        replies.flush()
    return any_failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="autotune-worker", description=__doc__)
    parser.add_argument("--requests", help="file or descriptor to read requests from")
    parser.add_argument("--replies", help="file or descriptor to write replies to")
    parser.add_argument("--then", help="folder with a second pair of pipes, answered afterwards")
    parser.add_argument("--workdir", help="folder for the files that replies name")
    parser.add_argument("--cpus", help="CPUs this process may use, e.g. 0,1")
    parser.add_argument("--parent", type=int, help="end when the process with this id ends")
    parser.add_argument("--together", help="folder through which the instances synchronise")
    parser.add_argument("--instance", type=int, default=0, help="number of this instance, from 0")
    parser.add_argument("--instances", type=int, default=1, help="number of instances")
    parser.add_argument("--forks", type=int, help="descriptor of the socket that asks for workers")
    parser.add_argument("--preload", default="", help="modules to import before forking")
    return parser


def main(argv: list[str]) -> int:
    """Run a worker, or a fork server and its workers. Returns 1 if any request failed, else 0."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.parent:
        _die_with_parent(options.parent)
    pin_refusal = _pin_to_cpus(options.cpus) if options.cpus else None

    forked = options.forks is not None
    if forked:
        from autotune.worker.parent import preload, serve_forks

        fork_server = os.getpid()
        preload([module for module in options.preload.split(",") if module])
        options = parser.parse_args(serve_forks(options.forks))  # from here on a forked worker
        _die_with_parent(fork_server)
    if not (options.requests and options.replies and options.workdir):
        parser.error("--requests, --replies and --workdir are needed")

    streams = _open_stream(options.requests, "r"), _open_stream(options.replies, "w")
    from autotune.worker.group import Group
    from autotune.worker.operations import Operations

    group = Group(folder=options.together, index=options.instance, count=options.instances)
    handlers = Operations(workdir=options.workdir, group=group, forked=forked).handlers()
    any_failed = _answer_requests(handlers, pin_refusal, *streams)
    if options.then and not any_failed:  # a failed instance exits: its siblings wait for it
        requests, replies = (os.path.join(options.then, name) for name in ("requests", "replies"))
        streams = _open_stream(requests, "r"), _open_stream(replies, "w")
        any_failed = _answer_requests(handlers, pin_refusal, *streams)
    return 1 if any_failed else 0


if __name__ == "__main__":
    if not __package__:
        _make_package_importable()
    sys.exit(main(sys.argv[1:]))
